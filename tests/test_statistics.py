from itertools import product

import numpy as np
import pytest
import xarray as xr

from interp import statistics
from interp.errors import PromptError
from interp.statistics import (
    Interval,
    bootstrap,
    bootstrap_mean,
    bootstrap_ratio,
    corrected_p_values,
    effect,
    paired_permutation,
    permutation_test,
    pooled_recovered_fraction,
    recovered_fraction,
)

NAN = float("nan")


def sweep(patched, clean, corrupted, direction: str = "denoising") -> xr.Dataset:
    """A sweep over (pos, example) as `interp.patching` returns it."""
    return xr.Dataset(
        {
            "patched": (("pos", "example"), np.array(patched)),
            "clean": ("example", np.array(clean)),
            "corrupted": ("example", np.array(corrupted)),
        },
        coords={"pos": range(len(patched))},
        attrs={"direction": direction, "metric": "logit_diff", "unit": "logits"},
    )


PATCHED = [[1.0, -1.0], [3.0, NAN]]
SWEEP = sweep(PATCHED, clean=[5.0, 3.0], corrupted=[1.0, -1.0])


def cells_with_gaps(n_examples: int = 9) -> xr.DataArray:
    """Random numbers over (example, layer, pos); later positions lack more and more examples."""
    values = np.random.default_rng(2).normal(0.5, 1.0, size=(n_examples, 2, 12))
    for pos in range(12):
        values[:pos, :, pos] = NAN
    return xr.DataArray(values, dims=("example", "layer", "pos"), coords={"layer": [4, 5]})


def test_the_effect_is_measured_from_the_run_that_was_patched():
    np.testing.assert_equal(effect(SWEEP).values, [[0.0, 0.0], [2.0, NAN]])
    noising = sweep(PATCHED, [5.0, 3.0], [1.0, -1.0], "noising")
    np.testing.assert_equal(effect(noising).values, [[-4.0, -4.0], [-2.0, NAN]])
    assert effect(noising).attrs["unit"] == "logits"


def test_a_direction_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="'denoising' or 'noising', got 'forwards'"):
        effect(SWEEP.assign_attrs(direction="forwards"))


def test_the_recovered_fraction_is_0_at_the_corrupted_run_and_1_at_the_clean_one():
    ds = sweep([[1.0, -1.0], [5.0, 3.0], [2.0, 4.0]], [5.0, 3.0], [1.0, -1.0])
    np.testing.assert_equal(recovered_fraction(ds).values, [[0.0, 0.0], [1.0, 1.0], [0.25, 1.25]])
    assert recovered_fraction(ds).attrs["unit"] == "fraction"
    assert recovered_fraction(ds).attrs["metric"] == "logit_diff"


def test_the_pooled_fraction_divides_means_of_the_same_examples():
    ds = sweep([[2.0, 2.0], [2.0, NAN], [NAN, NAN]], clean=[3.0, 9.0], corrupted=[1.0, 1.0])
    np.testing.assert_allclose(pooled_recovered_fraction(ds), [0.2, 0.5, NAN])
    np.testing.assert_allclose(recovered_fraction(ds).mean("example"), [0.3125, 0.5, NAN])


def test_a_fraction_without_a_gap_names_the_examples():
    ds = sweep([[1.0, 1.0, 1.0]], clean=[5.0, 1.001, 1.0], corrupted=[1.0, 1.0, 1.0])
    with pytest.raises(PromptError, match=r"0.001 at example 1; 0 at example 2\. Leave these out"):
        recovered_fraction(ds)
    with pytest.raises(PromptError, match="0 at example 2"):
        recovered_fraction(ds, smallest_gap=0)
    assert float(pooled_recovered_fraction(ds)[0]) == 0.0


def test_a_gap_that_is_not_finite_is_refused_by_both_fractions():
    ds = sweep([[1.0, 1.0]], clean=[5.0, NAN], corrupted=[1.0, 1.0])
    for fraction in (recovered_fraction, pooled_recovered_fraction):
        with pytest.raises(PromptError, match="nan at example 1"):
            fraction(ds)


