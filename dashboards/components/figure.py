"""One result: its picture, what it says, its table, the lines of Python that give it, and files.

Only the side that is looked at is drawn. Files are made when they are asked for.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import altair as alt
import pandas as pd
import streamlit as st

from dashboards import state
from dashboards.components import prose
from dashboards.focus import Focus
from dashboards.snippets import preamble
from interp import pictures
from interp.report import Report, Section
from interp.results import versions

SIDES = ("Picture", "Table", "Python", "Save")


@dataclass(frozen=True)
class Figure:
    """A result that can be shown, read, repeated and taken away."""

    name: str
    """Of its files, and of its widgets: letters, digits and underscores."""
    title: str
    table: pd.DataFrame
    """The numbers of the picture."""
    code: str
    """Lines that end with `table = ...`, equal to `table`; they follow `snippets.preamble`."""
    reading: Sequence[str] = ()
    """What the numbers say; tokens in it are from `prose.code`."""
    chart: Callable[[], alt.Chart | alt.LayerChart] | None = None
    """The picture for files, made when it is asked for."""
    draw: Callable[[], object] | None = None
    """The picture on the page, where it is not the chart."""
    help: str | None = None


def show(figure: Figure, focus: Focus) -> None:
    """Draw a figure with its sides and its reading."""
    with st.container(key=f"figure_{figure.name}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{figure.title}**", help=figure.help, width="content")
            st.space("stretch")
            side = st.segmented_control(
                figure.title, SIDES, default=SIDES[0], key=f"side_{figure.name}",
                label_visibility="collapsed", width="content", required=True,
            )  # fmt: skip
        if side == "Picture":
            _picture(figure)
        elif side == "Table":
            table(figure)
        elif side == "Python":
            st.code(f"{preamble(focus)}\n{figure.code.strip()}", language="python")
        else:
            _files(figure, focus)
        for paragraph in figure.reading:
            st.markdown(paragraph)


def _picture(figure: Figure) -> None:
    if figure.draw is not None:
        figure.draw()
    elif figure.chart is not None:
        chart = figure.chart()
        if chart.title == figure.title:  # which stands above it
            chart = chart.properties(title="")
        st.altair_chart(chart, key=f"chart_{figure.name}", alt=prose.unmarked(figure.title))


def table(figure: Figure) -> None:
    """The numbers; white space in tokens is shown."""
    st.dataframe(figure.table, hide_index=True, key=f"table_{figure.name}")


def _files(figure: Figure, focus: Focus) -> None:
    # Files are made outside of the session: what belongs to it is read here.
    of_page, lines = settings(focus), f"{preamble(focus)}\n{figure.code.strip()}"
    files: dict[str, tuple[str, Callable[[], Any], str]] = {
        "CSV": (f"{figure.name}.csv", lambda: figure.table.to_csv(index=False), "text/csv"),
        "JSON": (
            f"{figure.name}.json",
            lambda: _record(figure, of_page, lines),
            "application/json",
        ),
    }
    chart = figure.chart
    if chart is not None:
        dark = st.context.theme.type == "dark"
        theme: pictures.Theme = "dark" if dark else "light"
        files |= {
            "PNG": (f"{figure.name}.png", lambda: pictures.png(chart(), theme=theme), "image/png"),
            "SVG": (
                f"{figure.name}.svg",
                lambda: pictures.svg(chart(), theme=theme),
                "image/svg+xml",
            ),
        }
    files["HTML"] = (f"{figure.name}.html", lambda: _page(figure, of_page), "text/html")
    with st.container(horizontal=True):
        for kind, (name, content, mime) in files.items():
            st.download_button(
                kind, content, file_name=name, mime=mime, on_click="ignore",
                key=f"save_{figure.name}_{kind}",
            )  # fmt: skip


def settings(focus: Focus) -> dict[str, Any]:
    """Everything that a number on the page depends on."""
    return {
        "model": focus.loaded.name,
        "model_hash": focus.loaded.hash,
        "text": focus.text,
        "prepend_bos": focus.prepend_bos,
        "tokens": list(focus.tokens),
        "query": focus.query,
        "key": focus.key,
        "layer": focus.layer,
        "head": focus.head,
        "answer": focus.piece(focus.target),
        "wrong_answer": focus.piece(focus.wrong),
        "options": dict(state.selection().options or {}),
        "versions": versions(),
    }


def _record(figure: Figure, of_page: Mapping[str, Any], lines: str) -> str:
    record = {
        "title": prose.unmarked(figure.title),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": of_page,
        "code": lines,
        "table": json.loads(figure.table.to_json(orient="records")),
    }
    return json.dumps(record, indent=2, ensure_ascii=False)


def _page(figure: Figure, of_page: Mapping[str, Any]) -> str:
    charts = (figure.chart(),) if figure.chart is not None else ()
    reading = tuple(map(prose.unmarked, figure.reading))
    title = prose.unmarked(figure.title)
    section = Section(title, reading, figure.table, charts)
    report = Report(title, of_page["text"], (section,), of_page)
    return report.html(command="interp dashboard")
