"""Attention explorer: one number per head, one head's pattern, all heads at a glance, its edges."""

import pandas as pd
import streamlit as st

from dashboards import state
from dashboards.components import canvas, controls
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.components.long_work import long_work
from dashboards.focus import Focus
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.measurements import attention, basics, costs
from dashboards.readings import attention as readings
from interp import charts
from interp.model.tokens import visible
from interp.patterns import edge_of

ON_EDGE = {"weight": "weight of the edge", "effect": "effect of cutting it"}
NAMES = {
    **ON_EDGE,
    "first_token": "first token",
    "previous_token": "previous token",
    "self": "own token",
    "entropy": "entropy",
    "distance": "distance",
    "strongest": "strongest edge",
}
N_EDGES = 12
# Tokens up to which a chart of a whole pattern is made for files.
LEGIBLE = 60


def page(focus: Focus) -> None:
    """The explorer."""
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        with panes.cell():
            figure = head_map(focus)
            if figure is not None:
                show_figure(figure, focus)
        with panes.cell():
            show_figure(pattern(focus), focus)
    view = controls.choose(
        "attention.below", "Below", {"edges": "Heaviest edges", "all": "All heads at a glance"}
    )
    show_figure(edges(focus) if view == "edges" else glance(focus), focus)


def choose_head(layer: int, head: int) -> None:
    """A head was clicked."""
    state.change(layer=layer, head=head)


def head_map(focus: Focus) -> Figure | None:
    """One number per head; none while it is being computed."""
    name = controls.choose("attention.measure", "Number per head", NAMES)
    if name not in ON_EDGE:
        return measure_map(focus, name)
    if focus.key > focus.query:
        nothing = pd.DataFrame({"layer": [], "head": [], name: []})
        code = (
            f'import pandas\n\ntable = pandas.DataFrame({{"layer": [], "head": [], "{name}": []}})'
        )
        return Figure(
            "head_map", "Masked: the key is after the query", nothing, code,
            readings.masked(focus), draw=lambda: st.empty(),
        )  # fmt: skip
    if focus.query == 0:
        return measure_map(focus, "self")
    size = (focus.cfg, focus.cfg.n_layers * focus.cfg.n_heads, len(focus.tokens) - focus.query)
    asked = (focus.tokens, focus.query, focus.key, focus.answers)
    if costs.work(*size) <= costs.CHEAP:
        return effect_map(focus, name, focus.ask(attention.edge_effects, *asked))
    if name == "weight":
        return weight_map(focus)
    job = long_work(
        "edge_effects", (focus.loaded.hash, asked),
        lambda: focus.start(attention.edge_effects, *asked),
        cost=f"What does cutting this edge do in each of the {size[1]} heads? About "
        f"{max(1, costs.seconds(*size)):.0f} s on two processor cores.",
        label="Cut it in each head",
    )  # fmt: skip
    return None if job is None else effect_map(focus, name, job.result)


def effect_map(focus: Focus, name: str, table: pd.DataFrame) -> Figure:
    """The edge's weight, or what cutting it does, in every head."""
    code = (
        f"ds = interp.attention.edge_effects(model, tokens, {focus.query}, {focus.key}, metric)\n"
        "table = ds.isel(example=0, drop=True).to_dataframe().reset_index()"
    )
    return drawn_map(focus, name, on_edge(focus, name), table, code, readings.edge(table, focus))


def weight_map(focus: Focus) -> Figure:
    """The edge's weight in every head, and what cutting it does in the chosen one."""
    query, key = focus.query, focus.key
    table = edge_of(focus.row(query), key).to_dataframe().reset_index()
    edge = (focus.layer, focus.head, query, key)
    effect = focus.ask(attention.edge_effect, focus.tokens, edge, focus.answers)
    code = (
        f"ds = interp.patterns.edge(model, tokens, {query}, {key})\n"
        "table = ds.to_dataframe().reset_index()"
    )
    reading = readings.edge_in_one_head(table, effect, focus)
    return drawn_map(focus, "weight", on_edge(focus, "weight"), table, code, reading)


def measure_map(focus: Focus, name: str) -> Figure:
    """A measure of every head's pattern on this prompt."""
    table = focus.ask(attention.measures, focus.tokens)
    code = "table = interp.patterns.measures(model, tokens).to_dataframe().reset_index()"
    title = f"{NAMES[name].capitalize()}, by head"
    return drawn_map(focus, name, title, table, code, readings.measure(table, name))


def on_edge(focus: Focus, name: str) -> str:
    """Title of a map of the chosen edge."""
    return f"{ON_EDGE[name].capitalize()}, {focus.query} to {focus.key}"


