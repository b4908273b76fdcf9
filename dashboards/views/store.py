"""Activation store: what is on disk, its documents, and collecting more."""

from functools import partial
from pathlib import Path

import pandas as pd
import streamlit as st

from dashboards import state
from dashboards.components import canvas, controls, prose
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.components.long_work import watch
from dashboards.components.new_store import HOOKS, act, choose, new_store, work_on
from dashboards.focus import Focus, tokens_of
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.jobs import Job
from dashboards.measurements import store
from dashboards.measurements.store import Place
from dashboards.readings import store as readings
from dashboards.service import service
from interp import charts
from interp.errors import InterpError
from interp.model.tokens import visible
from interp.store import catalogue
from interp.store.catalogue import Entry

SHOWN = (
    "name", "state", "n_bytes", "n_documents", "n_tokens", "n_rows", "written", "model", "problem",
    "hooks",
)  # fmt: skip
LONGEST_PREVIEW = 1500
WAIT_SECONDS = 0.5


def page(focus: Focus) -> None:
    """The page."""
    root = service().store_root
    if root is None:
        st.info(
            "The dashboard writes and reads stores below one folder only, and it was started "
            "without one. Start it with a folder for stores:"
        )
        st.code("interp dashboard --store FOLDER", language="bash")
        return
    if not root.is_dir():
        prose.problem(f"The folder of stores is gone: {root}")
        return
    chosen = state.option("store.open", "")
    job = service().work(work_on(chosen))
    if job is not None:  # what is done in a moment is in the list below
        job.wait(WAIT_SECONDS)
    table = store.stores(str(root))
    chosen = chosen or next(iter(table["name"]), "")
    show_figure(list_of_stores(root, table, chosen), focus)
    problem = st.session_state.pop("store_problem", "")
    if problem:
        prose.problem(problem)
    if chosen:
        one_store(focus, root, chosen)
    st.divider()
    new_store(focus, root, readings.costs)


def list_of_stores(root: Path, table: pd.DataFrame, chosen: str) -> Figure:
    """All stores below the folder."""

    def draw() -> None:
        if table.empty:
            return
        names = table["name"].tolist()
        key = f"stores_{chosen}"

        def picked() -> None:
            rows = st.session_state[key]["selection"]["rows"]
            if rows:
                choose(names[rows[0]])

        rows = [names.index(chosen)] if chosen in names else []
        st.dataframe(
            table, hide_index=True, key=key, column_order=SHOWN,
            on_select=picked, selection_mode="single-row",
            selection_default={"selection": {"rows": rows}},
            column_config={
                "n_documents": st.column_config.NumberColumn("documents", format="localized"),
                "n_tokens": st.column_config.NumberColumn("tokens", format="localized"),
                "n_rows": st.column_config.NumberColumn("rows", format="localized"),
                "n_bytes": st.column_config.NumberColumn("on disk", format="bytes"),
                "written": st.column_config.TextColumn("planned (UTC)"),
            },
        )  # fmt: skip

    code = f"table = interp.store.catalogue.stores({str(root)!r})"
    return Figure(
        "stores", "Stores", table, code, readings.listed(table), None, draw,
        MEANING["activation store"],
    )  # fmt: skip


def one_store(focus: Focus, root: Path, name: str) -> None:
    """What is known of a store, what can be done with it, and its documents."""
    job = service().work(work_on(name))
    if job is not None and job.state == "running":
        st.markdown(f"Work on {prose.code(name)} is under way, and goes on while you look at other "
                    "pages.")  # fmt: skip
        watch("store", job)
        return
    if job is not None:
        ended(job)
    try:
        entry = catalogue.entry(root, name)
    except InterpError as error:
        if not is_removed(job):
            prose.note(str(error))
        return
    place = Place(str(root), name, f"{entry.written} {entry.n_committed} {entry.n_bytes}")
    for paragraph in readings.about(entry):
        st.markdown(paragraph)
    if entry.problem:
        prose.note(entry.problem)
    doors(focus, place, entry)
    if entry.state in ("unplanned", "unreadable"):
        return
    try:
        one_document(focus, place, entry)
    except InterpError as error:
        prose.problem(str(error), title="This document cannot be shown.")


def is_removed(job: Job | None) -> bool:
    """Whether the last work was to remove the store."""
    return job is not None and job.state == "finished" and job.result.action == "delete"


def ended(job: Job) -> None:
    """What the last work on the store came to."""
    if job.state == "stopped":
        st.info("Stopped. What was committed is kept; Resume goes on from there.")
    elif job.state == "failed":
        prose.problem(job.problem)
    else:
        for paragraph in readings.done(job.result):
            st.markdown(paragraph)
        if job.result.action.startswith("verify"):
            for found in job.result.result[:10]:
                prose.note(found)


