"""Residual stream: what the model would say after each sublayer, and what each one wrote."""

import pandas as pd
import streamlit as st

from dashboards import pages, state
from dashboards.components import canvas, controls
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.focus import Focus
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.measurements import residual
from dashboards.readings import residual as readings
from interp import charts, maps
from interp.model.tokens import visible

COLOURS = {
    "prob": "probability of the word in the cell",
    "answer_prob": "probability of the answer",
    "answer_rank": "rank of the answer",
    "final_rank": "rank of the final word",
    "kl": "distance from the final prediction",
}
UNITS = {"kl": "nats (KL divergence)", "final_rank": "rank", "answer_rank": "rank"}
PLACES = {"post": "after the MLP", "mid": "after attention", "pre": "before the block"}
FOLLOWED = {"prob": "probability", "rank": "rank", "lens": "logit difference"}
GEOMETRY = {
    "norm": "length",
    "written": "length of what was written",
    "cosine": "cosine with answer - wrong answer",
    "lens": "logit difference read there",
}
# Positions whose words can be read side by side.
WINDOW = 24
# The same for a vocabulary like GPT-2's: reading a cell costs a third of a token's whole pass.
FEWER, WIDE_VOCABULARY = 12, 20_000
N_TOP = 10
LENS_COLUMNS = ["layer", "pos", "prompt_token", "token", "prob", "answer_prob", "answer_rank", "kl"]
SHARE = st.column_config.ProgressColumn("probability", min_value=0, max_value=1, format="%.4f")


def page(focus: Focus) -> None:
    """The lens, its chosen cell, and the stream's lengths and directions."""
    show_figure(lens(focus), focus)
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        with panes.cell():
            show_figure(top_tokens(focus), focus)
        with panes.cell():
            show_figure(trajectory(focus), focus)
    show_figure(written(focus), focus)
    views = {"geometry": "Lengths and directions", "similarity": "Depth against depth"}
    view = controls.choose("residual.below", "Below", views)
    show_figure(geometry(focus) if view == "geometry" else similarity(focus), focus)
    pages.link("attribution", "Which parts write the answer at the end of the prompt")


def choose_cell(depth: str, position: int, head: int) -> None:
    """A cell was clicked: its block, its place in the block, its position."""
    block, place = depth.removeprefix("L").split()
    state.change(layer=int(block), head=head, query=position)
    state.set_option("residual.place", place, next(iter(PLACES)))


def ask_at(position: int) -> None:
    """Another position asks."""
    state.change(query=position)


def window(focus: Focus) -> range:
    """The positions around the query whose words can be read side by side."""
    n = WINDOW if focus.cfg.d_vocab_out < WIDE_VOCABULARY else FEWER
    first = focus.query // n * n
    return range(first, min(first + n, len(focus.tokens)))


