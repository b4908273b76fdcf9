"""The rules on paths and attention that were made up to meet them, or to miss them by one thing."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from interp import head_classes
from interp.head_classes import NO_CLASS, RULES, Rule

ROLES = ["IO", "S1", "S1+1", "S2", "END"]


def traced(*paths: tuple[int, str, str, str, float, bool]) -> xr.Dataset:
    """Paths as (layer, part, letter, position, mean, passes), with intervals of 0.1 around them."""
    names = ("layer", "part", "letter", "pos", "mean", "passes")
    columns = dict(zip(names, zip(*paths, strict=True), strict=True))
    mean = np.array(columns["mean"])
    into = ["L3H0" if letter else "logits" for letter in columns["letter"]]
    sender = [f"L{layer}H{part}" for layer, part, *_ in paths]
    labels = {"receivers": into, "sender": sender}
    labels |= {name: list(columns[name]) for name in ("layer", "part", "letter", "pos")}
    values = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "passes": columns["passes"]}
    return xr.Dataset(
        {name: ("path", list(value)) for name, value in values.items()},
        coords={name: ("path", label) for name, label in labels.items()},
        attrs={"attended": 0.15},
    )


def attention(query: str, key: str, weight: float = 0.5) -> xr.DataArray:
    """All heads look from `query` at `key`, and with 0.1 at every other position."""
    weights = xr.DataArray(
        np.full((4, 2, 5, 5), 0.1),
        {"layer": range(4), "head": range(2), "query": ROLES, "key": ROLES},
        ("layer", "head", "query", "key"),
    )
    weights.loc[{"query": query, "key": key}] = weight
    return weights


def class_of(path: tuple[int, str, str, str, float, bool], weights: xr.DataArray) -> str:
    return head_classes.classify(traced(path), weights)["class"].item()


@pytest.mark.parametrize(
    ("letter", "pos", "key", "mean", "expected"),
    [
        ("", "END", "IO", -1.0, "name mover"),
        ("", "END", "IO", 1.0, "negative name mover"),
        ("q", "END", "IO", -1.0, NO_CLASS),
        ("", "END", "S1", -1.0, NO_CLASS),
        ("q", "END", "S2", -1.0, "S-inhibition"),
        ("", "END", "S2", -1.0, "S-inhibition"),
        ("q", "END", "S2", 1.0, NO_CLASS),
        ("v", "S2", "S1", -1.0, "duplicate token"),
        ("k", "S2", "S1+1", -1.0, "induction"),
        ("k", "S1+1", "S1", -1.0, "previous token"),
        ("k", "S1", "S1", -1.0, NO_CLASS),
    ],
)
def test_each_rule_is_met_by_its_own_path_and_attention(letter, pos, key, mean, expected) -> None:
    assert class_of((1, "0", letter, pos, mean, True), attention(pos, key)) == expected


def test_a_head_that_looks_at_no_named_position_has_no_class() -> None:
    weights = attention("END", "IO", weight=0.14)
    table = head_classes.classify(traced((1, "0", "", "END", -1.0, True)), weights)
    assert table[["class", "looks_at"]].values.tolist() == [[NO_CLASS, ""]]
    assert class_of((1, "0", "", "END", -1.0, True), attention("END", "IO", 0.15)) == "name mover"


def test_the_strongest_of_a_heads_paths_is_shown_and_mlps_and_weak_paths_are_not() -> None:
    paths = (
        (2, "1", "", "END", -0.5, True),
        (2, "1", "q", "END", 2.0, True),
        (2, "1", "v", "S2", -3.0, True),
        (1, "0", "", "END", -9.0, False),
        (1, "mlp", "", "END", -9.0, True),
    )
    table = head_classes.classify(traced(*paths), attention("END", "IO"))
    assert table["name"].tolist() == ["L2H1", "L2H1"]
    end = table[table["pos"] == "END"].iloc[0]
    assert end["class"] == "name mover"
    assert end["into"] == "q of L3H0 at END"
    assert end[["mean", "low", "high"]].tolist() == pytest.approx([2.0, 1.9, 2.1])
    assert end["looks_at"] == "IO"
    assert end["attention"] == 0.5


def test_no_path_gives_an_empty_table_with_all_columns() -> None:
    table = head_classes.classify(traced((1, "0", "", "END", -1.0, False)), attention("END", "IO"))
    assert len(table) == 0
    assert {"layer", "head", "class", "attention"} <= set(table.columns)
    assert head_classes.members(table) == []


def test_members_are_the_heads_of_a_class_once_and_in_order() -> None:
    rows = [(2, 1, "a"), (1, 3, "b"), (2, 1, "b"), (0, 2, "a")]
    table = pd.DataFrame(rows, columns=["layer", "head", "class"])
    assert head_classes.members(table) == [(0, 2), (1, 3), (2, 1)]
    assert head_classes.members(table, "b") == [(1, 3), (2, 1)]
    assert head_classes.members(table, "c") == []


def test_other_rules_can_be_given_and_say_what_they_are() -> None:
    mine = Rule("opener", "END", "S1+1", effect=+1)
    weights = attention("END", "S1+1")
    table = head_classes.classify(traced((1, "0", "q", "END", 1.0, True)), weights, [mine])
    assert table["class"].item() == "opener"
    assert str(mine) == (
        "opener: corrupting what it writes at END raises the metric, and from END it looks most at "
        "S1+1"
    )
    assert "on a path to the logits" in str(RULES[0])
