"""Published numbers: how they are judged, and that each is measured as it says."""

import re
from functools import partial
from math import inf, nan

import numpy as np
import pytest
import torch

import interp
from interp import heads, logit_attribution, prompts
from interp.ablation import zero_heads
from interp.errors import PromptError
from interp.metrics import logit_diff
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import center_unembed
from interp.published import (
    FACTS,
    Fact,
    Measured,
    Subject,
    Tolerance,
    head_scores,
    indirect_object,
    measure_all,
    named_heads,
    other_studies,
    single_prompts,
    within,
)
from interp.published.facts import AT_LEAST, AT_MOST, EXACTLY, STOPPED
from interp.published.table import GPT2_SMALL
from interp.tiny.lexicon import WORDS
from tests.english import english_tokenizer

PROMPT = "When Mary and John went to the store, John gave a drink to"
LOGITS = 1e-4


@pytest.fixture(scope="module")
def subject():
    return Subject(interp.load(), n=12)


@pytest.fixture(scope="module")
def model(subject):
    return subject.model


@pytest.fixture(scope="module")
def study(subject):
    return indirect_object.Study.of(subject)


@pytest.fixture(scope="module")
def english():
    """Random, with the layers and heads of GPT-2 small, and a context for its prompts."""
    tokenizer = english_tokenizer()
    cfg = ModelConfig(
        n_layers=12, n_heads=12, d_model=24, d_mlp=48, n_ctx=128, d_vocab=len(tokenizer)
    )
    model = HookedGPT2(cfg, tokenizer, seed=3)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return Subject(model, n=6)


def a_fact(published=1.0, tolerance=EXACTLY, measure=None):
    measure = measure or (lambda _: Measured(1.0))
    return Fact("name", "A", "a claim", published, tolerance, "logits", "a source", measure)


@pytest.mark.parametrize(
    ("tolerance", "accepted", "refused"),
    [
        (within(0.5), (1.5, 2.0, 2.5), (1.49, 2.51)),
        (EXACTLY, (2.0,), (1.99, 2.01)),
        (AT_LEAST, (2.0, 9.0, inf), (1.99, -inf)),
        (AT_MOST, (2.0, -9.0), (2.01,)),
        (Tolerance(0.5, 1.0), (1.5, 3.0), (1.4, 3.1)),
    ],
)
def test_a_tolerance_accepts_what_is_near_and_never_nan(tolerance, accepted, refused):
    assert all(tolerance.accepts(2.0, value) for value in accepted)
    assert not any(tolerance.accepts(2.0, value) for value in (*refused, nan))


def test_a_tolerance_reads_as_people_write_it():
    tolerances = (within(4e-5), EXACTLY, AT_LEAST, AT_MOST, Tolerance(inf, 0.1), Tolerance(2, 0))
    assert list(map(str, tolerances)) == [
        "± 4e-05", "exactly", "at least", "at most", "at most, ± 0.1", "-2 to +0",
    ]  # fmt: skip


def test_a_fact_that_cannot_be_measured_does_not_stop_the_others(subject):
    def unmeasurable(_):
        raise PromptError("' gift' is two tokens.")

    facts = [a_fact(measure=unmeasurable), a_fact(), a_fact(published=2.0)]
    findings = measure_all(subject, facts)
    assert [x.outcome for x in findings] == ["not measured", "pass", "fail"]
    assert [x.reason for x in findings] == ["' gift' is two tokens.", "", ""]


def test_a_programming_error_stops_everything(subject):
    with pytest.raises(ZeroDivisionError):
        measure_all(subject, [a_fact(measure=lambda _: Measured(1 / 0))])


def test_facts_that_were_not_reached_say_so(subject):
    findings = measure_all(subject, [a_fact()] * 3, progress=lambda steps, _: steps[:1])
    assert [(x.outcome, x.reason) for x in findings] == [
        ("pass", ""), ("not measured", STOPPED), ("not measured", STOPPED),
    ]  # fmt: skip


def test_shared_results_are_made_once_for_the_same_arguments(subject):
    made = []

    def make(_, number):
        made.append(number)
        return number

    assert [subject.shared(make, number) for number in (1, 1, 2, 1)] == [1, 1, 2, 1]
    assert made == [1, 2]


# Single prompts


