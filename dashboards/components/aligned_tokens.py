"""Two prompts token under token, with what differs marked."""

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd
import streamlit as st
from streamlit.components.v2 import component

from dashboards.components.canvas import asset
from interp.model.tokens import visible

_aligned = component(
    "interp.aligned_tokens",
    html='<div class="aligned" role="table"></div>',
    css=asset("aligned_tokens.css"),
    js=asset("aligned_tokens.js"),
)


class Column(NamedTuple):
    """A place of the alignment; an empty piece is a gap."""

    label: str
    """Positions of both, such as "4" or "4/5"."""
    piece: str | None
    other: str | None
    differs: bool


def columns_of(places: pd.DataFrame) -> list[Column]:
    """What is drawn of an alignment, as of `interp.differences.alignment`."""

    def known(value: object) -> str | None:
        return None if pd.isna(value) else str(value)

    rows = zip(*(places[name] for name in places), strict=True)
    return [
        Column(
            "/".join(dict.fromkeys(filter(None, map(known, (position, other))))),
            known(token), known(other_token), bool(differs),
        )
        for position, token, other, other_token, differs in rows
    ]  # fmt: skip


def aligned_tokens(columns: Sequence[Column], *, names: tuple[str, str], key: str) -> None:
    """Draw the two rows; they wrap together.

    Args:
        names: Of the upper and the lower row.
    """
    shown = [
        {
            "label": column.label,
            "pieces": [None if p is None else visible(p) for p in (column.piece, column.other)],
            "differs": column.differs,
        }
        for column in columns
    ]
    _aligned(data={"columns": shown, "names": list(names)}, key=key)
    n = sum(column.differs for column in columns)
    same = "All tokens are the same." if not n else f"{n} of {len(columns)} places differ."
    st.caption(f"Upper row {names[0]}, lower row {names[1]}. {same}")
