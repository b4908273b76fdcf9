"""The circuits that the card names are those that a fresh measurement finds."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

import interp.tiny
from analyses import _binding_search as searching
from analyses import _binding_tests as testing
from interp import prompts
from interp.model.gpt2 import HookedGPT2
from interp.tiny.card import CIRCUITS, circuits_section

FOLDER = Path(interp.tiny.__file__).parent
SEED = 50
"""The card's numbers come from other prompts."""


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
