"""A circuit read backwards, against the sweeps and patterns that it is made of."""

import numpy as np
import pytest

from interp import path_patching, path_tracing, statistics
from interp.errors import PromptError
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import load
from interp.prompts import ioi

CLEAN = ["The cat is black.", "I love the color black, I hope"]
CORRUPTED = ["The cat is black!", "I hope the color black, I love"]


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return load()


@pytest.fixture(scope="module")
def pairs(model):
    return ioi(model, 12)


@pytest.fixture(scope="module")
def traced(model, pairs):
    metric = pairs.metric(model)
    return path_tracing.trace(model, pairs.clean, pairs.corrupted, metric, pairs.roles)


def test_attention_between_positions_is_the_models_pattern(random_gpt2: HookedGPT2) -> None:
    batch = random_gpt2.as_batch(CLEAN)
    positions = {"early": [1, 2], "END": (batch.lengths - 1).tolist()}
    found = path_tracing.attention_between(random_gpt2, CLEAN, positions)
    _, cache = random_gpt2.run_with_cache(batch)
    for example in range(2):
        for layer in range(3):
            for query, key in (("END", "early"), ("END", "END"), ("early", "END")):
                at = positions[query][example], positions[key][example]
                expected = cache["pattern", layer][example, :, *at]
                own = found.sel(layer=layer, query=query, key=key, example=example)
                assert own.values.tolist() == pytest.approx(expected.tolist(), abs=1e-6)
    assert float(found.sel(query="early", key="END").max()) == 0
    assert float(found.sel(query="END", key="early").min()) > 0


def test_a_position_outside_its_prompt_is_an_error(random_gpt2: HookedGPT2) -> None:
    positions = {"word": [1, 2], "END": [1, 99]}
    with pytest.raises(PromptError, match="'END' is 99 in example 1; the prompt has positions 0-"):
        path_tracing.attention_between(random_gpt2, CLEAN, positions)


def test_the_first_step_is_a_sweep_to_the_logits(model, pairs, traced) -> None:
    swept = path_patching.sweep(
        model, pairs.clean, pairs.corrupted, receivers="logits", metric=pairs.metric(model),
        direction="noising",
    )  # fmt: skip
    effect = (swept.patched - swept.clean).values
    gap = float((swept.clean - swept.corrupted).mean())
    first = traced.isel(path=(traced.step == 1).values)
    assert first.sender.values.tolist() == swept.sender.values.tolist()
    assert np.array_equal(first.effect, effect)
    assert traced.gap == pytest.approx(gap)
    assert np.array_equal(traced.clean, swept.clean)
    assert np.array_equal(traced.corrupted, swept.corrupted)
    for row, passes, mean in zip(effect, first.passes.values, first["mean"].values, strict=True):
        mean_of_row, low, high = statistics.bootstrap_mean(row)
        assert mean == pytest.approx(mean_of_row, abs=1e-5)
        assert passes == (low > 0.02 * gap or high < -0.02 * gap)


def test_the_next_steps_lead_into_the_heads_found_where_they_look(model, pairs, traced) -> None:
    rows = traced[["passes"]].to_dataframe().reset_index(drop=True)
    first = rows[(rows.step == 1) & rows.passes & (rows.part != "mlp") & (rows.layer > 0)]
    queries = rows[(rows.step == 2) & (rows.letter == "q")]
    assert set(queries.receivers) == {", ".join(first.sender)}
    assert set(queries.pos) == {"END"}
    found = [(row.layer, int(row.part)) for row in first.itertuples()]
    swept = path_patching.sweep(
        model, pairs.clean, pairs.corrupted, receivers=[(*head, "q") for head in found],
        metric=pairs.metric(model), direction="noising", positions={"END": pairs.roles["END"]},
    )  # fmt: skip
    own = traced.isel(path=queries.index)
    assert np.array_equal(own.effect, swept.patched - swept.clean)

    weights = path_tracing.attention_between(model, pairs.clean, pairs.roles).mean("example")
    for letter in "kv":
        for pos in pairs.roles:
            looking = [
                f"L{layer}H{head}"
                for layer, head in found
                if weights.sel(layer=layer, head=head, query="END", key=pos) >= 0.15
            ]
            into = rows[(rows.step == 2) & (rows.letter == letter) & (rows.pos == pos)]
            assert set(into.receivers) == ({", ".join(looking)} if looking else set())


def test_the_giver_is_read_at_its_second_mention_and_moves_the_name_movers(traced) -> None:
    rows = traced[["mean", "passes"]].to_dataframe().reset_index(drop=True)
    inhibition = rows[(rows.sender == "L1H1") & rows.passes].set_index(["letter", "pos"])
    assert inhibition.loc[("", "END"), "mean"] < -5
    assert inhibition.loc[("q", "END"), "mean"] < -1


def test_a_head_that_is_known_is_not_followed_twice(traced) -> None:
    rows = traced[["passes"]].to_dataframe().reset_index(drop=True)
    assert not rows.duplicated(["receivers", "letter", "pos", "sender"]).any()
    last = rows[rows.step == rows.step.max()]
    before = rows[rows.step < rows.step.max()]
    nodes = [
        set(zip(part.sender, part.pos, strict=True))
        for part in (x[x.passes & (x.part != "mlp") & (x.layer > 0)] for x in (last, before))
    ]
    assert nodes[0] <= nodes[1]


def test_denoising_follows_what_restores_and_where_the_corrupted_run_looks(model, pairs) -> None:
    metric = pairs.metric(model)
    clean, corrupted = (
        path_tracing.attention_between(model, prompts, pairs.roles).mean("example")
        for prompts in (pairs.clean, pairs.corrupted)
    )
    at = {"layer": 1, "head": 1, "query": "END", "key": "S2"}
    between = float(clean.sel(at) + corrupted.sel(at)) / 2
    traced = path_tracing.trace(
        model, pairs.clean, pairs.corrupted, metric, pairs.roles, direction="denoising",
        attended=between,
    )  # fmt: skip
    swept = path_patching.sweep(
        model, pairs.clean, pairs.corrupted, receivers="logits", metric=metric
    )
    first = traced.isel(path=(traced.step == 1).values)
    assert np.array_equal(first.effect, swept.patched - swept.corrupted)
    assert "L1H1" in first.sender.values[first.passes.values]
    reads_s2 = ((traced.receivers == "L1H1") & (traced.pos == "S2")).any()
    assert bool(reads_s2) == bool(corrupted.sel(at) > clean.sel(at))


def test_nothing_beyond_the_threshold_ends_it(model, pairs) -> None:
    traced = path_tracing.trace(
        model, pairs.clean, pairs.corrupted, pairs.metric(model), pairs.roles, threshold=9.0
    )
    assert set(traced.step.values) == {1}
    assert not traced.passes.any()


def test_the_end_must_be_named_and_the_gap_not_zero(random_gpt2: HookedGPT2) -> None:
    metric = logit_diff([5, 5], [6, 6])
    with pytest.raises(PromptError, match="no position 'END'; there are early"):
        path_tracing.trace(random_gpt2, CLEAN, CORRUPTED, metric, {"early": [1, 2]})
    both = ([*CLEAN[:1], *CORRUPTED[:1]], [*CORRUPTED[:1], *CLEAN[:1]])
    end = {"END": (random_gpt2.as_batch(both[0]).lengths - 1).tolist()}
    with pytest.raises(PromptError, match="the same logit_diff on average"):
        path_tracing.trace(random_gpt2, *both, metric, end)
