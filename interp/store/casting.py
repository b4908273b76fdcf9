"""Values in the type they are stored in, or an error that says which value does not fit."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from interp.errors import StoreError


class UnstorableError(StoreError):
    """A value that is not finite, or too large for its type."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row
        """Row of the value among those that were cast."""


def cast(
    rows: Float[Tensor, "rows ..."], dtype: torch.dtype
) -> tuple[Shaped[Tensor, "rows ..."], float]:
    """The rows as `dtype`, and the largest change of a value.

    Raises:
        UnstorableError: a value is NaN or infinite, or becomes infinite.
    """
    stored = rows.to(dtype)
    change = (stored.to(rows.dtype) - rows).abs().amax().item() if rows.numel() else 0.0
    # Infinite minus infinite is not a number: one look at the largest change finds all of them.
    if change < float("inf"):
        return stored, change
    row, *feature = (~stored.isfinite()).nonzero()[0].tolist()
    value = rows[(row, *feature)].item()
    if torch.isfinite(rows[(row, *feature)]):
        limit = torch.finfo(dtype).max
        name = str(dtype).removeprefix("torch.")
        raise UnstorableError(row, f"{value:g} does not fit {name} (at most {limit:g})")
    raise UnstorableError(row, f"{value} is not a finite number")
