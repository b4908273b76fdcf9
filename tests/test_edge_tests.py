"""Whether an edge matters: each condition against a run made by hand, and verdicts both ways."""

import numpy as np
import pytest
import torch

import interp
from interp import attention, edge_tests, patterns
from interp.ablation import zero_heads
from interp.edge_tests import ALL_HEADS, AS_IS, CONDITIONS, CONTROL, ONE_HEAD, SWAPPED, ZEROED
from interp.errors import InterpError, PromptError
from interp.metrics import logit_diff
from interp.predictions import answer_name
from interp.statistics import Interval, bootstrap_mean
from interp.tiny.language import held_out_examples

TOKENS = torch.tensor([[3, 7, 5, 2, 8, 11], [9, 1, 4, 4, 6, 2]])
OTHERS = torch.tensor([[3, 7, 6, 2, 8, 11], [9, 2, 4, 4, 6, 2]])
EDGE = (1, 2, [4, 5], [2, 1])
ANSWERS, WRONG = [3, 4], [5, 6]


@pytest.fixture(scope="module")
def found(random_gpt2):
    return edge_tests.outcomes(
        random_gpt2, TOKENS, EDGE, ANSWERS, WRONG, swapped=OTHERS, conditions=(*CONDITIONS, ZEROED)
    )


def test_each_condition_is_a_run_of_its_own(random_gpt2, found):
    metric = logit_diff(ANSWERS, WRONG)
    cut = [attention.knockout(random_gpt2, TOKENS, [e], metric)["cut"]
           for e in (EDGE, (None, None, *EDGE[2:]))]  # fmt: skip
    place = tuple(
        found[f"control_{name}"].values.tolist() for name in ("layer", "head", "query", "key")
    )
    control = attention.knockout(random_gpt2, TOKENS, [place], metric)["cut"]
    logits = {
        AS_IS: random_gpt2(TOKENS),
        SWAPPED: random_gpt2(OTHERS),
        ZEROED: random_gpt2.run_with_hooks(TOKENS, zero_heads([EDGE[:2]])),
    }
    expected = {name: metric(value).numpy() for name, value in logits.items()}
    expected |= {ONE_HEAD: cut[0], ALL_HEADS: cut[1], CONTROL: control}
    assert found["condition"].values.tolist() == [*CONDITIONS, ZEROED]
    for condition, values in expected.items():
        own = found["logit_diff"].sel(condition=condition)
        assert own.values == pytest.approx(np.asarray(values), abs=1e-5), condition
        change = np.asarray(values) - expected[AS_IS]
        effect = found["effect"].sel(condition=condition).values
        assert effect == pytest.approx(change, abs=1e-5), condition
    assert len({round(float(v), 4) for v in found["logit_diff"].isel(example=0)}) == 6


def test_probabilities_and_next_tokens_are_those_of_the_run(random_gpt2, found):
    probs = random_gpt2(TOKENS)[:, -1].softmax(dim=-1)
    as_is = found.sel(condition=AS_IS)
    assert as_is["probability"].values == pytest.approx(probs[[0, 1], ANSWERS].numpy(), abs=1e-6)
    assert as_is["next_probability"].values == pytest.approx(probs.max(dim=-1).values.numpy())
    names = [answer_name(random_gpt2, int(i)) for i in probs.argmax(dim=-1)]
    assert as_is["next_token"].values.tolist() == names


def test_the_control_edge_is_named_with_its_weight(random_gpt2, found):
    for example in range(2):
        ds = found.isel(example=example)
        layer, head, query, key = (
            int(ds[f"control_{name}"]) for name in ("layer", "head", "query", "key")
        )
        pattern = patterns.of_head(random_gpt2, TOKENS[[example]], layer, head)
        assert float(ds.control_weight) == pytest.approx(float(pattern[query, key]), abs=1e-6)
        own = patterns.of_head(random_gpt2, TOKENS[[example]], *EDGE[:2])
        at = EDGE[2][example], EDGE[3][example]
        assert float(ds.original_weight) == pytest.approx(float(own[at]), abs=1e-6)


def test_what_cannot_be_tested_is_refused(random_gpt2):
    def ask(tokens=TOKENS, edge=EDGE, **options):
        edge_tests.outcomes(random_gpt2, tokens, edge, ANSWERS, WRONG, **options)

    with pytest.raises(PromptError, match="needs the swapped prompts"):
        ask()
    with pytest.raises(PromptError, match=r"Conditions are some of as is, .* got \['cut'\]"):
        ask(conditions=["cut"])
    with pytest.raises(PromptError, match=r"got \[\]"):
        ask(conditions=[])
    with pytest.raises(PromptError, match="never looks ahead"):
        ask(edge=(0, 0, 1, 2), conditions=[ONE_HEAD, CONTROL])
    with pytest.raises(InterpError, match="without any key"):
        ask(edge=(0, 0, 0, 0), conditions=[ONE_HEAD])
    with pytest.raises(PromptError, match="too short to hold a control edge"):
        ask(tokens=TOKENS[:, :3], edge=(0, 0, 2, 1), conditions=[CONTROL])


@pytest.fixture(scope="module")
def tiny():
    return interp.load()


@pytest.fixture(scope="module")
def examples():
    return held_out_examples("colour_binding_1", 7, 0)


