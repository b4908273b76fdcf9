"""Text with tokens in it, so that nothing of a token is read as markup.

Streamlit's text is Markdown, with formulas, emoji names and colour directives. A token is put into
a code span, where none of these are read.
"""

import re

import streamlit as st

from interp.model.tokens import visible

LONGEST = 40
"""Characters of a token that a sentence shows."""


def code(piece: str) -> str:
    """A token for use inside a sentence: white space shown, and never read as markup."""
    shown = visible(piece)
    shown = shown if len(shown) <= LONGEST else shown[: LONGEST - 1] + "…"
    # Streamlit writes this prefix of an icon's name otherwise, even in a code span.
    first, icon, rest = shown.partition(":material/")
    return f"{_span(first + ':material')} {_span('/' + rest)}" if icon else _span(shown)


def _span(text: str) -> str:
    """A code span, whose fence is longer than any run of backticks in it."""
    longest_run = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest_run + 1)
    room = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{room}{text}{room}{fence}"


def unmarked(paragraph: str) -> str:
    """A paragraph for a file: tokens in quotes instead of code spans."""
    return re.sub(r"(`+) ?(.+?) ?\1(?!`)", r"“\2”", paragraph)


def problem(message: str, *, title: str = "This could not be done.") -> None:
    """A sentence on what went wrong and what to do, with whatever text of the user is in it."""
    st.error(title, icon=":material/error:")
    st.code(message, language=None, wrap_lines=True)


def note(message: str) -> None:
    """A remark with text of the user in it."""
    st.code(message, language=None, wrap_lines=True)