def test_the_loss_is_the_cross_entropy_of_the_tokens_after_bos(subject, model):
    tokens = model.to_tokens(PROMPT)[0]
    logprobs = model(PROMPT)[0].log_softmax(dim=-1)
    expected = -sum(float(logprobs[i, token]) for i, token in enumerate(tokens[1:]))
    assert single_prompts.loss(subject, PROMPT).value == pytest.approx(
        expected / (len(tokens) - 1), rel=1e-5
    )


def test_a_probability_comes_with_its_rank(subject, model):
    probabilities = model(PROMPT)[0, -1].softmax(dim=-1)
    second = int(probabilities.argsort(descending=True)[1])
    token = model.to_string([second])
    found = single_prompts.next_token_probability(subject, PROMPT, token)
    assert found.value == pytest.approx(float(probabilities[second]))
    assert found.note == "rank 2"


def test_a_centred_logit_is_that_of_a_centred_unembedding(subject, model):
    expected = center_unembed(model)(PROMPT)[0, -1, model.to_single_token(" Mary")]
    found = single_prompts.centred_logit(subject, PROMPT, " Mary")
    assert found.value == pytest.approx(float(expected), abs=LOGITS)
    assert abs(found.value - float(found.note.split()[-1])) > 0.1  # the uncentred one


def test_the_answer_is_compared_with_the_wrong_one(subject, model):
    logits = model(PROMPT)[0, -1]
    mary, john = (float(logits[model.to_single_token(name)]) for name in (" Mary", " John"))
    found = single_prompts.answer_over_wrong(subject, PROMPT, " Mary", " John").value
    assert found == pytest.approx(mary - john, abs=LOGITS)
    assert found > 5


def test_the_eight_prompts_are_a_symmetric_set(english):
    clean, corrupted = single_prompts._giving(english)
    exchanged = clean[[1, 0, 3, 2, 5, 4, 7, 6]].neg()
    assert corrupted.tolist() == pytest.approx(exchanged.tolist(), abs=LOGITS)
    mean = single_prompts.giving_mean(english).value
    assert mean == pytest.approx(float(clean.mean()))
    assert single_prompts.giving_mean(english, corrupted=True).value == pytest.approx(
        -mean, abs=LOGITS
    )


def test_the_second_of_the_eight_prompts_asks_for_john(english):
    text = "When John and Mary went to the shops, Mary gave the bag to"
    expected = single_prompts.answer_over_wrong(english, text, " John", " Mary").value
    clean, _ = single_prompts._giving(english)
    assert float(clean[1]) == pytest.approx(expected, abs=LOGITS)


def test_the_largest_distance_of_the_eight_counts(english):
    clean, _ = single_prompts._giving(english)
    published = (clean + torch.tensor([0, 0, 0.1, 0, 0, 0.3, 0, -0.2])).tolist()
    found = single_prompts.giving_differences(english, published).value
    assert found == pytest.approx(0.3, abs=1e-5)


def test_ids_and_sizes_are_counted_where_they_agree(english):
    ids = [english.model.to_single_token(name) for name in (" Mary", " John", " Tom", " James")]
    assert single_prompts.equal_ids(english, [*ids, -1, -1, -1, -1]).value == 4
    assert single_prompts.equal_sizes(english, GPT2_SMALL).value == 2  # layers and heads


def test_edges_are_those_of_a_graph_drawn_by_hand(subject):
    readers = 0
    writers = ["input"]
    for layer in range(4):
        readers += 4 * 3 * len(writers)
        writers += [f"head {layer}.{head}" for head in range(4)]
        readers += len(writers)
        writers.append(f"mlp {layer}")
    assert single_prompts.n_edges(subject).value == readers + len(writers)


def test_gpt2_small_has_the_published_number_of_edges(english):
    assert single_prompts.n_edges(english).value == 32491


def test_patches_before_the_prompts_differ_change_nothing(subject):
    early = partial(single_prompts.early_patches, subject)
    found = early(clean=PROMPT, corrupted=PROMPT.replace("John gave", "Mary gave"))
    assert found.value == pytest.approx(0, abs=LOGITS)
    assert found.note == f"{16 * 10} heads and positions"
    assert early(clean=PROMPT, corrupted=PROMPT.replace("Mary", "Kate")).note == "32 heads " + (
        "and positions"
    )


# Indirect objects


def test_the_circuit_has_26_heads():
    chosen = [head for found in indirect_object.CIRCUIT.values() for head in found]
    assert len(chosen) == len(set(chosen)) == 26


