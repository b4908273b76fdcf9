"""The embedded model's colour circuit: what the study finds, and what it says if it finds none."""

import pandas as pd
import pytest
import torch

import interp
from analyses import _binding_search as searching
from analyses import _binding_tests as testing
from analyses import colour_binding
from interp.errors import PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.saving import save_huggingface
from interp.report import Report

FOUND = ["L1H1", "L1H2", "L2H3", "L3H1", "L3H3"]
N = 12
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def report() -> Report:
    return colour_binding.run(n=N, controls=4)


@pytest.fixture(scope="module")
def search() -> searching.Search:
    model = interp.load()
    pairs = interp.prompts.colour_binding(model, N, n_pairs=2)
    return searching.Search.of(model, pairs, 0.03, 0)


def table(report: Report, title: str) -> pd.DataFrame:
    (found,) = [part.table for part in report.sections if part.title == title]
    assert found is not None
    return found


def reading(report: Report, title: str) -> str:
    (found,) = [part.reading for part in report.sections if part.title == title]
    return "\n".join(found)


def test_the_colour_moves_from_its_word_to_the_thing_and_the_question_to_the_end(report):
    where = table(report, "Where is each fact, at each depth?").set_index(["exchanged", "layer"])
    assert where.loc[("colours", 0), "colour"] == pytest.approx(1, abs=0.01)
    assert where.loc[("colours", 1), "colour"] > 0.95
    assert where.loc[("colours", 2), "thing"] > 0.8
    assert where.loc[("things", 0), ["thing", "other_thing"]].min() > 0.3
    assert where.loc[("question", 1), "asked"] > 0.95
    assert where.loc[("question", 2), "END"] > 0.95
    assert "before layer 0 100% at colour" in reading(report, "Where is each fact, at each depth?")


def test_five_heads_are_found_each_with_its_facts(report):
    heads = table(report, "Which heads carry it?")
    found = heads[heads["found"]]
    assert sorted(set(found["head"])) == FOUND
    assert set(found.loc[found["head"] == "L1H2", "exchanged"]) == {"colours"}
    assert set(found.loc[found["head"] == "L1H1", "exchanged"]) == {"things", "question"}
    assert set(found.loc[found["head"] == "L3H1", "exchanged"]) == {"colours", "things", "question"}
    assert heads.loc[~heads["found"], "mean"].min() > -0.02
    assert len(heads) == 3 * 16


def test_a_heads_share_is_that_of_a_plain_patched_run(report, search):
    model, pairs = search.model, search.pairs
    _, other = model.run_with_cache(pairs.corrupted, names_filter="blocks.1.attn.hook_z")

    def patch(z: torch.Tensor, hook: object) -> None:
        z[:, :, 2] = other["z", 1][:, :, 2]

    run = [
        (pairs.clean, []),
        (pairs.corrupted, []),
        (pairs.clean, [("blocks.1.attn.hook_z", patch)]),
    ]
    clean, corrupted, patched = (
        search.metric(model.run_with_hooks(prompts, hooks, positions="last")).mean()
        for prompts, hooks in run
    )
    rows = table(report, "Which heads carry it?").set_index(["exchanged", "head"])
    expected = float((patched - clean) / (clean - corrupted))
    assert rows.loc[("colours", "L1H2"), "mean"] == pytest.approx(expected, abs=TOLERANCE)


def test_edges_that_matter_are_told_from_edges_that_are_only_heavy(report):
    edges = table(report, "Where do they look, and does it matter?").set_index(["edge", "head"])
    needed = edges[edges["needed"]].index
    assert {("thing → colour", "L1H2"), ("END → asked", "L1H1"), ("END → thing", "L3H1")} <= {
        *needed
    }
    idle = edges.loc[("asked → thing", "L3H1")]
    assert idle.weight > 0.3
    assert idle["mean"] == 0
    assert not idle.needed


def test_the_last_head_hears_of_each_fact_through_another_input(report):
    inputs = table(report, "Who reads what, from whom?")
    strong = inputs[(inputs["reader"] == "L3H1") & (inputs["mean"] < -0.5)]
    assert dict(zip(strong["fact"], strong["input"], strict=True)) == {
        "colours": "value",
        "things": "key",
        "question": "query",
    }
    heard = dict(zip(strong["fact"], strong["heard from"], strict=True))
    assert heard["colours"].startswith("L1H2 ")
    assert heard["question"].startswith("L1H1 ")
    assert heard["things"].startswith("L0 MLP ")


