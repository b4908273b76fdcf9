"""Tokens as they are read, several to a row, coloured by a value."""

from collections.abc import Callable, Sequence
from math import ceil

import numpy as np

from dashboards.components import canvas
from interp.model.tokens import visible

ACROSS = 10
"""Tokens of a row."""


def word_strip(
    values: Sequence[float] | np.ndarray,
    tokens: Sequence[str],
    *,
    unit: str,
    label: str,
    key: str,
    first: int = 0,
    limit: float | None = 1.0,
    marked: int | None = None,
    on_pick: Callable[[int], None] | None = None,
) -> None:
    """Draw them; NaN is an empty cell.

    Args:
        unit: What is counted, such as "step".
        label: What it shows, for a screen reader.
        first: Number of the first token.
        limit: End of the colour range; by default the largest value.
        marked: Number of the token with an outline.
        on_pick: Called with the number of the token that was clicked.
    """
    n_rows = ceil(len(values) / ACROSS)
    places = n_rows * ACROSS
    filled = np.full(places, np.nan)
    filled[: len(values)] = values
    words = [visible(token) for token in tokens] + [""] * (places - len(tokens))
    starts = range(0, places, ACROSS)
    canvas.grid(
        filled.reshape(n_rows, ACROSS), rows=[str(first + start) for start in starts],
        columns=[f"+{n}" for n in range(ACROSS)], row_title=unit, label=label, key=key,
        words=[words[start : start + ACROSS] for start in starts], limit=limit,
        marked=None if marked is None else divmod(marked - first, ACROSS),
        on_pick=None if on_pick is None else lambda r, c: on_pick(first + ACROSS * r + c),
    )  # fmt: skip