def lens(focus: Focus) -> Figure:
    """The layer by position grid."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        with st.container(width=310):
            name = controls.choose("residual.colour", "Colour", COLOURS, help=MEANING["logit lens"])
        place = controls.choose("residual.place", "Place in the block", PLACES)
        last = len(focus.tokens) - 1
        if focus.query != last:
            st.button("Go to the end of the prompt", key="go_to_end", on_click=ask_at, args=(last,))
    own = name == "final_rank"
    column = "answer_rank" if own else name
    positions = tuple(window(focus))
    answer = None if own else focus.target
    ds = focus.ask(residual.lens, focus.tokens, answer, positions)
    table = ds.isel(rank=0, drop=True).to_dataframe().reset_index()[LENS_COLUMNS]
    depths = list(dict.fromkeys(table["layer"]))
    square = table.pivot(index="layer", columns="pos", values=column).loc[depths]
    words = table.pivot(index="layer", columns="pos", values="token").loc[depths]
    marked = (depths.index(residual.place_name(focus.layer, place)), focus.query - positions[0])
    shown = f"{positions[0]} to {positions[-1]} of {len(focus.tokens)}"
    part = "" if len(positions) == len(focus.tokens) else f", positions {shown}"

    def draw() -> None:
        canvas.grid(
            square.to_numpy(), rows=depths, words=words.map(visible).to_numpy().tolist(),
            columns=[f"{p} {visible(focus.pieces[p])}" for p in positions],
            row_title="depth", column_title="position", label=f"Logit lens, {COLOURS[name]}",
            key="lens_grid", limit=1.0 if "prob" in name else None,
            scheme="rank" if column == "answer_rank" else "amount",
            unit=UNITS.get(name, COLOURS[name]), marked=marked,
            on_pick=lambda row, at: choose_cell(depths[row], positions[at], focus.head),
        )  # fmt: skip

    code = (
        f"at = range({positions[0]}, {positions[-1] + 1})\n"
        f"ds = interp.logit_lens.logit_lens(model, tokens, {answer}, n_top=1, positions=at)\n"
        "rows = ds.isel(example=0, rank=0, drop=True).to_dataframe().reset_index()\n"
        f"table = rows[{LENS_COLUMNS}]"
    )
    return Figure(
        "lens", f"What the model would say at each depth{part}", table, code,
        readings.lens(table, focus, own=own), lambda: maps.logit_lens_table(ds, column), draw,
        MEANING["logit lens"],
    )  # fmt: skip


def chosen_depth(focus: Focus) -> str:
    """The depth of the chosen cell."""
    place = state.option("residual.place", "post")
    return residual.place_name(focus.layer, place if place in PLACES else "post")


def top_tokens(focus: Focus) -> Figure:
    """The most probable tokens at the chosen cell."""
    layer, n = chosen_depth(focus), min(N_TOP, focus.cfg.d_vocab_out)
    here = focus.ask(residual.at_position, focus.tokens, focus.target, focus.query, n)
    table = residual.top_tokens(here, layer)
    code = (
        f"ds = interp.logit_lens.logit_lens(model, tokens, n_top={n}, positions=[{focus.query}])\n"
        'ds = ds[["token", "token_id", "prob"]].sel('
        f'layer="{layer}", pos={focus.query}, example=0)\n'
        "rows = ds.to_dataframe().reset_index()\n"
        'table = rows[["rank", "token", "token_id", "prob"]]'
    )

    def draw() -> None:
        st.dataframe(
            table.assign(token=table["token"].map(visible)), hide_index=True, key="top_tokens",
            column_order=["rank", "token", "prob"], column_config={"prob": SHARE},
        )  # fmt: skip

    def chart() -> charts.alt.Chart:
        bars = table.assign(token=table["rank"].astype(str) + " " + table["token"].map(visible))
        return charts.signed_bars(bars, "token", "prob", title, "probability")

    title = f"Next token read at {layer}, position {focus.query}"
    return Figure(
        "top_tokens", title, table, code, readings.top_tokens(table, layer, focus), chart, draw
    )


def trajectory(focus: Focus) -> Figure:
    """The answers over depth, at the query."""
    name = controls.choose("residual.follow", "Follow over depth", FOLLOWED)
    position = focus.query
    title = f"{FOLLOWED[name].capitalize()} of both answers, position {position}"
    if name == "lens":
        return difference(focus)
    n = min(N_TOP, focus.cfg.d_vocab_out)
    table = residual.trajectory(
        *(
            focus.ask(residual.at_position, focus.tokens, token, position, n)
            for token in focus.answers
        )
    )
    code = (
        "import pandas\n\n"
        "tables = []\n"
        f'for which, answer in (("answer", {focus.target}), ("wrong answer", {focus.wrong})):\n'
        "    ds = interp.logit_lens.logit_lens(\n"
        f"        model, tokens, answer, n_top=1, positions=[{position}]\n"
        "    )\n"
        '    here = ds[["answer_prob", "answer_rank"]].isel(pos=0, example=0, drop=True)\n'
        "    tables.append(here.to_dataframe().reset_index().assign(which=which))\n"
        'names = {"answer_prob": "prob", "answer_rank": "rank"}\n'
        'table = pandas.concat(tables).rename(columns=names)[["layer", "prob", "rank", "which"]]'
    )

    def chart() -> charts.alt.Chart:
        return charts.lines(table, "layer", name, "which", title, log_y=name == "rank")

    return Figure("trajectory", title, table, code, readings.trajectory(table, focus), chart)


def difference(focus: Focus) -> Figure:
    """The logit difference that the lens reads, over depth."""
    everywhere = focus.ask(residual.geometry, focus.tokens, focus.answers)
    table = everywhere.loc[everywhere["pos"] == focus.query, ["layer", "lens"]]
    title = f"Logit difference read at each depth, position {focus.query}"
    code = (
        "ds = interp.residual_stream.geometry(\n"
        f"    model, tokens, metric, positions=[{focus.query}]\n"
        ")\n"
        "rows = ds.isel(example=0, drop=True).to_dataframe().reset_index()\n"
        'table = rows[["layer", "lens"]]'
    )
    named = table.assign(which="answer - wrong answer")
    return Figure(
        "difference", title, table, code, readings.difference(table, focus),
        lambda: charts.lines(named, "layer", "lens", "which", title),
    )  # fmt: skip


def written(focus: Focus) -> Figure:
    """What attention and the MLP of the chosen block wrote."""
    n = min(N_TOP, focus.cfg.d_vocab_out)
    table = focus.ask(residual.written, focus.tokens, focus.target, focus.query, focus.layer, n)
    lengths = focus.ask(residual.geometry, focus.tokens, focus.answers)
    here = lengths[lengths["pos"] == focus.query]
    parts = {
        f"L{focus.layer} attn_out": f"attention of layer {focus.layer}",
        f"L{focus.layer} mlp_out": f"MLP of layer {focus.layer}",
    }
    names = ["token", "logit", "lowest_token", "lowest_logit", "answer_logit", "answer_rank"]
    code = (
        "ds = interp.logit_lens.component_lens(\n"
        f"    model, tokens, {focus.target}, n_top={n}, positions=[{focus.query}]\n"
        ")\n"
        f"here = ds.sel(component={list(parts)}).isel(pos=0, example=0, drop=True)\n"
        f"names = {names}\n"
        'table = here[names].to_dataframe().reset_index()[["component", "rank", *names]]'
    )

    def draw() -> None:
        with st.grid(2, min_column_width=380, gap="medium") as panes:
            for part, title in parts.items():
                with panes.cell():
                    st.caption(f"By the {title}")
                    words(table[table["component"] == part], part)

    return Figure(
        "written", f"What layer {focus.layer} wrote at position {focus.query}, read as words",
        table, code, readings.written(table, here, focus), None, draw, MEANING["promoted"],
    )  # fmt: skip


def words(rows: pd.DataFrame, part: str) -> None:
    """Tokens promoted and suppressed by one part."""
    logits = st.column_config.NumberColumn("logits", format="%+.2f")
    shown = rows.assign(
        token=rows["token"].map(visible), lowest_token=rows["lowest_token"].map(visible)
    )
    st.dataframe(
        shown, hide_index=True, key=f"words_{part[-8:]}",
        column_order=["token", "logit", "lowest_token", "lowest_logit"],
        column_config={
            "token": "promotes", "logit": logits, "lowest_token": "suppresses",
            "lowest_logit": logits,
        },
    )  # fmt: skip


def geometry(focus: Focus) -> Figure:
    """Lengths and directions of the stream, by depth and position."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        name = controls.choose("residual.geometry", "Number", GEOMETRY)
        hide = controls.switch("residual.hide_first", "hide the first token")
    table = focus.ask(residual.geometry, focus.tokens, focus.answers)
    depths = list(dict.fromkeys(table["layer"]))
    shown = table.assign(token=[f"{p} {visible(focus.pieces[p])}" for p in table["pos"]])
    shown[name] = shown[name].mask(shown["pos"].eq(0) & hide)
    square = shown.pivot(index="layer", columns="pos", values=name).loc[depths].to_numpy()
    place = depths.index(chosen_depth(focus))
    signed, limit = name in ("cosine", "lens"), 1.0 if name == "cosine" else None
    title = f"{GEOMETRY[name].capitalize()} by depth and position"
    code = (
        "ds = interp.residual_stream.geometry(model, tokens, metric)\n"
        "table = ds.isel(example=0, drop=True).to_dataframe().reset_index()"
    )

    def draw() -> None:
        canvas.grid(
            square, rows=depths, columns=list(dict.fromkeys(shown["token"])), row_title="depth",
            column_title="position", label=title, key="geometry_grid", limit=limit,
            scheme="signed" if signed else "amount", unit="logits" if name == "lens" else "",
            marked=(place, focus.query),
            on_pick=lambda row, position: choose_cell(depths[row], position, focus.head),
        )  # fmt: skip

    def chart() -> charts.alt.Chart:
        return charts.place_map(shown, "token", "layer", name, title, signed=signed, limit=limit)

    return Figure(
        "geometry", title, table, code, readings.geometry(table, name, focus), chart, draw,
        MEANING["residual stream"],
    )  # fmt: skip


