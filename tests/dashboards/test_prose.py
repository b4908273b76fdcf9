"""Tokens in sentences: shown as they are, and read as nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dashboards.components.prose import LONGEST, code, unmarked
from interp.model.tokens import visible


def read_as_markdown(text: str) -> list[tuple[str, str]]:
    """What a Markdown reader makes of one paragraph: kinds and contents of its parts."""
    inline = MarkdownIt().parseInline(text)[0]
    return [(part.type, part.content) for part in inline.children or []]


@given(st.text(min_size=1, max_size=LONGEST).filter(lambda text: text.isprintable()))
def test_a_token_is_one_code_span_and_nothing_else(piece: str) -> None:
    if visible(piece).strip():
        parts = read_as_markdown(f"before {code(piece)} after")
        assert [kind for kind, _ in parts] == ["text", "code_inline", "text"]
        assert parts[1][1] == visible(piece)


@pytest.mark.parametrize(
    "piece",
    [
        "`",
        "``",
        "a`",
        "`a",
        "$x$",
        "**b**",
        ":red[x]",
        "<b>",
        "[a](http://b)",
        "</script>",
        "|",
        "\\",
    ],
)
def test_markup_stays_text(piece: str) -> None:
    assert read_as_markdown(code(piece)) == [("code_inline", piece)]


def test_the_name_of_an_icon_is_cut_in_two_because_streamlit_would_change_it() -> None:
    assert code(":material/home:") == "`:material` `/home:`"


def test_white_space_and_controls_are_shown() -> None:
    assert code(" black\n\x00") == "`·black⏎\\x00`"


def test_a_long_token_is_cut() -> None:
    assert len(code("x" * 500)) == LONGEST + 2


@pytest.mark.parametrize("piece", ["black", "`", "a``b", "`x`"])
def test_files_have_quotes_instead_of_code_spans(piece: str) -> None:
    assert unmarked(f"from {code(piece)} to {code('b')}.") == f"from “{piece}” to “b”."
