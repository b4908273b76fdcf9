"""Pictures drawn on a canvas in the browser: one heat map, or a thumbnail of every head.

They are drawn here instead of by a chart library because a click must show the next picture at
once; the same numbers are exported as charts of the library. Text reaches the browser as data, and
is only drawn or set as text.
"""

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import streamlit as st
import xarray as xr
from jaxtyping import Float
from streamlit.components.v2 import component
from streamlit.components.v2.types import ComponentRenderer

ASSETS = Path(__file__).resolve().parent / "assets"
CELL = 44
"""Widest cell of a heat map, in pixels."""
WORD_CELL = 78
"""The same where a cell shows a word."""

Scheme = Literal["amount", "signed", "rank"]
"""From 0 to the limit, from minus to plus the limit, or from 1, the brightest, by its logarithm."""
OnPick = Callable[[int, int], None]
"""Called with the row and column that were clicked, before the page is drawn anew."""


def asset(*names: str) -> str:
    """The text of asset files, one after the other."""
    return "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in names)


def _canvas(name: str) -> ComponentRenderer:
    """A component that draws on a canvas, with a tip and a spoken description."""
    html = (
        '<div class="picture"><canvas tabindex="0" role="img"></canvas>'
        '<div class="tip" hidden></div><div class="spoken" aria-live="polite"></div></div>'
    )
    js = asset("drawing.js", f"{name}.js")
    return component(f"interp.{name}", html=html, css=asset("canvas.css"), js=js)


_grid, _mosaic = _canvas("grid"), _canvas("mosaic")


def grid(
    values: Float[np.ndarray, "row column"],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    key: str,
    row_title: str = "",
    column_title: str = "",
    scheme: Scheme = "amount",
    limit: float | None = None,
    unit: str = "",
    words: Sequence[Sequence[str]] | None = None,
    marked: tuple[int, int] | None = None,
    chosen: Sequence[tuple[int, int]] = (),
    on_pick: OnPick | None = None,
) -> None:
    """A heat map; NaN is an empty cell.

    Args:
        label: What it shows, for a screen reader.
        limit: End of the colour range; by default the largest size of a value.
        unit: Of the values.
        words: A word to write in each cell.
        marked: Row and column with an outline, and their labels in bold.
        chosen: More cells with an outline, each with a cross through it.
        on_pick: Makes cells clickable.
    """
    finite = np.abs(values[np.isfinite(values)])
    largest = float(finite.max()) if finite.size else 0.0
    data: dict[str, Any] = {
        "values": _base64(values.astype("<f4")),
        "rows": list(rows),
        "columns": list(columns),
        "row_title": row_title,
        "column_title": column_title,
        "scheme": scheme,
        "limit": limit or largest or 1.0,
        "unit": unit,
        "words": words,
        "marked": marked,
        "chosen": list(chosen),
        "pickable": on_pick is not None,
        "label": label,
        "cell": WORD_CELL if words else CELL,
    }
    _grid(data=data, key=key, on_picked_change=_picked(key, on_pick))


def mosaic(
    thumbnails: xr.DataArray,
    *,
    label: str,
    key: str,
    log: bool = False,
    marked: tuple[int, int] | None = None,
    on_pick: OnPick | None = None,
) -> None:
    """Every head's pattern, small; the one under the pointer, large.

    Args:
        thumbnails: Weights over (`layer`, `head`, `row`, `column`), as of
            `interp.patterns.thumbnails`; shown in 256 levels.
        log: Colour by the logarithm of the weight, which shows small weights.
        on_pick: Called with the layer and head that were clicked.
    """
    levels = (255 * thumbnails.values.clip(0, 1)).round().astype(np.uint8)
    data: dict[str, Any] = {
        "weights": _base64(levels),
        "n_layers": thumbnails.sizes["layer"],
        "n_heads": thumbnails.sizes["head"],
        "size": thumbnails.sizes["row"],
        "log": log,
        "marked": marked,
        "pickable": on_pick is not None,
        "label": label,
    }
    _mosaic(data=data, key=key, on_picked_change=_picked(key, on_pick))


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def _picked(key: str, on_pick: OnPick | None) -> Callable[[], None]:
    def picked() -> None:
        cell = st.session_state[key]["picked"]
        if on_pick is not None and cell is not None:
            row, column = cell
            on_pick(int(row), int(column))

    return picked