def test_gaps_that_cancel_have_no_pooled_fraction():
    ds = sweep([[1.0, 1.0], [1.0, NAN]], clean=[5.0, 1.0], corrupted=[1.0, 5.0])
    with pytest.raises(PromptError, match=r"0 at pos 0\. Leave"):
        pooled_recovered_fraction(ds)


def test_many_examples_without_a_gap_are_counted():
    with pytest.raises(PromptError, match="example 7, and 12 more"):
        recovered_fraction(sweep([[1.0] * 20], [1.0] * 20, [1.0] * 20))


def test_interval_of_a_known_sample_matches_the_normal_approximation():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    interval = bootstrap_mean(values, n_resamples=20_000)
    half_width = 1.96 * values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.03)


def test_the_interval_is_that_of_means_of_drawn_examples():
    values = np.random.default_rng(1).exponential(size=7)
    draws = np.random.default_rng(3).integers(7, size=(500, 7))
    low, high = np.quantile(values[draws].mean(axis=1), [0.05, 0.95])
    interval = bootstrap_mean(values, level=0.9, n_resamples=500, seed=3)
    assert interval == pytest.approx((values.mean(), low, high))


def test_equal_values_have_no_width():
    assert bootstrap_mean([2.0, 2.0, 2.0]) == Interval(2.0, 2.0, 2.0)