def test_prompts_begin_without_bos_and_roles_follow(study, model):
    for example, (text, answer) in enumerate(
        zip(study.pairs.clean, study.pairs.answers, strict=True)
    ):
        pieces = model.to_str_tokens(text, prepend_bos=False)
        ids = study.clean.tokens[example, : len(pieces)]
        assert ids.tolist() == model.to_tokens(text, prepend_bos=False)[0].tolist()
        assert pieces[study.roles["IO"][example]] == answer
        assert pieces[study.roles["S2"][example]] == study.pairs.wrong[example]
        assert study.roles["END"][example] == len(pieces) - 1


def frame(text):
    """A prompt's template: names, places and gifts left out."""
    words = "|".join((*WORDS["names"], *WORDS["places"], *WORDS["gifts"]))
    return re.sub(rf"\b({words})\b", "_", text)


def test_heads_are_replaced_by_their_mean_over_the_template(model):
    subject = Subject(model, n=60)
    study = subject.shared(indirect_object.Study.of)
    chosen = {"END": [(1, 2), (3, 0)], "S2": [(0, 1)]}
    found = study.without(study.places(chosen))
    frames = [frame(text) for text in study.pairs.clean]
    example = next(i for i, one in enumerate(frames) if frames.count(one) > 1)
    peers = [i for i, one in enumerate(frames) if one == frames[example]]
    length = len(model.to_tokens(study.pairs.clean[example], prepend_bos=False)[0])
    z = {
        layer: torch.stack(
            [
                model.run_with_cache(study.pairs.corrupted[i], prepend_bos=False)[1]["z", layer][0]
                for i in peers
            ]
        ).mean(dim=0)
        for layer in (0, 1, 3)
    }

    def replace(value, hook):
        for role, places in chosen.items():
            position = int(study.roles[role][example])
            for layer, head in places:
                if layer == hook.layer():
                    value[:, position, head] = z[layer][position, head]

    logits = model.run_with_hooks(
        study.pairs.clean[example],
        [(f"blocks.{layer}.attn.hook_z", replace) for layer in (0, 1, 3)],
        prepend_bos=False,
    )[0, length - 1]
    ids = [study.pairs.answer_ids(model)[example], study.pairs.wrong_ids(model)[example]]
    expected = float(logits[ids[0]] - logits[ids[1]])
    assert float(found[example]) == pytest.approx(expected, abs=LOGITS)
    assert float(found[example]) != pytest.approx(float(study.difference(study.logits)[example]))


def test_a_circuit_of_all_heads_and_positions_loses_nothing(subject, study):
    nothing = torch.zeros(*study.clean.tokens.shape, 4, 4, dtype=torch.bool)
    intact = study.difference(study.logits)
    assert study.without(nothing).tolist() == pytest.approx(intact.tolist(), abs=LOGITS)
    kept = indirect_object.circuit_gap(subject, {"END": [(0, 0)]})
    removed = study.without(~study.places({"END": [(0, 0)]})).mean()
    assert kept.value == pytest.approx(float(intact.mean() - removed), abs=LOGITS)
    assert kept.value > 1


def test_the_share_that_is_lost_is_relative(subject, study):
    chosen = [(2, 0), (3, 0)]
    left = study.without(study.places({"END": chosen})).mean()
    intact = study.difference(study.logits).mean()
    found = indirect_object.share_lost(subject, chosen).value
    assert found == pytest.approx(float((intact - left) / intact), abs=1e-5)


def test_the_behaviour_is_that_of_single_runs(subject, model):
    pairs = prompts.ioi(model, 12)
    rows = [model(text, prepend_bos=False)[0, -1] for text in pairs.clean]
    io = [float(row[i]) for row, i in zip(rows, pairs.answer_ids(model), strict=True)]
    s = [float(row[i]) for row, i in zip(rows, pairs.wrong_ids(model), strict=True)]
    p = [
        float(row.softmax(dim=-1)[i]) for row, i in zip(rows, pairs.answer_ids(model), strict=True)
    ]
    found = indirect_object.logit_difference(subject)
    assert found.value == pytest.approx(np.mean(np.subtract(io, s)), abs=LOGITS)
    assert found.note.endswith("n = 12")
    assert indirect_object.accuracy(subject).value == np.mean(np.greater(io, s))
    assert indirect_object.probability(subject).value == pytest.approx(np.mean(p), abs=1e-5)


