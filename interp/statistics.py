"""Uncertainty over examples."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Interval(NamedTuple):
    """A mean with its bootstrap interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap_mean(
    values: ArrayLike, *, level: float = 0.95, n_resamples: int = 5000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean over examples (Efron 1979).

    Args:
        values: One number per example; at least two, all finite.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) < 2 or not np.isfinite(sample).all():
        raise ValueError(f"An interval needs two or more finite numbers, got {sample!r}.")
    generator = np.random.default_rng(seed)
    means = sample[generator.integers(len(sample), size=(n_resamples, len(sample)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high))