def drawn_map(
    focus: Focus, name: str, title: str, table: pd.DataFrame, code: str, reading: list[str]
) -> Figure:
    """One number per head, to click on."""
    signed = name == "effect"
    limit = None if name in ("effect", "distance") else 1.0
    values = table.pivot(index="layer", columns="head", values=name).to_numpy()

    def draw() -> None:
        canvas.grid(
            values, rows=[str(n) for n in range(focus.cfg.n_layers)],
            columns=[str(n) for n in range(focus.cfg.n_heads)], row_title="layer",
            column_title="head", label=title, key="head_map_grid",
            scheme="signed" if signed else "amount", limit=limit,
            unit="logits" if signed else "", marked=(focus.layer, focus.head),
            on_pick=choose_head,
        )  # fmt: skip

    return Figure(
        "head_map", title, table, code, reading,
        lambda: charts.head_map(table, name, title, signed=signed, limit=limit), draw,
        MEANING["effect"] if signed else None,
    )  # fmt: skip


def pattern(focus: Focus) -> Figure:
    """The chosen head's whole pattern."""
    hide_first = controls.switch(
        "attention.hide_first", "hide the first token",
        help="Many heads rest on the first token. Hidden, the other weights get the whole range of "
        "colours; rows then no longer sum to 1.",
    )  # fmt: skip
    array = focus.pattern(focus.layer, focus.head)
    weights = array.values.copy()
    above = [[key > query for key in range(len(weights))] for query in range(len(weights))]
    weights[above] = float("nan")
    if hide_first:
        weights[:, 0] = float("nan")
    labels = [f"{position} {visible(piece)}" for position, piece in enumerate(focus.pieces)]
    table = array.to_dataframe().reset_index()
    code = (
        f"pattern = interp.patterns.of_head(model, tokens, {focus.layer}, {focus.head})\n"
        "table = pattern.to_dataframe().reset_index()"
    )
    title = f"{focus.name}: where each query looks"

    def draw() -> None:
        canvas.grid(
            weights, rows=labels, columns=labels, row_title="query (looks)",
            column_title="key (is looked at)", label=title, key="pattern_grid",
            limit=None if hide_first else 1.0, marked=(focus.query, focus.key),
            on_pick=lambda query, key: state.change(query=query, key=key),
        )  # fmt: skip

    def chart() -> charts.alt.Chart:
        return charts.attention_matrix(array.values, focus.pieces, title)

    return Figure("pattern", title, table, code, readings.pattern(array.values, focus),
        chart if len(labels) <= LEGIBLE else None, draw,
                  MEANING["attention weight"])  # fmt: skip


def glance(focus: Focus) -> Figure:
    """All heads, small."""
    log = controls.switch("attention.log", "logarithmic colours", help="Shows small weights.")
    small = focus.ask(attention.thumbnails, focus.tokens)
    table = focus.ask(attention.measures, focus.tokens)

    def draw() -> None:
        canvas.mosaic(
            small, label="Every head's pattern", key="mosaic", log=log,
            marked=(focus.layer, focus.head), on_pick=choose_head,
        )  # fmt: skip

    code = "table = interp.patterns.measures(model, tokens).to_dataframe().reset_index()"
    return Figure(
        "all_heads", "Every head's pattern; click one to keep it", table, code,
        readings.measure(table, "strongest"), None, draw,
    )  # fmt: skip


def edges(focus: Focus) -> Figure:
    """The chosen head's heaviest edges with their effects."""
    first_key = int(state.option("attention.hide_first", "0") == "1")
    table = focus.ask(
        attention.top_edges, focus.tokens, focus.layer, focus.head, N_EDGES, first_key,
        focus.answers,
    )  # fmt: skip
    code = (
        f"edges = interp.patterns.top_edges(model, tokens, {focus.layer}, {focus.head}, "
        f"n={N_EDGES}, first_key={first_key})\n"
        f"places = [({focus.layer}, {focus.head}, q, k) for q, k in zip(edges['query'], "
        "edges['key'])]\n"
        "cut = interp.attention.knockout_each(model, tokens, places, metric)\n"
        "table = edges.assign(effect=cut['effect'].isel(example=0).values)"
    )
    difference = focus.ask(basics.logit_difference, focus.tokens, focus.answers)

    def draw() -> None:
        shown = table.assign(
            query_token=[visible(piece) for piece in table["query_token"]],
            key_token=[visible(piece) for piece in table["key_token"]],
        )
        st.dataframe(
            shown, hide_index=True, key="edges",
            column_config={
                "weight": st.column_config.ProgressColumn(min_value=0, max_value=1, format="%.3f"),
                "effect": st.column_config.NumberColumn(format="%+.3f", help=MEANING["effect"]),
            },
        )  # fmt: skip

    return Figure(
        "edges", f"{focus.name}'s heaviest edges, and what cutting each one does", table, code,
        readings.edges(table, difference), None, draw,
    )  # fmt: skip


if __name__ == "__main__":
    show(page)