def test_the_readers_weights_look_for_colours(report):
    weights = table(report, "What do their weights say?").set_index("head")
    assert weights.loc["L1H2", "key a colour"] > 0.95
    assert weights["same word"].idxmax() == "L3H1"
    assert weights.loc["L2H3", ["OV: colours copied", "OV: things copied"]].to_list() == [1, 1]


def test_the_circuit_is_one_line_for_each_head(report):
    circuit = table(report, "The circuit").set_index("head")
    assert list(circuit.index) == FOUND
    assert "thing → colour" in circuit.loc["L1H2", "looks (weight)"]
    assert circuit.loc["L3H1", "carries"].startswith("colours -")
    assert "question by its query" in circuit.loc["L2H3", "hears of"]


@pytest.mark.parametrize("n_pairs", [1, 2, 3])
def test_the_answer_needs_the_found_heads_and_only_them(report, n_pairs):
    title = "Does the answer depend on them, and only on them?"
    rows = table(report, title)
    left = rows[rows["pairs"] == n_pairs].set_index("condition")
    intact = left["mean"]["intact"]
    assert left["mean"]["without all found"] < 0.3 * intact
    assert left["mean"]["only the found"] > 0.9 * intact
    assert left["change low"]["control: worst draw"] > -0.1 * intact
    assert left["change"]["control: worst draw"] <= left["change"]["control: mean of the draws"]
    assert (
        left["mean"]["without L1H2"] < left["mean"]["without L1H1"] < left["mean"]["without L3H3"]
    )
    assert "the controls show nothing" in reading(report, title)
    assert "The prediction holds in every set." in reading(report, title)


def test_only_the_found_is_a_plain_run_with_every_other_head_from_other_words():
    model, found = interp.load(), [(1, 1), (1, 2), (2, 3), (3, 1), (3, 3)]
    rows = testing.outcome_table(model, found, 2, 4, 2, seed=5).set_index("condition")
    pairs = interp.prompts.colour_binding(model, 4, seed=5, n_pairs=2)
    pairs = interp.prompts.other_words(model, pairs, seed=5)
    _, other = model.run_with_cache(pairs.corrupted, names_filter="blocks.*.attn.hook_z")

    def patch(z: torch.Tensor, hook: interp.model.hooks.Hook) -> None:
        layer = hook.layer()
        for head in range(4):
            if (layer, head) not in found:
                z[:, :, head] = other["z", layer][:, :, head]

    logits = model.run_with_hooks(pairs.clean, [("blocks.*.attn.hook_z", patch)], positions="last")
    expected = float(pairs.metric(model)(logits).mean())
    assert rows.loc["only the found", "mean"] == pytest.approx(expected, abs=TOLERANCE)
    again = testing.outcome_table(model, found, 2, 4, 2, seed=5).set_index("condition")
    pd.testing.assert_frame_equal(rows, again)


def test_under_mean_ablation_the_others_only_tell_the_found_heads_where_to_look(report):
    title = "A harder ablation: the mean"
    left = table(report, title).set_index(["ablated", "attention of the found heads"])["mean"]
    intact = left["none", "recomputed"]
    assert left["others", "recomputed"] < 0.3 * intact
    assert left["others", "held"] > 0.7 * intact
    assert left["found", "recomputed"] < 0.3 * intact
    assert "the control does show something" in reading(report, title)
    assert "where to look" in reading(report, title)


def test_what_the_main_edge_leaves_goes_through_the_word_after_the_thing(report):
    cuts = table(report, "What is left without the main edge?").set_index("condition")["mean"]
    assert cuts["none"] == pytest.approx(1)
    assert 0 < cuts["thing → colour"] < 0.2
    assert cuts["thing → colour, after → colour"] < 0
    assert cuts["thing → colour, END → after"] < 0
    assert cuts["END → after"] > 0.9
    ways = table(report, "Which ways does the colour take?").set_index("condition")["mean"]
    assert ways["L1H2 at thing and after"] < ways["L1H2 at thing"] < -0.8
    second = ways[[way for way in ways.index if "→" in way and way.endswith("after")]]
    assert second.idxmin() == "L1H2 → value of L2H3 at after"
    assert second.min() < -0.05 < second.drop(second.idxmin()).min()


