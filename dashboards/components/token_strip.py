"""The prompt as a row of tokens to choose the query and the key from."""

from collections.abc import Callable, Sequence

import streamlit as st
from streamlit.components.v2 import component

from dashboards.components.canvas import asset

_strip = component(
    "interp.token_strip",
    html='<div class="strip" role="group" aria-label="Tokens of the prompt"></div>',
    css=asset("token_strip.css"),
    js=asset("drawing.js", "token_strip.js"),
)


def token_strip(
    tokens: Sequence[str],
    ids: Sequence[int],
    weights: Sequence[float],
    *,
    query: int,
    key_position: int,
    on_query: Callable[[int], None],
    on_key: Callable[[int], None],
    key: str,
) -> None:
    """Tokens coloured by how much the query looks at them.

    Args:
        tokens: As they are shown.
        on_query, on_key: Called with the position that was clicked, or shift-clicked.
    """

    def chosen(name: str, choose: Callable[[int], None]) -> Callable[[], None]:
        def callback() -> None:
            position = st.session_state[key][name]
            if position is not None:
                choose(int(position))

        return callback

    _strip(
        data={
            "tokens": list(tokens),
            "ids": list(ids),
            "weights": [float(weight) for weight in weights],
            "query": query,
            "key": key_position,
        },
        key=key,
        on_query_change=chosen("query", on_query),
        on_key_change=chosen("key", on_key),
    )
