"""Tolerances of the tests, and the one comparison that uses them."""

import torch
from torch import Tensor

FLOAT32 = 1e-5
"""Relative to the largest value; two orders of the same float32 sums differ by about 1e-6."""
FLOAT64 = 1e-10
BFLOAT16 = 5e-2
"""bfloat16 keeps 8 bits: 0.4 % for each rounding on the way."""


def difference(ours: Tensor, expected: Tensor) -> float:
    """Largest absolute difference, relative to the largest expected value."""
    assert ours.shape == expected.shape
    scale = expected.detach().abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    return float((ours - expected).detach().abs().max() / scale)


def assert_close(ours: Tensor, expected: Tensor, tolerance: float = FLOAT32) -> None:
    """Equal up to a difference relative to the largest expected value; NaN never is."""
    error = difference(ours, expected)
    assert error <= tolerance, f"differs by {error:.1e} of the largest value"