def test_without_a_head_above_the_threshold_nothing_is_tested(search):
    high = searching.Search.of(search.model, search.pairs, 2.0, 0)
    sections = list(colour_binding.search_sections(high, controls=2))
    assert [part.title for part in sections][-1] == "Which heads carry it?"
    assert "Found: none." in "\n".join(sections[-1].reading)


def test_a_model_that_binds_nothing_has_no_circuit(tmp_path):
    tokenizer = interp.load().tokenizer
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_mlp": 8, "n_ctx": 128}
    cfg = ModelConfig(**sizes, d_vocab=interp.load().cfg.d_vocab)
    save_huggingface(HookedGPT2(cfg, tokenizer), tmp_path / "model")
    report = colour_binding.run(str(tmp_path / "model"), n=4)
    assert len(report.sections) == 1
    assert "does not bind colours" in report.sections[0].reading[-1]


def test_control_draws_are_different_sets_of_others():
    others = [(0, head) for head in range(6)]
    draws = testing.control_draws(others, 3, 8, seed=0)
    assert len({tuple(draw) for draw in draws}) == 8
    assert all(len({*draw}) == 3 and {*draw} <= {*others} for draw in draws)
    assert draws == testing.control_draws(others, 3, 8, seed=0)
    assert draws != testing.control_draws(others, 3, 8, seed=1)
    assert len(testing.control_draws(others, 5, 8, seed=0)) == 6
    assert testing.control_draws(others, 9, 8, seed=0) == [others]


def outcome(left: float, only: float, worst: tuple[float, float, float]) -> pd.DataFrame:
    """Ten logits as they are, none from the other words."""
    values = {"intact": 10.0, "other words": 0.0, "without all found": left, "only the found": only}
    rows = [
        {"pairs": 1, "condition": name, "mean": mean, "low": mean - 1, "high": mean + 1}
        for name, mean in (values | {"control: worst draw": 10 + worst[0]}).items()
    ]
    changes = dict(zip(("change", "change low", "change high"), worst, strict=True))
    return pd.DataFrame(rows).assign(**changes)


@pytest.mark.parametrize(
    ("left", "only", "worst", "expected"),
    [
        (0.5, 9.5, (-0.3, -0.9, 0.1), "The prediction holds in every set."),
        (5.0, 9.5, (-0.3, -0.9, 0.1), "said that without the found heads the answer is lost."),
        (0.5, 8.0, (-0.3, -0.9, 0.1), "said that with nothing but the found heads it stays."),
        (0.5, 9.5, (-0.9, -1.1, 0.1), "said that without as many others it is not."),
        (0.5, 9.5, (0.9, 0.1, 1.1), "said that without as many others it is not."),
    ],
)
def test_the_prediction_is_judged_by_the_numbers(left, only, worst, expected):
    rows, found = outcome(left, only, worst), [(0, 1), (1, 1)]
    assert expected in testing.prediction(rows, found)
    shows = "controls do show something" if "many others" in expected else "controls show nothing"
    assert shows in testing.verdict(rows)
    assert f"a faithfulness of {only / 10:.0%}" in testing.verdict(rows)
    assert "two heads in different layers" in testing.prediction(rows, [(1, 0), (1, 1)])


@pytest.mark.parametrize(
    ("main", "second", "expected"),
    [
        ((0.1, 0.05, 0.15), (-0.1, -0.2, -0.05), "second path goes through the word after"),
        ((0.1, 0.05, 0.15), (0.05, 0.01, 0.1), "does not all go through the word after"),
        ((0.01, -0.02, 0.04), (-0.1, -0.2, -0.05), "leaves nothing to speak of"),
    ],
)
def test_the_second_path_is_judged_by_the_numbers(main, second, expected):
    names = (
        "thing → colour",
        "thing → colour, after → colour",
        "thing → colour, END → after",
    )
    rows = [
        {"condition": name, "mean": mean, "low": low, "high": high}
        for name, (mean, low, high) in zip(names, (main, second, second), strict=True)
    ]
    assert expected in testing.cut_verdict(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 1}, "pairs 2 or 3, not 1"),
        ({"n": 1}, "2 or more prompts"),
        ({"controls": 0}, "1 or more controls"),
        ({"threshold": 0.0}, "a threshold between 0 and 1; got 40, 20 and 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options, message):
    with pytest.raises(PromptError, match=message):
        colour_binding.run(**options)
