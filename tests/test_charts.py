import math

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from interp import charts

HEADS = pd.DataFrame({"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "effect": [0.5, -2.0, 0.0, 1.0]})


def rows(chart) -> list[dict]:
    """The data that a chart shows."""
    (table,) = chart.to_dict()["datasets"].values()
    return table


def test_a_signed_head_map_has_a_symmetric_range_around_zero():
    spec = charts.head_map(HEADS, "effect", "Effect (logits)", signed=True).to_dict()
    assert spec["encoding"]["color"]["scale"]["domain"] == [-2.0, 2.0]
    assert spec["title"] == "Effect (logits)"
    assert rows(charts.head_map(HEADS, "effect", ""))[1] == {"layer": 0, "head": 1, "effect": -2.0}


def test_a_map_of_names_keeps_the_tables_order_and_writes_its_numbers():
    table = pd.DataFrame({"place": ["b", "a"], "depth": ["L1", "L0"], "accuracy": [0.25, 1.0]})
    spec = charts.cell_map(table, "place", "depth", "accuracy", "Accuracy").to_dict()
    cells, numbers = (layer["encoding"] for layer in spec["layer"])
    assert [cells[axis]["sort"] for axis in "xy"] == [None, None]
    assert cells["color"]["scale"]["domain"] == [0, 1.0]
    assert numbers["text"] == {"field": "accuracy", "format": ".2f", "type": "quantitative"}
    assert rows(charts.cell_map(table, "place", "depth", "accuracy", "")) == table.to_dict(
        "records"
    )


def test_head_maps_can_share_a_range():
    for signed, domain in ((True, [-1.0, 1.0]), (False, [0, 1.0])):
        spec = charts.head_map(HEADS, "effect", "", signed=signed, limit=1.0).to_dict()
        assert spec["encoding"]["color"]["scale"]["domain"] == domain


def test_a_map_of_zeros_still_has_a_range():
    spec = charts.head_map(HEADS.assign(effect=0.0), "effect", "", signed=True).to_dict()
    low, high = spec["encoding"]["color"]["scale"]["domain"]
    assert low < high


def test_repeated_tokens_stay_apart_in_an_attention_row():
    shown = rows(charts.attention_row([0.25, 0.75], [" the", " the"], ""))
    assert shown == [{"token": "0 ·the", "weight": 0.25}, {"token": "1 ·the", "weight": 0.75}]


def test_bars_keep_their_numbers():
    table = pd.DataFrame({"coordinate": [0, 1], "product": [1.5, -0.5]})
    assert [row["product"] for row in rows(charts.bars(table, "coordinate", "product", ""))] == [
        1.5,
        -0.5,
    ]


def test_bars_of_names_stand_in_the_rows_order():
    table = pd.DataFrame({"from": ["never", "1 %", "20 %"], "features": [3, 2, 1]})
    assert charts.bars(table, "from", "features", "").to_dict()["encoding"]["x"]["sort"] is None


def test_an_attention_matrix_leaves_out_what_is_masked():
    pattern = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    shown = rows(charts.attention_matrix(pattern, ["a", "b"], ""))
    assert [(row["query"], row["key"], row["weight"]) for row in shown] == [
        ("0 a", "0 a", 1.0),
        ("1 b", "0 a", 0.25),
        ("1 b", "1 b", 0.75),
    ]


def test_a_pattern_of_many_tokens_is_drawn():
    shown = rows(charts.attention_matrix(torch.eye(110), ["a"] * 110, ""))
    assert len(shown) == 110 * 111 / 2


def test_labels_show_white_space_and_cut_long_tokens():
    assert charts.token_labels([" the", "\n", "x" * 16]) == ["0 ·the", "1 ⏎", f"2 {'x' * 16}"]
    assert charts.shortened("😀" * 17) == "😀" * 15 + "…"
    assert charts.shortened("abcdef", 4) == "abc…"


def test_bars_of_heads_are_ordered_by_their_mean():
    table = HEADS.rename(columns={"effect": "mean"}).assign(low=-3.0, high=3.0)
    shown = rows(charts.head_bars(table, "t", "logits"))
    assert [(row["condition"], row["mean"]) for row in shown] == [
        ("L1H1", 1.0), ("L0H0", 0.5), ("L1H0", 0.0), ("L0H1", -2.0),
    ]  # fmt: skip


def attribution(values: list[list[float]]) -> xr.DataArray:
    """Parts over (component, pos, example); half of each at either of two positions."""
    halves = np.array(values)[:, None] * np.full((1, 2, 1), 0.5)
    return xr.DataArray(
        halves,
        dims=("component", "pos", "example"),
        coords={
            "component": ["L0H0", "L0 MLP", "embed", "residue"],
            "layer": ("component", [0] * 4),
        },
        attrs={"metric": "logit_diff", "unit": "logits"},
    )


def test_contributions_are_ordered_by_size_and_add_up_to_the_metric():
    parts = attribution([[1.0, 3.0], [-4.0, -6.0], [0.5, 0.5], [0.25, 0.25]])
    chart = charts.contributions(parts, most=2)
    shown = {row["condition"]: row["mean"] for row in rows(chart)}
    assert list(shown.items()) == [("L0 MLP", -5.0), ("L0H0", 2.0), ("2 others", 0.75)]
    assert chart.to_dict()["title"] == "What adds up to logit_diff = -2.250 logits, mean of n=2"
    assert "others" not in str(rows(charts.contributions(parts)))


def test_contributions_of_one_example_have_no_interval():
    chart = charts.contributions(
        attribution([[1.0], [-4.0], [0.5], [0.25]]).sum("pos", keep_attrs=True)
    )
    assert all(row["low"] is None and row["high"] is None for row in rows(chart))
    assert chart.to_dict()["title"].endswith("logits, n=1")


def test_intervals_show_mean_and_both_ends():
    table = pd.DataFrame({"condition": ["as is"], "mean": [2.0], "low": [1.5], "high": [2.5]})
    bar, rule = charts.intervals(table, "t", "logits").to_dict()["layer"]
    assert bar["encoding"]["x"]["field"] == "mean"
    assert (rule["encoding"]["x"]["field"], rule["encoding"]["x2"]["field"]) == ("low", "high")


@pytest.mark.parametrize(("log_x", "scale"), [(True, {"type": "log", "base": 2}), (False, None)])
def test_lines_are_logarithmic_only_on_request(log_x, scale):
    table = pd.DataFrame({"d_k": [4, 8], "variance": [4.0, 8.0], "factor": ["with", "with"]})
    spec = charts.lines(table, "d_k", "variance", "factor", "", log_x=log_x).to_dict()
    assert spec["encoding"]["x"].get("scale") == scale
    assert math.isclose(
        rows(charts.lines(table, "d_k", "variance", "factor", ""))[1]["variance"], 8
    )


def test_signed_bars_keep_the_order_and_tell_the_signs():
    table = pd.DataFrame({"part": ["embed", "L0 MLP", "L1 MLP"], "effect": [0.5, -2.0, 1.0]})
    chart = charts.signed_bars(table, "part", "effect", "Parts", "logits")
    spec = chart.to_dict()
    assert rows(chart) == table.to_dict("records")
    assert spec["encoding"]["y"]["sort"] is None
    assert spec["encoding"]["y"]["axis"]["labelOverlap"] is False
    assert spec["encoding"]["x"]["title"] == "logits"
    colour = spec["encoding"]["color"]
    assert (colour["condition"]["test"], colour["condition"]["value"], colour["value"]) == (
        "(datum['effect'] < 0)",
        charts.NEGATIVE,
        charts.POSITIVE,
    )


def test_signed_bars_sum_what_has_no_bar_of_its_own():
    table = pd.DataFrame({"part": list("abcd"), "effect": [0.5, -2.0, 0.25, 1.0]})
    shown = rows(charts.signed_bars(table, "part", "effect", "", "logits", most=2))
    assert shown == [
        {"part": "b", "effect": -2.0},
        {"part": "d", "effect": 1.0},
        {"part": "2 others", "effect": 0.75},
    ]
    assert len(rows(charts.signed_bars(table, "part", "effect", "", "logits", most=4))) == 4


def test_lines_over_text_keep_its_order():
    table = pd.DataFrame({"layer": ["L0 pre", "L0 mid"], "prob": [0.1, 0.2], "token": ["a", "a"]})
    spec = charts.lines(table, "layer", "prob", "token", "").to_dict()
    assert spec["encoding"]["x"]["type"] == "nominal"
    assert spec["encoding"]["x"]["sort"] is None
    over_numbers = charts.lines(table.assign(layer=[0, 1]), "layer", "prob", "token", "").to_dict()
    assert over_numbers["encoding"]["x"]["type"] == "quantitative"


def test_a_place_map_keeps_the_tables_order_and_leaves_cells_empty():
    table = pd.DataFrame(
        {"token": ["b", "a", "b"], "layer": ["L1", "L1", "L0"], "cosine": [0.5, math.nan, -0.25]}
    )
    chart = charts.place_map(table, "token", "layer", "cosine", "Cosine", signed=True)
    spec = chart.to_dict()
    assert [spec["encoding"][axis]["sort"] for axis in "xy"] == [None, None]
    assert spec["encoding"]["color"]["scale"]["domain"] == [-0.5, 0.5]
    assert rows(chart) == table.dropna().to_dict("records")
    amounts = charts.place_map(table, "token", "layer", "cosine", "", limit=1.0).to_dict()
    assert amounts["encoding"]["color"]["scale"]["domain"] == [0, 1.0]


def test_panels_show_each_column_in_its_own_range():
    table = pd.DataFrame({"coordinate": [0, 1], "q": [1.0, -2.0], "k": [30.0, 40.0]})
    chart = charts.panels(table, "coordinate", ["k", "q"], "Vectors")
    spec = chart.to_dict()
    assert rows(chart) == [
        {"coordinate": 0, "of": "k", "value": 30.0},
        {"coordinate": 1, "of": "k", "value": 40.0},
        {"coordinate": 0, "of": "q", "value": 1.0},
        {"coordinate": 1, "of": "q", "value": -2.0},
    ]
    assert spec["encoding"]["row"]["sort"] == ["k", "q"]
    assert spec["resolve"] == {"scale": {"y": "independent"}}


def test_paired_bars_keep_the_largest_rows_in_order():
    table = pd.DataFrame(
        {"key": list("abc"), "before": [0.5, 0.1, 0.4], "after": [0.1, 0.2, 0.7]}, index=[5, 6, 7]
    )
    chart = charts.paired_bars(table, "key", ["before", "after"], "Row", "weight", most=2)
    assert rows(chart) == [
        {"key": "a", "of": "before", "value": 0.5},
        {"key": "c", "of": "before", "value": 0.4},
        {"key": "a", "of": "after", "value": 0.1},
        {"key": "c", "of": "after", "value": 0.7},
    ]
    assert chart.to_dict()["encoding"]["yOffset"]["sort"] == ["before", "after"]
