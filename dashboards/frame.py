"""What stands around every page: the prompt, the tokens and the selection."""

import logging
import uuid
from collections.abc import Callable

import streamlit as st

from dashboards import state
from dashboards.components import controls, prose
from dashboards.components.copy_link import copy_link
from dashboards.components.token_strip import token_strip
from dashboards.examples import EXAMPLES
from dashboards.focus import Focus, focus, tokens_of
from dashboards.glossary import MEANING
from dashboards.service import service
from interp.errors import InterpError
from interp.model.tokens import visible

Page = Callable[[Focus], None]

logger = logging.getLogger(__name__)


def show(page: Page) -> None:
    """Draw a page with its frame."""
    _prompt()
    _explorer(page)


@st.fragment
def _explorer(page: Page) -> None:
    """Everything below the prompt; a click in it draws only this part anew."""
    if not st.session_state.get("prompt_problem") and _prompt_is_old():
        st.rerun()
    try:
        seen = focus(state.selection())
        _selection(seen)
        page(seen)
    except InterpError as error:
        prose.problem(str(error))
    except Exception as error:
        number = uuid.uuid4().hex[:8]
        logger.exception("Problem %s", number)
        prose.problem(
            f"{type(error).__name__} in the dashboard itself. The terminal that runs it has the "
            f"details, under {number}. What you chose is kept."
        )
    state.write_url()


def _prompt_is_old() -> bool:
    """Whether something below the prompt, such as a template, has chosen another one."""
    chosen, drawn = state.selection(), st.session_state
    return drawn.get("text_box") != chosen.text or drawn.get("bos") != chosen.prepend_bos


def _prompt() -> None:
    chosen = state.selection()
    with st.container(key="prompt_bar"):
        message = st.session_state.get("prompt_problem")
        if not message:
            state.shows("text_box", chosen.text)
        st.text_area(
            "Prompt", key="text_box", height=68, on_change=_use_prompt,
            help="Ctrl+Enter shows it. Everything stays on this machine.",
        )  # fmt: skip
        if message:
            prose.problem(message, title="This prompt cannot be read; the last one is shown below.")
        with st.container(horizontal=True, vertical_alignment="center"):
            for example in EXAMPLES:
                st.button(
                    example.name, key=f"example_{example.name}", on_click=_use_example,
                    args=(example.name,), help=example.question, type="tertiary",
                )  # fmt: skip
            st.space("stretch")
            state.shows("bos", chosen.prepend_bos)
            st.toggle(
                "begin with <|endoftext|>", key="bos", on_change=_use_bos, help=MEANING["BOS"]
            )
            copy_link()


def _use_prompt() -> None:
    text = st.session_state["text_box"]
    chosen = state.selection()
    try:
        model = service().loaded(chosen.model).model
        tokens_of(model, text, chosen.prepend_bos)
    except InterpError as error:
        st.session_state["prompt_problem"] = str(error)
        return
    st.session_state["prompt_problem"] = ""
    state.change(text=text, query=None, key=None)


def _use_example(name: str) -> None:
    example = next(example for example in EXAMPLES if example.name == name)
    st.session_state["prompt_problem"] = ""
    state.change(
        text=example.text, target=example.target, wrong=example.wrong, query=None, key=None,
        layer=None, head=None,
    )  # fmt: skip


def _use_bos() -> None:
    on = bool(st.session_state["bos"])
    chosen = state.selection()
    if on == chosen.prepend_bos:
        return
    step = 1 if on else -1
    moved = {
        name: None if position is None or position + step < 0 else position + step
        for name, position in (("query", chosen.query), ("key", chosen.key))
    }
    state.change(prepend_bos=on, **moved)


def _selection(seen: Focus) -> None:
    """The tokens, and what is chosen of them; the same on every page."""
    own = seen.row(seen.query).sel(layer=seen.layer, head=seen.head).values
    labels = [visible(piece) for piece in seen.pieces]
    token_strip(
        labels, seen.tokens, own.tolist(), query=seen.query, key_position=seen.key,
        on_query=lambda position: state.change(query=position),
        on_key=lambda position: state.change(key=position), key="token_strip",
    )  # fmt: skip
    positions = range(len(labels))

    def named(position: int) -> str:
        return f"{position} {labels[position]}"

    with st.grid(6, min_column_width=120, key="selection_bar"):
        controls.pick(
            "Query", positions, seen.query, lambda p: state.change(query=p), key="query",
            named=named, help=MEANING["query"],
        )  # fmt: skip
        controls.pick(
            "Key", positions, seen.key, lambda p: state.change(key=p), key="key", named=named,
            help=MEANING["key"],
        )  # fmt: skip
        controls.pick(
            "Layer", range(seen.cfg.n_layers), seen.layer,
            lambda n: state.change(layer=n, head=seen.head), key="layer", help=MEANING["layer"],
        )  # fmt: skip
        controls.pick(
            "Head", range(seen.cfg.n_heads), seen.head,
            lambda n: state.change(layer=seen.layer, head=n), key="head", help=MEANING["head"],
        )  # fmt: skip
        controls.write(
            "Answer", seen.piece(seen.target), lambda text: state.change(target=text),
            key="target", help=MEANING["answer"],
        )  # fmt: skip
        controls.write(
            "Wrong answer", seen.piece(seen.wrong), lambda text: state.change(wrong=text),
            key="wrong", help=MEANING["wrong answer"],
        )  # fmt: skip
    for notice in seen.notices:
        prose.note(notice)