def similarity(focus: Focus) -> Figure:
    """The stream at the query, each depth against each other."""
    table = focus.ask(residual.similarity, focus.tokens, focus.query)
    depths = list(dict.fromkeys(table["layer"]))
    square = table.pivot(index="layer", columns="other_layer", values="cosine")
    title = f"Direction of the stream, depth against depth, position {focus.query}"
    code = (
        "da = interp.residual_stream.similarity(\n"
        f"    model, tokens, positions=[{focus.query}]\n"
        ")\n"
        "rows = da.isel(pos=0, example=0, drop=True).to_dataframe().reset_index()\n"
        'table = rows[["layer", "other_layer", "cosine"]]'
    )
    place = depths.index(chosen_depth(focus))

    def draw() -> None:
        canvas.grid(
            square.loc[depths, depths].to_numpy(), rows=depths, columns=depths, row_title="depth",
            label=title, key="similarity_grid", scheme="signed", limit=1.0, unit="cosine",
            marked=(place, place),
            on_pick=lambda row, _: choose_cell(depths[row], focus.query, focus.head),
        )  # fmt: skip

    def chart() -> charts.alt.Chart:
        return charts.place_map(
            table, "other_layer", "layer", "cosine", title, signed=True, limit=1.0
        )

    return Figure("similarity", title, table, code, readings.similarity(table, focus), chart, draw)


if __name__ == "__main__":
    show(page)
