"""The circuits that the card names are those that a fresh measurement finds."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import interp.tiny
from analyses import _binding_search as searching
from analyses import _binding_tests as testing
from analyses import ioi
from interp import head_classes, path_tracing, prompts
from interp.model.gpt2 import HookedGPT2
from interp.statistics import bootstrap_mean
from interp.tiny.card import CIRCUITS, circuits_section

FOLDER = Path(interp.tiny.__file__).parent
SEED = 50
"""The card's numbers come from other prompts."""
WEAK = 1.0
"""Paths of fewer logits are found on some prompts and missed on others."""


@pytest.fixture(scope="module")
def embedded() -> HookedGPT2:
    return interp.load()


@pytest.fixture(scope="module")
def circuits() -> dict[str, dict]:
    stored = json.loads(CIRCUITS.read_text())["circuits"]
    return {circuit["command"].split()[-1]: circuit for circuit in stored}


def overlap(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two intervals, after their means, have a point in common."""
    return max(one[1], other[1]) <= min(one[2], other[2])


def test_the_card_shows_the_circuits_of_its_own_weights():
    weights = (FOLDER / "weights" / "model.safetensors").read_bytes()
    section = circuits_section(hashlib.sha256(weights).hexdigest())
    assert section in (FOLDER / "CARD.md").read_text()
    assert "### Colour binding" in section
    assert "### Indirect object" in section


def test_other_weights_have_no_measured_circuits():
    assert "Not measured for these weights" in circuits_section("0" * 64)


def test_the_colour_circuit_is_found_again_on_other_prompts(embedded, circuits):
    card = circuits["colour_binding"]
    pairs = prompts.colour_binding(embedded, 24, seed=SEED, n_pairs=2)
    search = searching.Search.of(embedded, pairs, threshold=0.03, seed=0)
    found = searching.found_heads(searching.head_table(search))
    assert [searching.name_of(head) for head in found] == [row["head"] for row in card["heads"]]
    rows = testing.outcome_table(embedded, found, 2, 24, 5, seed=SEED + 1).set_index("condition")
    change = {name: rows.loc[name, ["change", "change low", "change high"]] for name in rows.index}
    for row in card["heads"]:
        assert overlap(row["effect"], list(change[f"without {row['head']}"])), row
    tests = card["tests"]
    assert overlap(tests["the heads above"], list(change[testing.WITHOUT]))
    assert overlap(tests["all other heads"], list(change[testing.ONLY]))
    control = "as many other heads, mean of 20 draws"
    assert overlap(tests[control], list(change[testing.CONTROL]))
    assert overlap(card["intact"], list(rows.loc[testing.INTACT, ["mean", "low", "high"]]))


def test_no_control_of_the_colour_circuit_shows_anything(circuits):
    intact = circuits["colour_binding"]["intact"][0]
    for ablated, (_, low, high) in circuits["colour_binding"]["tests"].items():
        if ablated == "the heads above":
            assert high < -0.7 * intact
        else:
            assert -testing.NIL * intact < low <= high < testing.NIL * intact


def test_the_indirect_object_circuit_is_found_again_on_other_prompts(embedded, circuits):
    card = circuits["ioi"]
    pairs = prompts.ioi(embedded, 60, seed=SEED)
    traced = path_tracing.trace(
        embedded, pairs.clean, pairs.corrupted, pairs.metric(embedded), pairs.roles,
        attended=ioi.ATTENDED,
    )  # fmt: skip
    table, _ = ioi.heads_found(embedded, pairs, traced)
    fresh = {
        (row["name"], row["class"], row["into"]): [row["mean"], row["low"], row["high"]]
        for _, row in table.iterrows()
    }
    for row in card["heads"]:
        kind, _, into = row["cells"]
        if into == "logits" and min(map(abs, row["effect"])) > WEAK:
            assert overlap(row["effect"], fresh[row["head"], kind, into]), row
    heads = head_classes.members(table)
    groups = {ioi.WITHOUT: heads}
    outcome = ioi.without(
        embedded,
        pairs,
        prompts.ioi(embedded, 300, seed=SEED + 1),
        groups,
        interp.progress.no_progress,
    )
    removed = bootstrap_mean(outcome["effect"].isel(group=0).values)
    assert overlap(card["tests"]["the heads above"], list(removed))


def test_without_what_is_not_named_no_indirect_object_is_lost(circuits):
    card = circuits["ioi"]
    others = {name: x for name, x in card["tests"].items() if name != "the heads above"}
    assert len(others) == 2
    assert all(low > -ioi.NIL * card["intact"][0] for _, low, _ in others.values())
