"""The form that collects a new store, and the way to begin work on any store."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import cast
from uuid import uuid4

import streamlit as st

from dashboards import state
from dashboards.components import controls, prose
from dashboards.components.long_work import long_work
from dashboards.focus import Focus
from dashboards.glossary import MEANING
from dashboards.jobs import Report
from dashboards.measurements import store
from dashboards.measurements.store import Done, Place, Request
from dashboards.service import service
from interp.errors import InterpError
from interp.store.preflight import Preflight
from interp.store.preparing import DtypeChoice

HOOKS = {
    "blocks.*.hook_resid_post": "Residual stream after each layer",
    "blocks.*.hook_attn_out": "What attention adds",
    "blocks.*.hook_mlp_out": "What the MLPs add",
    "blocks.*.attn.hook_z": "Head outputs z",
    "blocks.*.attn.hook_q": "Queries q",
    "blocks.*.attn.hook_k": "Keys k",
    "blocks.*.attn.hook_v": "Values v",
    "blocks.*.mlp.hook_post": "MLP activations",
    "blocks.*.attn.hook_pattern": "Attention patterns (large)",
}
DTYPES = {
    "auto": "float16, where it fits",
    "fp16": "float16",
    "bf16": "bfloat16",
    "fp32": "float32",
}
SOURCES = {"built-in": "Held-out sentences", "lines": "Lines that I paste"}
FIRST_N = 200
MOST_TEXTS = 20_000


def choose(name: str) -> None:
    """Look at a store."""
    state.set_option("store.open", name, "")
    state.set_option("store.document", "0", "0")
    st.session_state.pop("store_delete", None)


def work_on(name: str) -> str:
    """The name of work on a store, by which every session finds it."""
    return f"store {name}"


def act(place: Place, work: Callable[[Report], Done]) -> None:
    """Begin work on a store, which goes on whatever page is shown."""
    st.session_state.pop("store_delete", None)
    state.set_option("store.open", place.name, "")
    try:
        service().run(work_on(place.name), work)
    except InterpError as error:
        st.session_state["store_problem"] = str(error)


def new_store(focus: Focus, root: Path, told: Callable[[Preflight], Sequence[str]]) -> None:
    """Collect more: what it takes is shown before anything is written.

    Args:
        told: Says in words what it takes.
    """
    st.markdown("**Collect a new store**")
    with st.grid(2, min_column_width=230):
        name = state.option("store.new", "sentences")
        controls.write(
            "Name", name, lambda text: state.set_option("store.new", text, "sentences"),
            key="store_name", help="Letters, digits and _.~%+-; folders with /, as in study/run-1.",
        )  # fmt: skip
        dtype = state.option("store.dtype", "auto")
        dtype = dtype if dtype in DTYPES else "auto"
        controls.pick(
            "Stored as", list(DTYPES), dtype,
            lambda chosen: state.set_option("store.dtype", chosen, "auto"), key="store_dtype",
            named=DTYPES.__getitem__,
        )  # fmt: skip
    source = controls.choose("store.source", "Texts", SOURCES)
    hooks = chosen_hooks()
    if source == "built-in":
        n = controls.number(
            "store.n", "How many", default=FIRST_N, lowest=1, highest=MOST_TEXTS,
            help="Sentences of the embedded model's language that its training never saw.",
        )  # fmt: skip
        texts = focus.ask(held_out, n)
    else:
        texts = pasted()
    request = Request(texts, hooks, cast(DtypeChoice, dtype))
    if not hooks or not texts:
        st.caption("Choose at least one hook, and give at least one line of text.")
        return
    try:
        place = Place(str(root), name, "")
        place.folder  # noqa: B018  refuses a name that leads elsewhere
    except InterpError as error:
        prose.note(str(error))
        return
    about = (focus.loaded.hash, str(root), request)
    job = long_work(
        "store_estimate", about,
        lambda: service().run(
            f"estimate {uuid4().hex}", partial(store.estimate, focus.model, str(root), request)
        ),
        cost="Nothing is written before you agree: first see how large it gets.",
        label="Show size and time",
    )  # fmt: skip
    if job is None:
        return
    for paragraph in told(job.result):
        st.markdown(paragraph)
    st.button(
        "Collect", key="collect", type="primary", on_click=begin_to_collect,
        args=(place, partial(store.collect, focus.model, place, request)),
    )  # fmt: skip


def begin_to_collect(place: Place, work: Callable[[Report], Done]) -> None:
    """Collect, and look at the store meanwhile."""
    choose(place.name)
    act(place, work)


def held_out(model: object, n: int) -> tuple[str, ...]:  # noqa: ARG001
    """The embedded model's own sentences."""
    return store.held_out_texts(n)


def chosen_hooks() -> tuple[str, ...]:
    """Hooks to collect."""
    default = next(iter(HOOKS))
    kept = state.option("store.hooks", default).split()
    value = [name for name in kept if name in HOOKS]
    if st.session_state.get("store_hooks") != value:
        st.session_state["store_hooks"] = value
    st.multiselect(
        "Hooks", list(HOOKS), key="store_hooks", format_func=HOOKS.__getitem__,
        on_change=lambda: state.set_option(
            "store.hooks", " ".join(st.session_state["store_hooks"]) or "none", default
        ),
        help=MEANING["hook"],
    )  # fmt: skip
    return tuple(value)


def pasted() -> tuple[str, ...]:
    """Lines of a box, each a document."""
    kept = st.session_state.get("store_lines_kept", "")
    if st.session_state.get("store_lines") != kept:
        st.session_state["store_lines"] = kept

    def keep() -> None:
        st.session_state["store_lines_kept"] = st.session_state["store_lines"]

    st.text_area(
        "Texts, one a line", key="store_lines", height=120, on_change=keep,
        help="They stay on this machine; a store holds their tokens.",
    )  # fmt: skip
    return tuple(line for line in kept.splitlines() if line.strip())[:MOST_TEXTS]