def test_the_seed_decides_the_interval():
    values = np.random.default_rng(1).normal(size=50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


@pytest.mark.parametrize("values", [[1.0], [], [1.0, NAN], [[1.0, 2.0], [3.0, 4.0]]])
def test_values_without_an_interval_are_refused(values):
    with pytest.raises(ValueError, match="two or more finite numbers"):
        bootstrap_mean(values)


@pytest.mark.parametrize("most_numbers", [100, statistics.MAX_NUMBERS])
def test_every_cell_has_the_interval_of_its_own_examples(monkeypatch, most_numbers):
    cells = cells_with_gaps()
    columns = [cells[:, layer, pos] for layer, pos in product(range(2), range(8))]
    expected = [bootstrap_mean(c.dropna("example"), n_resamples=300) for c in columns]
    monkeypatch.setattr(statistics, "MAX_NUMBERS", most_numbers)
    found = bootstrap(cells, n_resamples=300).isel(pos=slice(8))
    for name in Interval._fields:
        np.testing.assert_allclose(
            found[name].values.ravel(), [getattr(interval, name) for interval in expected]
        )
    assert found["n"].values.tolist() == [[9, 8, 7, 6, 5, 4, 3, 2]] * 2
    assert found["layer"].values.tolist() == [4, 5]


def test_a_cell_with_one_example_has_a_mean_and_one_without_has_nothing():
    found = bootstrap(cells_with_gaps(), n_resamples=10).isel(layer=0)
    assert found["mean"].notnull().values.tolist() == [True] * 9 + [False] * 3
    assert found["low"].notnull().values.tolist() == [True] * 8 + [False] * 4
    assert found["n"].values.tolist() == [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0, 0]


def test_intervals_say_how_they_were_made():
    found = bootstrap(effect(SWEEP), level=0.9, n_resamples=10, seed=4)
    assert found.attrs["direction"] == "denoising"
    made_by = {name: found.attrs[name] for name in ("level", "n_resamples", "bootstrap_seed")}
    assert made_by == {"level": 0.9, "n_resamples": 10, "bootstrap_seed": 4}


def test_a_dim_that_is_not_there_and_infinite_values_are_refused():
    with pytest.raises(ValueError, match="no dim 'prompt'"):
        bootstrap(SWEEP.patched, "prompt")
    with pytest.raises(ValueError, match="infinite"):
        permutation_test(SWEEP.patched / 0.0)


def test_the_exact_p_value_counts_all_sign_patterns():
    # Of the 8 patterns of 1, 2, 3, only +++ and --- reach a sum of 6 away from 0.
    assert paired_permutation([1.0, 2.0, 3.0], [0.0, 0.0, 0.0]) == 2 / 8
    # 1 + 2 - 3 = 0: every pattern is as extreme.
    assert paired_permutation([1.0, 2.0, 0.0], [0.0, 0.0, 3.0]) == 1.0
    # 0.3 - 0.1 - 0.2 and 0.1 + 0.2 - 0.3 are ties only up to rounding.
    assert paired_permutation([0.1, 0.2, -0.3], [0.0, 0.0, 0.0]) == 1.0


def test_the_random_p_value_is_near_the_exact_one_and_never_zero():
    first = np.random.default_rng(0).normal(0.4, 1.0, size=12)
    exact = paired_permutation(first, np.zeros(12))
    drawn = paired_permutation(first, np.zeros(12), n_resamples=4000)
    assert exact != drawn
    assert drawn == pytest.approx(exact, abs=0.02)
    assert paired_permutation(np.ones(40), np.zeros(40), n_resamples=99) == 0.01
    again = paired_permutation(first, np.zeros(12), n_resamples=4000, seed=1)
    assert again != drawn


def test_pairs_that_cannot_be_compared_are_refused():
    assert paired_permutation([1.0, 2.0, 3.0, NAN], [0.0, 0.0, 0.0, 0.0]) == 2 / 8
    with pytest.raises(ValueError, match=r"equal lengths, got \(2,\) and \(3,\)"):
        paired_permutation([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="no pair of two numbers"):
        paired_permutation([1.0, NAN], [NAN, 1.0])


@pytest.mark.parametrize("most_numbers", [40, statistics.MAX_NUMBERS])
@pytest.mark.parametrize("n_resamples", [200, 1000])
def test_every_cell_is_tested_with_its_own_examples(monkeypatch, n_resamples, most_numbers):
    cells = cells_with_gaps()
    columns = [cells.values[:, layer, pos] for layer, pos in product(range(2), range(9))]
    expected = [paired_permutation(c, np.zeros(9), n_resamples=n_resamples) for c in columns]
    monkeypatch.setattr(statistics, "MAX_NUMBERS", most_numbers)
    found = permutation_test(cells, n_resamples=n_resamples)
    assert found.p[:, :9].values.ravel().tolist() == expected
    assert bool(found.p[:, 9:].isnull().all())
    np.testing.assert_equal(found.p_corrected.values, corrected_p_values(found.p.values, "holm"))


def test_corrections_match_hand_arithmetic():
    p = [0.01, 0.032, 0.03, NAN, 0.005]
    # Holm: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 1 x 0.032 raised to the step before.
    np.testing.assert_allclose(corrected_p_values(p, "holm"), [0.03, 0.06, 0.06, NAN, 0.02])
    # Benjamini-Hochberg: 4/1 x 0.005, 4/2 x 0.01, 4/3 x 0.03 lowered to the next, 4/4 x 0.032.
    np.testing.assert_allclose(
        corrected_p_values(p, "benjamini-hochberg"), [0.02, 0.032, 0.032, NAN, 0.02]
    )
    np.testing.assert_equal(corrected_p_values([[0.9], [0.8]], "holm"), [[1.0], [1.0]])


def test_a_ratio_of_means_has_an_interval():
    denominators = np.random.default_rng(0).normal(10, 1, size=400)
    numerators = 0.5 * denominators + np.random.default_rng(1).normal(0, 0.1, size=400)
    found = bootstrap_ratio(numerators, denominators)
    assert found.mean == pytest.approx(numerators.mean() / denominators.mean())
    assert found.low < 0.5 < found.high
    # The standard error of the mean of what is left, over the denominator.
    assert found.high - found.low == pytest.approx(4 * 0.1 / 20 / 10, rel=0.2)


def test_a_constant_ratio_is_certain():
    assert bootstrap_ratio([2.0, 4.0, 9.0], [1.0, 2.0, 4.5]) == (2.0, 2.0, 2.0)


def test_a_ratio_to_nothing_is_refused():
    with pytest.raises(PromptError, match=r"which holds 0\. Use the differences"):
        bootstrap_ratio([1.0, 2.0, 3.0], [-1.0, 0.1, 1.0])
    with pytest.raises(ValueError, match="two or more pairs of finite numbers"):
        bootstrap_ratio([1.0], [2.0])
