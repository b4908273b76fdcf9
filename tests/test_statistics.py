import numpy as np
import pytest

from interp.statistics import Interval, bootstrap_mean


def test_interval_of_a_known_sample_matches_the_normal_approximation():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    interval = bootstrap_mean(values, n_resamples=20_000)
    half_width = 1.96 * values.std() / 20
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half_width, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half_width, abs=0.03)


def test_equal_values_have_no_width():
    assert bootstrap_mean([2.0, 2.0, 2.0]) == Interval(2.0, 2.0, 2.0)


def test_the_seed_decides_the_interval():
    values = np.random.default_rng(1).normal(size=50)
    assert bootstrap_mean(values, seed=3) == bootstrap_mean(values, seed=3)
    assert bootstrap_mean(values, seed=3) != bootstrap_mean(values, seed=4)


@pytest.mark.parametrize("values", [[1.0], [], [1.0, float("nan")], [[1.0, 2.0], [3.0, 4.0]]])
def test_values_without_an_interval_are_refused(values):
    with pytest.raises(ValueError, match="two or more finite numbers"):
        bootstrap_mean(values)
