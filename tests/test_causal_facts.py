"""Facts about patches, measured by plain forwards: they hold, and a wrong sweep is caught."""

import pytest
import torch

from interp import causal_facts, metrics, patching
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.pairs import token_pairs
from interp.sites import HEAD_SITES, SITES, STREAM_SITES

TOLERANCE = 1e-4
CLEAN = ["The cat is black.", "I love the color black, I hope"]
CORRUPTED = ["The cat is black!", "I hope the color black, I love"]
METRIC = metrics.logit_diff([5, 6], [9, 10])


def runs(model: HookedGPT2) -> tuple[torch.Tensor, torch.Tensor]:
    clean, corrupted = (
        METRIC(model(model.to_batch(p), positions="last")) for p in (CLEAN, CORRUPTED)
    )
    return clean, corrupted


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_nothing_happens_before_the_difference(random_gpt2, direction):
    fact = causal_facts.nothing_before_the_difference(
        random_gpt2, CLEAN, CORRUPTED, METRIC, direction
    )
    base = runs(random_gpt2)[direction == "denoising"]
    assert fact.expected == pytest.approx(float(base.mean()), abs=TOLERANCE)
    assert fact.measured == pytest.approx(fact.expected, abs=TOLERANCE)
    assert fact.largest_difference < TOLERANCE


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_everything_patched_after_the_last_layer_is_the_other_run(random_gpt2, direction):
    fact = causal_facts.everything_after_the_last_layer(
        random_gpt2, CLEAN, CORRUPTED, METRIC, direction
    )
    clean, corrupted = runs(random_gpt2)
    other = clean if direction == "denoising" else corrupted
    assert fact.expected == pytest.approx(float(other.mean()), abs=TOLERANCE)
    assert fact.measured == pytest.approx(float(other.mean()), abs=TOLERANCE)
    assert fact.largest_difference < TOLERANCE
    assert float((clean - corrupted).abs().min()) > 10 * TOLERANCE


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_everything_patched_before_the_first_layer_is_the_other_run(random_gpt2, direction):
    fact = causal_facts.everything_before_the_first_layer(
        random_gpt2, CLEAN, CORRUPTED, METRIC, direction
    )
    other = runs(random_gpt2)[direction == "noising"]
    assert fact.expected == pytest.approx(float(other.mean()), abs=TOLERANCE)
    assert fact.measured == pytest.approx(fact.expected, abs=TOLERANCE)
    assert fact.largest_difference < TOLERANCE


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(
    ("site", "place"),
    [
        *((site, {"position": 4}) for site in STREAM_SITES),
        *((site, {"head": 1}) for site in HEAD_SITES),
        ("v", {"head": 0, "position": 4}),
    ],
)
def test_one_patch_is_a_cell_of_a_sweep(random_gpt2, site, place, direction):
    clean, corrupted = CLEAN[:1], CORRUPTED[:1]
    metric = metrics.logit_diff(5, 9)
    ds = patching.sweep(
        random_gpt2, clean, corrupted, site, metric, direction, per_position=len(place) == 2
    )
    value = causal_facts.one_patch(
        random_gpt2, clean, corrupted, metric, direction, site, 0, **place
    )
    cell = {"pos" if axis == "position" else axis: at for axis, at in place.items()}
    assert value.item() == pytest.approx(ds.patched.sel(layer=0, **cell).item(), abs=TOLERANCE)


def test_one_patch_checks_what_it_is_asked(random_gpt2):
    for asked, message in (
        ({"site": "resid"}, "There is no site 'resid'"),
        ({"site": "z", "position": 999}, "999 in example 0"),
        ({"site": "z", "direction": "up"}, "direction is 'up'"),
    ):
        options = {"direction": "denoising", "layer": 0} | asked
        with pytest.raises(PromptError, match=message):
            causal_facts.one_patch(random_gpt2, CLEAN, CORRUPTED, METRIC, **options)


def test_patching_one_position_further_is_seen(random_gpt2, monkeypatch):
    first = token_pairs(random_gpt2, CLEAN, CORRUPTED).first_difference + 1
    monkeypatch.setattr("interp.pairs.TokenPairs.first_difference", first)
    fact = causal_facts.nothing_before_the_difference(
        random_gpt2, CLEAN, CORRUPTED, METRIC, "denoising"
    )
    assert fact.largest_difference > 10 * TOLERANCE


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize(
    ("site", "per_position"), [*((site, False) for site in SITES), ("z", True), ("k", True)]
)
def test_a_cell_is_measured_again(random_gpt2, site, per_position, direction):
    ends = {"END": (random_gpt2.as_batch(CLEAN).lengths - 1).tolist()}
    for positions in (None, ends):
        ds = patching.sweep(
            random_gpt2, CLEAN, CORRUPTED, site, METRIC, direction, positions,
            per_position=per_position,
        )  # fmt: skip
        cell = {"layer": 1}
        cell |= {"head": 2} if site in HEAD_SITES else {}
        cell |= {"pos": ds["pos"].values[-1]} if "pos" in ds.patched.dims else {}
        fact = causal_facts.cell_by_a_plain_forward(
            random_gpt2, CLEAN, CORRUPTED, METRIC, ds, cell, positions
        )
        assert fact.measured == pytest.approx(float(ds.patched.sel(cell).mean()), abs=TOLERANCE)
        assert fact.largest_difference < TOLERANCE
        wrong = ds.assign(patched=ds.patched - 1)
        fact = causal_facts.cell_by_a_plain_forward(
            random_gpt2, CLEAN, CORRUPTED, METRIC, wrong, cell, positions
        )
        assert fact.largest_difference == pytest.approx(1, abs=TOLERANCE)
