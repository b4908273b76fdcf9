"""Estimate and exact sweep compared, on effects that are added up by hand."""

import math

import numpy as np
import pytest
import xarray as xr

from interp.agreement import compare, worst_cells

BASE = np.array([1.0, -2.0])
"""Metric of the corrupted run of each example."""
EXACT = [[[0.0, 0.0], [1.0, 3.0]], [[2.0, 4.0], [-1.0, math.nan]]]
"""Effects by layer, position and example; their means are 0, 2, 3 and -1."""
ESTIMATE = [[[0.0, 0.0], [2.0, 4.0]], [[1.0, 3.0], [1.0, math.nan]]]
"""Means 0, 3, 2 and 1."""


def sweep(effects, **attrs: str) -> xr.Dataset:
    return xr.Dataset(
        {
            "patched": (("layer", "pos", "example"), BASE + np.array(effects)),
            "clean": ("example", [5.0, 5.0]),
            "corrupted": ("example", BASE),
        },
        {"layer": [0, 1], "pos": [4, 5]},
        {"site": "attn_out", "direction": "denoising", "metric": "logit_diff", "unit": "logits"}
        | attrs,
    )


def test_means_over_examples_are_compared_cell_by_cell():
    comparison = compare(sweep(ESTIMATE), sweep(EXACT))
    assert comparison.estimate.values.tolist() == [[0, 3], [2, 1]]
    assert comparison.exact.values.tolist() == [[0, 2], [3, -1]]
    assert comparison.error.values.tolist() == [[0, 1], [-1, 2]]
    assert float(comparison.pearson) == pytest.approx(5 / (5 * 10) ** 0.5)
    assert float(comparison.spearman) == pytest.approx(0.6)  # ranks 1 4 3 2 and 2 3 4 1
    assert float(comparison.sign_agreement) == pytest.approx(2 / 3)  # 0 and 0 do not count
    assert float(comparison.largest_error) == 2
    assert comparison.attrs["unit"] == "logits"


def test_each_example_is_compared_by_itself_without_the_cells_it_does_not_have():
    comparison = compare(sweep(ESTIMATE), sweep(EXACT))
    assert comparison.pearson_of_example.values[1] == pytest.approx(69 / 78)
    assert comparison.spearman_of_example.values[1] == pytest.approx(0.5)
    assert comparison.sign_agreement_of_example.values == pytest.approx([2 / 3, 1])
    assert comparison.largest_error_of_example.values.tolist() == [2, 1]


def test_equal_values_share_their_rank():
    tied = [[[1.0, 1.0], [1.0, 1.0]], [[2.0, 2.0], [3.0, 3.0]]]
    other = [[[6.0, 6.0], [5.0, 5.0]], [[7.0, 7.0], [60.0, 60.0]]]
    spearman = float(compare(sweep(tied), sweep(other)).spearman)
    assert spearman == pytest.approx(4.5 / (4.5 * 5) ** 0.5)  # ranks 1½ 1½ 3 4 and 2 1 3 4


def test_the_worst_cells_come_first_with_their_places():
    table = worst_cells(compare(sweep(ESTIMATE), sweep(EXACT)), n=2)
    assert table.to_dict("records")[0] == {
        "layer": 1, "pos": 5, "estimate": 1, "exact": -1, "error": 2,
    }  # fmt: skip
    assert table.error.tolist() == [2, 1]


def test_a_cell_that_no_example_has_is_left_out():
    effects = np.array(ESTIMATE)
    effects[1, 1] = math.nan
    comparison = compare(sweep(effects), sweep(effects))
    assert math.isnan(comparison.error.values[1, 1])
    assert float(comparison.pearson) == pytest.approx(1)
    assert len(worst_cells(comparison)) == 3


def test_without_any_effect_there_is_nothing_to_agree_about():
    comparison = compare(sweep(np.zeros((2, 2, 2))), sweep(np.zeros((2, 2, 2))))
    for name in ("pearson", "spearman", "sign_agreement"):
        assert math.isnan(comparison[name])
    assert float(comparison.largest_error) == 0


def test_sweeps_of_different_things_are_not_compared():
    ours = sweep(ESTIMATE)
    with pytest.raises(ValueError, match=r"estimate's direction is 'denoising'.*'noising'"):
        compare(ours, sweep(EXACT, direction="noising"))
    with pytest.raises(ValueError, match=r"other cells.*'pos': 1"):
        compare(ours, sweep(EXACT).isel(pos=[0]))
    with pytest.raises(ValueError, match="other cells"):
        compare(ours, sweep(EXACT).assign_coords(pos=[4, 6]))
    with pytest.raises(ValueError, match="NaN in other cells"):
        compare(ours, sweep(np.nan_to_num(EXACT)))