def test_batches_of_examples_are_what_each_gives_alone(tiny, examples, monkeypatch):
    monkeypatch.setattr(edge_tests, "BATCH", 3)
    together = edge_tests.over_examples(tiny, examples, 1, 2)
    assert together.attrs["partial"] == 0
    assert together.sizes["example"] == 7
    for index, example in enumerate(examples):
        query, key = (
            tiny.find_word(example.text, word, occurrence=0)
            for word in (example.query_word, example.key_word)
        )
        alone = edge_tests.outcomes(
            tiny, example.text, (1, 2, query, key),
            *edge_tests.answer_ids(tiny, [example]), swapped=example.swapped_text,
        )  # fmt: skip
        own = together.isel(example=index)
        for name in ("logit_diff", "probability", "next_probability"):
            assert own[name].values == pytest.approx(alone[name].isel(example=0).values, abs=1e-4)
        assert int(own.control_query) == int(alone.control_query[0])


def test_stopping_early_keeps_what_is_finished_and_says_so(tiny, examples, monkeypatch):
    monkeypatch.setattr(edge_tests, "BATCH", 3)
    seen = []

    def first(steps, description):
        seen.append((len(steps), description))
        return steps[:1]

    partial = edge_tests.over_examples(tiny, examples, 1, 2, progress=first)
    assert seen == [(3, "7 generated sentences")]
    assert (partial.sizes["example"], partial.attrs["partial"]) == (3, 1)
    with pytest.raises(PromptError, match="stopped before the first"):
        edge_tests.over_examples(tiny, examples, 1, 2, progress=lambda steps, _: steps[:0])
    with pytest.raises(PromptError, match="no examples"):
        edge_tests.over_examples(tiny, [], 1, 2)


def test_means_have_the_intervals_of_their_values(tiny, examples):
    found = edge_tests.over_examples(tiny, examples, 1, 2, conditions=[AS_IS, ONE_HEAD])
    table = edge_tests.summary(found, seed=3)
    values = found["probability"].sel(condition=ONE_HEAD).values
    row = table[(table["measure"] == "probability") & (table["condition"] == ONE_HEAD)].iloc[0]
    assert tuple(row[["mean", "low", "high"]]) == bootstrap_mean(values, seed=3)
    assert len(table) == 4
    difference = found["logit_diff"].values
    expected = bootstrap_mean(difference[1] - difference[0], seed=3)
    assert edge_tests.effect(found, ONE_HEAD, seed=3) == expected


def test_swaps_are_runs_of_the_changed_prompt(random_gpt2):
    table = edge_tests.swaps(random_gpt2, TOKENS[:1], (1, 2, 4, 2), [6, 9])
    assert table["token_id"].to_list() == [5, 6, 9]
    assert table["token"].to_list() == [random_gpt2.tokenizer.piece(i) for i in (5, 6, 9)]
    for row in table.itertuples():
        changed = TOKENS[:1].clone()
        changed[0, 2] = row.token_id
        weight = float(patterns.of_head(random_gpt2, changed, 1, 2)[4, 2])
        assert row.weight == pytest.approx(weight, abs=1e-6)
        best = random_gpt2(changed)[0, -1].softmax(dim=-1).max(dim=-1)
        assert row.next_token == answer_name(random_gpt2, int(best.indices))
        assert row.next_probability == pytest.approx(float(best.values), abs=1e-6)
    with pytest.raises(PromptError, match="one prompt, got 2"):
        edge_tests.swaps(random_gpt2, TOKENS, (1, 2, 4, 2), [6])
    with pytest.raises(PromptError, match="never looks ahead"):
        edge_tests.swaps(random_gpt2, TOKENS[:1], (1, 2, 2, 4), [6])
    with pytest.raises(PromptError, match="outside 0-5"):
        edge_tests.swaps(random_gpt2, TOKENS[:1], (1, 2, 6, 4), [6])


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        ((5.0, 4.9, 4.9, -5.0, 4.9), "the effect is nil"),
        ((-1.0, -1.0, -1.0, 1.0, -1.0), "does not prefer the answer"),
        ((5.0, 1.0, 0.5, -5.0, 4.9), "The edge matters"),
        ((5.0, 4.9, 0.5, -5.0, 4.9), "other heads carry the same information"),
        ((5.0, 1.0, 0.5, 2.0, 4.9), "does not turn the answer"),
        ((5.0, 6.0, 7.0, 2.0, 4.9), "works against the answer"),
    ],
)
def test_the_verdict_follows_the_numbers(difference, expected):
    numbers: dict[str, float] = dict(zip(CONDITIONS, difference, strict=True))
    assert expected in edge_tests.verdict(numbers)


def test_the_verdict_does_without_swap_and_control():
    said = edge_tests.verdict({AS_IS: 5.0, ONE_HEAD: 1.0, ALL_HEADS: 0.5})
    assert said.endswith("cutting it in this head alone takes 80%.")


@pytest.mark.parametrize(
    ("one", "everywhere", "expected"),
    [
        (Interval(-3, -4, -2), Interval(-3, -4, -2), "it holds"),
        (Interval(-0.1, -0.4, 0.2), Interval(-3, -4, -2), "other heads"),
        (Interval(-0.1, -0.4, 0.2), Interval(-0.2, -0.4, 0.1), "not enough"),
        (Interval(-0.5, -0.8, -0.3), Interval(-0.5, -0.8, -0.3), "not enough"),
    ],
)
def test_what_holds_in_general_is_clear_of_zero_and_of_the_control(one, everywhere, expected):
    control = Interval(-0.5, -0.6, -0.4)
    assert expected in edge_tests.general_verdict(one, everywhere, control)
