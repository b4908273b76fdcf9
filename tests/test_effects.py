"""A sweep as a table, on effects that are added up by hand."""

import numpy as np
import pytest
import xarray as xr

from interp import effects

EFFECTS = [[[1.0, 3.0], [0.0, 0.0]], [[-4.0, -6.0], [8.0, np.nan]]]
"""By layer, position and example; their means are 2, 0, -5 and 8."""


def sweep(values=EFFECTS, clean=(11.0, 12.0), direction="denoising") -> xr.Dataset:
    corrupted = np.array([1.0, 2.0])
    base = corrupted if direction == "denoising" else np.array(clean)
    return xr.Dataset(
        {
            "patched": (("layer", "pos", "example"), base + np.array(values)),
            "clean": ("example", list(clean)),
            "corrupted": ("example", corrupted),
        },
        {
            "layer": [0, 1],
            "pos": ["thing", "END"],
            "clean_token": (("example", "pos"), [["a", "b"], ["c", ""]]),
        },
        {"direction": direction},
    )


def test_the_largest_effects_come_first_with_their_places():
    table = effects.table(sweep())
    places = list(zip(table["layer"], table["pos"], strict=True))
    assert places == [(1, "END"), (1, "thing"), (0, "thing"), (0, "END")]
    assert table["effect"].to_list() == [8, -5, 2, 0]
    assert table["n"].to_list() == [1, 2, 2, 2]
    assert table["recovered_fraction"].to_list() == pytest.approx([0.8, -0.5, 0.2, 0])


def test_noising_counts_from_the_clean_run():
    table = effects.table(sweep(direction="noising"))
    assert table["effect"].to_list() == [8, -5, 2, 0]
    assert table["recovered_fraction"].to_list() == pytest.approx([1.8, 0.5, 1.2, 1])


def test_intervals_and_tests_are_those_of_statistics():
    table = effects.table(sweep()).set_index(["layer", "pos"])
    assert table.loc[(1, "thing"), ["low", "high"]].to_list() == [-6, -4]
    assert np.isnan(table.loc[(1, "END"), "low"])  # one example has no interval
    # Two examples have four sign patterns, of which two are as extreme; one example, all of them.
    assert table.loc[(1, "thing"), "p"] == 0.5
    assert table.loc[(1, "END"), "p"] == 1


def test_a_cell_where_nothing_happens_is_no_test_that_others_pay_for():
    values = np.zeros((2, 2, 6))
    values[0, 0] = [1, 2, 3, 4, 5, 6]
    ds = xr.Dataset(
        {
            "patched": (("layer", "head", "example"), values),
            "clean": ("example", np.ones(6)),
            "corrupted": ("example", np.zeros(6)),
        },
        {"layer": [0, 1], "head": [0, 1]},
        {"direction": "denoising"},
    )
    table = effects.table(ds)
    assert table["p_corrected"][0] == 2 / 2**6
    assert table["p_corrected"][1:].isna().all()


def test_one_example_has_neither_interval_nor_test():
    table = effects.table(sweep().isel(example=[0]))
    assert list(table) == ["layer", "pos", "effect", "n", "recovered_fraction"]


def test_a_cell_that_was_not_measured_is_left_out():
    values = np.array(EFFECTS)
    values[0, 1] = np.nan
    table = effects.table(sweep(values))
    assert len(table) == 3
    assert table["recovered_fraction"].notna().all()


def test_an_undefined_fraction_is_left_out_and_its_examples_are_named():
    same = sweep(clean=(1.0, 2.0))
    assert "recovered_fraction" not in effects.table(same)
    assert effects.table(same)["effect"].to_list() == [8, -5, 2, 0]
    assert "0 at example 0; 0 at example 1" in effects.undefined_fraction(same)
    one = sweep(clean=(11.0, 2.0))
    assert "at example 1." in effects.undefined_fraction(one)
    assert effects.undefined_fraction(one, pooled=True) is None
    assert effects.table(one)["recovered_fraction"][1] == -5 / 5
    assert effects.undefined_fraction(sweep()) is None