def doors(focus: Focus, place: Place, entry: Entry) -> None:
    """Resume, check and remove."""
    readable = entry.state not in ("unplanned", "unreadable")
    with st.container(horizontal=True):
        if entry.state in ("partial", "given up"):
            work = partial(store.resume, focus.model, place)
            st.button(
                "Resume", key="resume", type="primary", on_click=act, args=(place, work),
                help="Collects what is missing; needs the model that the store was planned for.",
            )  # fmt: skip
        for key, label, full in (
            ("verify", "Check", False),
            ("verify_full", "Check in full", True),
        ):
            st.button(
                label, key=key, on_click=act, disabled=not readable,
                args=(place, partial(store.verify, place, full)),
                help="Reads every byte." if full else "Sizes, headers, tokens and records.",
            )  # fmt: skip
        st.button("Delete", key="delete", on_click=ask_to_delete, args=(place.name,))
    if st.session_state.get("store_delete") == place.name:
        st.warning(f"Delete {prose.code(place.name)} from the disk? This cannot be undone.")
        with st.container(horizontal=True):
            st.button(
                "Delete for good", key="delete_for_good", on_click=act,
                args=(place, partial(store.delete, place)),
            )  # fmt: skip
            st.button("Keep it", key="keep", on_click=ask_to_delete, args=("",))


def ask_to_delete(name: str) -> None:
    """Ask before anything is removed; "" takes the question back."""
    st.session_state["store_delete"] = name


def one_document(focus: Focus, place: Place, entry: Entry) -> None:
    """A text of the store, and its activations."""
    kinds = focus.ask(store.kinds, place)
    with st.grid(2, min_column_width=230):
        number = controls.number(
            "store.document", f"Document, 0 to {entry.n_documents - 1}", default=0, lowest=0,
            highest=entry.n_documents - 1,
        )  # fmt: skip
        kind = state.option("store.kind", kinds[0])
        kind = kind if kind in kinds else kinds[0]
        controls.pick(
            "Hook", kinds, kind, lambda each: state.set_option("store.kind", each, kinds[0]),
            key="store_kind", named=named,
        )  # fmt: skip
    document = focus.ask(store.document, place, number)
    shown = document.text[:LONGEST_PREVIEW]
    prose.note(shown if shown == document.text else f"{shown}…")
    st.button(
        "Use as prompt", key="use_document", on_click=use_document, args=(focus, document),
        help="Every page then shows this text, begun as the store began it.",
    )  # fmt: skip
    opening = f"store = interp.store.open({str(place.folder)!r})\n"
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        with panes.cell():
            show_figure(norms(focus, place, kind, number, opening), focus)
        with panes.cell():
            check(focus, place, number, opening)
    with st.expander("Open in Python"):
        hook = entry.hooks[-1]
        st.code(
            f"import interp\n\n{opening}"
            f'view = store.view({hook!r}, where="pos > 0")\n'
            "print(view)                       # how many rows, of which shape\n"
            "values = view.rows([0, 1, 2])     # a tensor, a row for each token\n"
            "tokens = view.tokens([0, 1, 2])   # what stands there\n"
            f"text = view.document({number})           # all rows of this document",
            language="python",
        )


def named(kind: str) -> str:
    """A kind of hook in words, if there are any."""
    return f"{HOOKS[kind]} ({kind})" if kind in HOOKS else kind


def use_document(focus: Focus, document: store.Document) -> None:
    """A stored text becomes everybody's prompt."""
    try:
        tokens_of(focus.model, document.text, document.prepend_bos)
    except InterpError as error:
        st.session_state["store_problem"] = str(error)
        return
    st.session_state["prompt_problem"] = ""
    state.change(text=document.text, prepend_bos=document.prepend_bos, query=None, key=None)


def norms(focus: Focus, place: Place, kind: str, number: int, opening: str) -> Figure:
    """Norms of a kind of hook by position."""
    table = focus.ask(store.norms, place, kind, number)
    title = f"Document {number}: norms of {kind.replace('*', 'n')}"

    def draw() -> None:
        if table.empty:
            return
        grid = table.pivot(index="hook", columns="pos", values="norm")
        grid = grid.loc[list(dict.fromkeys(table["hook"]))]
        tokens = dict(zip(table["pos"], table["token"], strict=True))
        canvas.grid(
            grid.to_numpy(), rows=[str(row) for row in range(len(grid))],
            columns=[f"{pos} {visible(tokens[pos])}" for pos in grid.columns], row_title="layer",
            column_title="position", label=title, key="norms_grid",
        )  # fmt: skip

    def chart() -> charts.alt.Chart | charts.alt.LayerChart:
        return charts.lines(table, "pos", "norm", "hook", title)

    code = (
        f"{opening}norms = interp.store.documents.norms(store, {kind!r}, {number})\n"
        "table = norms.to_dataframe().reset_index()"
    )
    return Figure("norms", title, table, code, readings.norms(table), chart, draw, MEANING["norm"])


def check(focus: Focus, place: Place, number: int, opening: str) -> None:
    """What is stored against a run of the model."""
    try:
        table = focus.ask(store.compare, place, number)
    except InterpError as error:
        st.markdown("**Stored against a live run**")
        prose.note(str(error))
        return
    title = "Stored against a live run"
    code = f"{opening}table = interp.store.documents.compare(store, model, {number})"

    def draw() -> None:
        number_format = st.column_config.NumberColumn(format="%.3g")
        names = ("difference", "largest", "allowed")
        st.dataframe(
            table, hide_index=True, key="check", column_config=dict.fromkeys(names, number_format)
        )

    figure = Figure(
        "check", title, table, code, readings.check(table), None, draw, MEANING["stored difference"]
    )
    show_figure(figure, focus)


if __name__ == "__main__":
    show(page)