def test_mlps_are_replaced_by_their_mean_over_abc(subject, study, model):
    _, cache = model.run_with_cache(study.abc, names_filter="blocks.*.hook_mlp_out")
    mask = study.abc.attention_mask
    means = {layer: cache["mlp_out", layer][mask].mean(dim=0) for layer in (1, 2)}

    def replace(value, hook):
        return means[hook.layer()].expand_as(value)

    hooks = [(f"blocks.{layer}.hook_mlp_out", replace) for layer in means]
    logits = model.run_with_hooks(study.clean, hooks, positions="last")
    expected = float(study.difference(logits).mean())
    found = indirect_object.without_mlps(subject, (1, 2)).value
    assert found == pytest.approx(expected, abs=LOGITS)


def test_attention_is_read_from_end_to_the_role(subject, study, model):
    chosen = [(3, 1), (1, 0)]
    rows = []
    for example, text in enumerate(study.pairs.clean):
        _, cache = model.run_with_cache(text, prepend_bos=False)
        key = int(study.roles["S2"][example])
        rows += [float(cache["pattern", layer][0, head, -1, key]) for layer, head in chosen]
    found = named_heads.attention(subject, chosen, "S2").value
    assert found == pytest.approx(np.mean(rows), abs=1e-5)


def test_copying_is_a_head_alone_between_the_first_mlp_and_the_logits(subject, study, model):
    n = {False: np.zeros((4, 4)), True: np.zeros((4, 4))}
    for text, role, answer in zip(
        study.pairs.clean, study.roles["IO"], study.pairs.answer_ids(model), strict=True
    ):
        _, cache = model.run_with_cache(text, prepend_bos=False)
        name = cache["resid_post", 0][0, role]
        for layer, block in enumerate(model.blocks):
            for head in range(4):
                value = block.ln1(name) @ model.W_V[layer, head] + model.b_V[layer, head]
                written = value @ model.W_O[layer, head]
                for negative, sign in ((False, 1), (True, -1)):
                    best = (model.ln_final(sign * written) @ model.W_U).topk(5).indices
                    n[negative][layer, head] += int(answer in best)
    for negative in n:
        found = [
            [named_heads.copy_score(subject, [(x, h)], negative=negative).value for h in range(4)]
            for x in range(4)
        ]
        assert np.array(found) == pytest.approx(n[negative] / 12)
        assert n[negative].max() > 0


def test_the_mean_head_copies_as_the_mean_of_single_heads(subject):
    each = [named_heads.copy_score(subject, [(x, h)]).value for x in range(4) for h in range(4)]
    assert max(each) > 0
    assert named_heads.copy_score(subject, None).value == pytest.approx(np.mean(each))


def test_writing_is_correlated_with_attention_over_both_names(subject, study, model):
    chosen = [(3, 1), (2, 0)]
    expected = []
    for layer, head in chosen:
        attended, along = [], []
        for key, ids in (
            ("IO", study.pairs.answer_ids(model)), ("S1", study.pairs.wrong_ids(model)),
        ):  # fmt: skip
            for text, at, token in zip(study.pairs.clean, study.roles[key], ids, strict=True):
                _, cache = model.run_with_cache(text, prepend_bos=False)
                attended.append(float(cache["pattern", layer][0, head, -1, at]))
                written = cache["z", layer][0, -1, head] @ model.W_O[layer, head]
                centred = (written - written.mean()) / cache["ln_final.hook_scale"][0, -1]
                along.append(float(centred * model.ln_final.w @ model.W_U[:, token]))
        expected.append(float(np.corrcoef(attended, along)[0, 1]))
    found = named_heads.attention_and_writing(subject, chosen)
    assert found.value == pytest.approx(min(expected), abs=1e-3)


def test_writers_are_ranked_by_what_they_add_beyond_abc(subject, study, model):
    metric = study.pairs.metric(model)
    parts = [logit_attribution.decompose(model, x, metric) for x in (study.clean, study.abc)]
    change = (parts[0] - parts[1]).sum("pos").mean("example")
    change = change.sel(component=change["kind"] == "head")
    best, worst = change.values.argmax(), change.values.argmin()
    first, last = (
        (int(change["layer"][place]), int(change["head"][place])) for place in (best, worst)
    )
    writers = partial(named_heads.strongest_writers, subject)
    assert writers([first], negative=False).value == 1
    assert writers([last], negative=True).value == 1
    assert writers([last], negative=False).value == writers([first], negative=True).value == 0
    assert f"{float(change.max()):+.2f}" in writers([first], negative=False).note


# Head scores


