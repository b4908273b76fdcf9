"""Means and variances of rows, gathered batch by batch and merged without loss.

A batch is summed in float32 about a point near its mean, which keeps float32's accuracy however
far from 0 the mean is; batches are merged in float64.

Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
sample variances".
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

FLOAT32_SQUARES = 1e15
"""Sums of squares of larger values are left to float64."""


class Moments:
    """Moments of each feature, and the range of values and of row norms, over all rows added."""

    def __init__(self, feature: tuple[int, ...]) -> None:
        self.count = 0
        """Rows; everything else is 0 without any."""
        self.mean: Tensor = torch.zeros(feature, dtype=torch.float64)
        self.m2: Tensor = torch.zeros(feature, dtype=torch.float64)
        """Sum of squared differences from the mean, of each feature."""
        self.absmax = 0.0
        """Largest absolute value."""
        self.norm_min = 0.0
        self.norm_mean = 0.0
        self.norm_max = 0.0
        """Euclidean norm of a whole row, over all features."""

    @property
    def variance(self) -> Float[Tensor, "*feature"]:
        """Variance of these very rows: no correction for a sample; NaN without rows."""
        return self.m2 / self.count if self.count else torch.full_like(self.m2, torch.nan)

    def add(self, x: Float[Tensor, "rows ..."]) -> None:
        """Take in rows of float32, all finite."""
        if x.shape[1:] != self.mean.shape:
            raise ValueError(f"Expected rows {tuple(self.mean.shape)}, got {tuple(x.shape[1:])}.")
        if len(x):
            self.merge(_moments_of(x))

    def merge(self, other: "Moments") -> None:
        """Take in all rows of another."""
        if other.count == 0:
            return
        is_first = self.count == 0
        self.count += other.count
        share = other.count / self.count
        shift = other.mean - self.mean
        self.m2 = self.m2 + other.m2 + shift.square() * (other.count * (1 - share))
        self.mean = self.mean + shift * share
        self.absmax = max(self.absmax, other.absmax)
        self.norm_min = other.norm_min if is_first else min(self.norm_min, other.norm_min)
        self.norm_mean += (other.norm_mean - self.norm_mean) * share
        self.norm_max = max(self.norm_max, other.norm_max)


def _moments_of(x: Float[Tensor, "rows ..."]) -> Moments:
    moments = Moments(tuple(x.shape[1:]))
    moments.count = len(x)
    moments.absmax = float(x.abs().max())
    if moments.absmax > FLOAT32_SQUARES:
        x = x.double()
    near_mean = x.mean(0)
    difference = x - near_mean
    rest = difference.mean(0).double()
    moments.mean = near_mean.double() + rest
    squares = difference.square_().sum(0).double()
    moments.m2 = squares - len(x) * rest.square()
    norms = torch.linalg.vector_norm(rearrange(x, "rows ... -> rows (...)"), dim=1)
    moments.norm_min, moments.norm_max = float(norms.min()), float(norms.max())
    moments.norm_mean = float(norms.mean(dtype=torch.float64))
    return moments
