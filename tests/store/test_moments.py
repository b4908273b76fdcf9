"""Moments of many batches equal those of all rows at once."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.store.moments import Moments
from tests.comparison import FLOAT32, assert_close


def gathered(*batches: torch.Tensor) -> Moments:
    moments = Moments(tuple(batches[0].shape[1:]))
    for batch in batches:
        moments.add(batch)
    return moments


def assert_equal(ours: Moments, theirs: Moments) -> None:
    assert ours.count == theirs.count
    assert_close(ours.mean, theirs.mean)
    assert_close(ours.m2, theirs.m2)
    for name in ("absmax", "norm_min", "norm_mean", "norm_max"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=FLOAT32)


def test_three_rows_by_hand() -> None:
    moments = gathered(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[-6.0, 8.0]]))
    assert moments.count == 3
    assert moments.mean.tolist() == [-1.0, 4.0]
    assert moments.m2.tolist() == pytest.approx([16 + 1 + 25, 0 + 16 + 16])
    assert moments.variance.tolist() == pytest.approx([14, 32 / 3])
    assert moments.absmax == 8
    assert (moments.norm_min, moments.norm_mean, moments.norm_max) == (0, 5, 10)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 2**31))
def test_batches_add_up_to_all_rows(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(sum(lengths), 2, 3, generator=generator) * 5 + 1
    parts = [gathered(batch) for batch in x.split(lengths)]
    merged = Moments((2, 3))
    for part in parts:
        merged.merge(part)
    assert_equal(merged, gathered(*x.split(lengths)))
    if len(x):
        exact = x.double()
        assert_close(merged.mean, exact.mean(0))
        assert_close(merged.m2, (exact - exact.mean(0)).square().sum(0))
        norms = exact.flatten(1).norm(dim=1)
        assert merged.norm_mean == pytest.approx(float(norms.mean()), rel=FLOAT32)
        assert merged.norm_min == pytest.approx(float(norms.min()), rel=FLOAT32)
        assert merged.absmax == float(x.abs().max())


def test_a_mean_far_from_zero_costs_no_accuracy() -> None:
    x = 3000 + 0.01 * torch.randn(5000, 8, generator=torch.Generator().manual_seed(0))
    moments = gathered(*x.split(1000))
    assert_close(moments.m2, (x.double() - x.double().mean(0)).square().sum(0))


def test_equal_rows_have_no_variance() -> None:
    row = 10 * torch.randn(1, 500, generator=torch.Generator().manual_seed(0))
    moments = gathered(row.repeat(1000, 1), row.repeat(7, 1))
    assert (moments.m2 >= 0).all()
    assert float(moments.m2.max()) < 1e-9


def test_squares_beyond_float32_stay_finite() -> None:
    lowest = torch.finfo(torch.float32).min
    moments = gathered(torch.tensor([[lowest, 0.0], [lowest, 1.0]]))
    assert moments.norm_max == pytest.approx(-lowest)
    assert moments.m2.tolist() == pytest.approx([0, 0.5])


def test_no_rows_have_no_moments() -> None:
    moments = gathered(torch.empty(0, 3))
    assert (moments.count, moments.absmax, moments.norm_min) == (0, 0, 0)
    assert moments.variance.isnan().all()


def test_a_scalar_feature_has_a_moment_too() -> None:
    moments = gathered(torch.tensor([1.0, 3.0]))
    assert (float(moments.mean), float(moments.variance)) == (2, 1)
    assert (moments.norm_min, moments.norm_max) == (1, 3)


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Expected rows \(3,\), got \(1,\)"):
        Moments((3,)).add(torch.zeros(5, 1))