def test_scores_and_ranks_are_those_of_the_library(subject, model):
    scores = heads.scores(model, n_tokens=100).sel(kind="induction")
    layer, head = divmod(int(scores.values.argmax()), 4)
    found = head_scores.score(subject, "induction", (layer, head))
    assert found.value == pytest.approx(float(scores.max()))
    assert found.note == "rank 1"
    assert head_scores.rank(subject, "induction", (layer, head)).value == 1
    worst = divmod(int(scores.values.argmin()), 4)
    assert head_scores.rank(subject, "induction", worst).value == 16
    assert head_scores.members(subject, "induction", [worst, (layer, head)], 2).value == 1


def test_a_short_context_gets_shorter_sequences(random_gpt2):
    found = head_scores.score(Subject(random_gpt2), "previous_token", (1, 2)).value
    expected = heads.scores(random_gpt2, n_tokens=15).sel(kind="previous_token", layer=1, head=2)
    assert found == pytest.approx(float(expected))


def test_a_sink_is_a_head_that_rests_on_the_first_position(subject, model):
    everyone = [(layer, head) for layer in range(4) for head in range(4)]
    rest, n = np.zeros((4, 4)), 0
    for text in prompts.ioi(model, 12).clean:
        _, cache = model.run_with_cache(text)
        rows = torch.stack([cache["pattern", layer][0, :, 1:, 0] for layer in range(4)])
        rest, n = rest + rows.sum(dim=-1).numpy(), n + rows.shape[-1]
    found = head_scores.sinks(subject, everyone)
    assert found.value == (rest / n > 0.5).sum()
    assert f"L1H2 {rest[1, 2] / n:.2f}" in found.note


# Other studies


def test_the_cutoff_is_between_the_years_beside_the_start(subject, model):
    expected = []
    for text in prompts.greater_than(model, 12).clean:
        start = int(re.search(r"\d\d(\d\d)", text)[1])
        probabilities = model(text)[0, -1].softmax(dim=-1)
        after, before = (
            float(probabilities[model.to_single_token(f"{start + step:02}")]) for step in (1, -1)
        )
        expected.append(after - before)
    found = other_studies.cutoff(subject).value
    assert found == pytest.approx(np.mean(expected), abs=1e-6)


def test_later_years_are_compared_with_all_others(subject, model):
    expected = []
    for text in prompts.greater_than(model, 12).clean:
        start = int(re.search(r"\d\d(\d\d)", text)[1])
        probabilities = model(text)[0, -1].softmax(dim=-1)
        years = [float(probabilities[model.to_single_token(f"{year:02}")]) for year in range(100)]
        expected.append(sum(years[start + 1 :]) - sum(years[: start + 1]))
    found = other_studies.later_minus_earlier(subject).value
    assert found == pytest.approx(np.mean(expected), abs=1e-5)
    assert found > 0.7


@pytest.mark.parametrize("site", ["z", "mlp_out"])
def test_the_most_harmful_patches_are_those_of_plain_runs(subject, model, site):
    pairs = prompts.greater_than(model, 12)
    metric = prompts.year_prob_diff(model, pairs)
    name = f"blocks.*.{'attn.hook_z' if site == 'z' else 'hook_mlp_out'}"
    _, cache = model.run_with_cache(pairs.corrupted, names_filter=name)
    end = (torch.arange(12), pairs.roles["END"])
    costs = {}
    for layer in range(4):
        for head in range(4) if site == "z" else [None]:

            def patch(value, hook, head=head):
                other = cache[site, hook.layer()]
                if head is None:
                    value[end] = other[end]
                else:
                    value[:, :, head] = other[:, :, head]

            hooks = [(name.replace("*", str(layer)), patch)]
            logits = model.run_with_hooks(pairs.clean, hooks, positions="last")
            costs[(layer, head) if site == "z" else layer] = float(metric(logits).mean())
    ranked = sorted(costs, key=costs.get)
    harmful = partial(other_studies.harmful_when_patched, subject, site)
    assert harmful(ranked[:2], 2).value == 2
    assert harmful([ranked[0], ranked[-1]], 2).value == 1
    intact = float(metric(model(pairs.clean, positions="last")).mean())
    changes = [float(change) for change in re.findall(r"[+-]\d\.\d+", harmful(ranked[:2], 2).note)]
    assert changes == pytest.approx([costs[place] - intact for place in ranked[:2]], abs=6e-4)


