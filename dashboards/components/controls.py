"""Widgets that show what the session holds, and change it when they are used."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamlit as st

from dashboards import state

MOST_SIDE_BY_SIDE = 4
"""More choices become a list."""
NONE = "none"
"""The option of a choice of several, when nobody wants any."""


def _then(key: str, change: Callable[[Any], None]) -> Callable[[], None]:
    def used() -> None:
        if st.session_state[key] is not None:
            change(st.session_state[key])

    return used


def pick(
    label: str,
    choices: Sequence[Any],
    value: Any,
    change: Callable[[Any], None],
    *,
    key: str,
    named: Callable[[Any], str] = str,
    help: str | None = None,
) -> None:
    """A list to choose from, which can be typed into."""
    # Set anew each time: a browser keeps the text of a choice, also when the same value has another
    # name by now.
    st.session_state[key] = value

    def used() -> None:
        # A browser that is behind may send the name of what is no longer a choice.
        if st.session_state[key] in choices:
            change(st.session_state[key])

    st.selectbox(label, choices, key=key, format_func=named, on_change=used, help=help)


def write(
    label: str,
    value: str,
    change: Callable[[str], None],
    *,
    key: str,
    help: str | None = None,
    placeholder: str = "",
) -> None:
    """One line of text."""
    state.shows(key, value)

    def used() -> None:
        if not state.is_late(key):
            change(st.session_state[key])

    st.text_input(label, key=key, on_change=used, help=help, placeholder=placeholder)


def choose(
    name: str, label: str, choices: Mapping[str, str], *, help: str | None = None,
    in_a_row: bool = False,
) -> str:  # fmt: skip
    """A choice, kept as the page's option `name`; returns the chosen one.

    Args:
        choices: From what is kept to what is shown; the first is the default.
        in_a_row: Show all side by side, however many there are.
    """
    default = next(iter(choices))
    value = state.option(name, default)
    value = value if value in choices else default
    state.shows(name, value)
    change = _then(name, lambda chosen: state.set_option(name, chosen, default))
    named = choices.__getitem__
    if in_a_row or len(choices) <= MOST_SIDE_BY_SIDE:
        st.segmented_control(
            label, list(choices), key=name, format_func=named, required=True, on_change=change,
            help=help,
        )  # fmt: skip
    else:
        st.selectbox(label, list(choices), key=name, format_func=named, on_change=change, help=help)
    return value


def several(
    name: str, label: str, choices: Sequence[str], default: Sequence[str], *,
    help: str | None = None,
) -> list[str]:  # fmt: skip
    """Any number of choices, kept as the page's option `name`; returns them in their order."""
    text = state.option(name, "")
    kept = [part for part in text.split(",") if part in choices]
    value = [choice for choice in choices if choice in (kept if text else default)]
    state.shows(name, value)
    st.multiselect(
        label, choices, key=name, on_change=_then(name, lambda new: set_several(name, new)),
        help=help,
    )  # fmt: skip
    return value


def set_several(name: str, chosen: Sequence[str]) -> None:
    """Change what `several` shows; `NONE` is kept where nothing is chosen."""
    state.set_option(name, ",".join(chosen) or NONE, "")


def switch(name: str, label: str, *, default: bool = False, help: str | None = None) -> bool:
    """On or off, kept as the page's option `name`."""
    value = state.option(name, str(int(default))) == "1"
    state.shows(name, value)
    st.toggle(
        label,
        key=name,
        on_change=_then(name, lambda on: state.set_option(name, str(int(on)), str(int(default)))),
        help=help,
    )
    return value


def number(
    name: str, label: str, *, default: int, lowest: int, highest: int, help: str | None = None
) -> int:
    """A whole number, kept as the page's option `name`."""
    text = state.option(name, str(default))
    value = int(text) if text.isascii() and text.isdigit() else default
    value = min(max(value, lowest), highest)
    state.shows(name, value)
    st.number_input(
        label,
        lowest,
        highest,
        key=name,
        on_change=_then(name, lambda n: state.set_option(name, str(int(n)), str(default))),
        help=help,
    )
    return value


def slide(
    name: str, label: str, *, default: float, ends: tuple[float, float], step: float,
    help: str | None = None,
) -> float:  # fmt: skip
    """A number on a line, kept as the page's option `name`.

    Args:
        ends: Lowest and highest.
    """
    try:
        value = float(state.option(name, str(default)))
    except ValueError:
        value = default
    lowest, highest = ends
    # Comparisons with NaN are false, so that it becomes the default.
    value = value if lowest <= value <= highest else default
    value = lowest + step * round((value - lowest) / step)
    state.shows(name, value)
    st.slider(
        label, lowest, highest, step=step, key=name, help=help,
        on_change=_then(name, lambda n: state.set_option(name, str(n), str(default))),
    )  # fmt: skip
    return value