def test_a_suppressed_token_is_among_the_lowest_of_its_own_row(subject, model):
    head, row = (2, 1), []
    tokens = torch.arange(model.cfg.d_vocab)
    inputs = interp.model.token_paths.token_inputs(model, 2, tokens)
    directions = interp.model.token_paths.logit_directions(model, tokens)
    full = inputs @ model.W_V[2, 1] @ model.W_O[2, 1] @ directions
    for token, logits in enumerate(full):
        row.append(int((logits < logits[token]).sum()))
    own = partial(other_studies.own_logit_suppressed, subject, head)
    assert own(n_lowest=10).value == pytest.approx(np.mean(np.less(row, 10)), abs=2e-3)
    share = np.mean(np.less(row, 0.3 * len(tokens)))
    assert own(share=0.3).value == pytest.approx(share, abs=2e-3)
    assert 0 < share < 1


def test_a_copying_head_whose_sign_is_turned_suppresses(subject, model):
    copying = heads.scores(model, n_tokens=20).sel(kind="ov_copying")
    layer, head = divmod(int(copying.values.argmax()), 4)
    turned = HookedGPT2.from_weights(model.cfg, dict(model.state_dict()), model.tokenizer)
    turned.blocks[layer].attn.W_O = torch.nn.Parameter(
        turned.blocks[layer].attn.W_O.clone(), requires_grad=False
    )
    turned.blocks[layer].attn.W_O[head] *= -1
    before, after = (
        other_studies.own_logit_suppressed(Subject(x), (layer, head), n_lowest=10).value
        for x in (model, turned)
    )
    assert before == 0
    assert after > 0.3


def test_without_a_head_a_token_rises_or_falls(subject, model):
    text = prompts.ioi(model, 1).clean[0]
    sentences = indirect_object.prompts_of(subject).clean
    batch = model.as_batch(sentences)
    _, cache = model.run_with_cache(batch, names_filter="blocks.3.attn.hook_z")
    mean = cache["z", 3][batch.attention_mask][:, 1].mean(dim=0)

    def replace(z, hook):
        z[:, :, 1] = mean

    token = " Mary"
    ids = model.to_single_token(token)
    before, after = (
        float(model.run_with_hooks(text, hooks)[0, -1].log_softmax(dim=-1)[ids])
        for hooks in ([], [("blocks.3.attn.hook_z", replace)])
    )
    found = other_studies.change_without(subject, (3, 1), text, token).value
    assert found == pytest.approx(after - before, abs=LOGITS)


def test_pronouns_are_those_that_agree(english):
    model, pairs = english.model, prompts.gendered_pronoun(english.model, 6)
    expected = []
    for text, answer, wrong in zip(pairs.clean, pairs.answers, pairs.wrong, strict=True):
        metric = logit_diff(model.to_single_token(answer), model.to_single_token(wrong))
        expected.append(float(metric(model(text))))
    found = other_studies.pronoun_difference(english).value
    assert found == pytest.approx(np.mean(expected), abs=LOGITS)


# The table


def test_every_fact_has_its_own_name_and_a_source():
    assert len({fact.name for fact in FACTS}) == len(FACTS) > 40
    assert all(fact.source and fact.claim and fact.unit for fact in FACTS)
    assert {fact.kind for fact in FACTS} == {"A", "B", "C"}


def test_every_fact_can_be_measured_on_a_model_of_12_layers_and_heads(english):
    findings = measure_all(english, FACTS)
    assert [(x.fact.name, x.reason) for x in findings if x.measured is None] == []
    by_name = {x.fact.name: x for x in findings}
    assert by_name["edges"].outcome == by_name["early_patches"].outcome == "pass"
    assert by_name["hello.loss"].outcome == by_name["shape"].outcome == "fail"


def test_heads_that_a_model_lacks_are_not_measured(subject):
    named = [fact for fact in FACTS if fact.kind == "B" and "L4H11" in fact.name]
    (finding,) = measure_all(subject, named)
    assert finding.outcome == "not measured"
    assert "(4, 11) is no head" in finding.reason


def test_removing_heads_that_matter_shows_in_the_behaviour(subject, model):
    """The stand-in for a wrong model: the same table, but a model whose movers are gone."""
    intact = indirect_object.logit_difference(subject).value
    fact = a_fact(intact, within(0.01), indirect_object.logit_difference)
    assert measure_all(Subject(model, n=12), [fact])[0].outcome == "pass"
    with model.hooks(zero_heads([(3, head) for head in range(4)])):
        assert measure_all(Subject(model, n=12), [fact])[0].outcome == "fail"
