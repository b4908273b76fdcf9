"""Compare: two prompts, or two models, side by side."""

import numpy as np
import pandas as pd
import streamlit as st
import xarray as xr

from dashboards import state
from dashboards.components import canvas, controls, prose
from dashboards.components.aligned_tokens import aligned_tokens, columns_of
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.focus import Focus, tokens_of
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.measurements import compare, patching
from dashboards.measurements.compare import Other
from dashboards.readings import compare as readings
from dashboards.service import service
from interp import charts, maps
from interp.errors import PromptError
from interp.model.loading import available_models
from interp.model.tokens import visible

WHAT = {"prompts": "two prompts", "models": "two models"}
MEASURES = {"moved": "attention that moved", "divergence": "divergence"}
VIEWS = {"difference": "Difference", "both": "Side by side"}
N_HEADS = N_TOKENS = 10
# Tokens up to which a chart of a whole pattern is made for files.
LEGIBLE = 60


def page(focus: Focus) -> None:
    """The comparison."""
    what = controls.choose("compare.what", "Compare", WHAT)
    other = other_prompt(focus) if what == "prompts" else other_model(focus)
    if other is None:
        return
    places = focus.ask(compare.alignment, focus.tokens, other)
    aligned_tokens(columns_of(places), names=("A", "B"), key="compare_pair")
    try:
        table = focus.ask(compare.heads, focus.tokens, other)
    except PromptError as error:
        prose.problem(str(error), title="The heads of these runs cannot be compared.")
        show_figure(next_tokens(focus, other), focus)
        return
    with st.container(horizontal=True):
        measure = controls.choose("compare.measure", "Number per head", MEASURES)
        view = controls.choose("compare.view", "Chosen head", VIEWS)
    figures = [
        head_map(focus, other, table, measure, places), most_changed(focus, other, measure),
        next_tokens(focus, other),
    ]  # fmt: skip
    figures[1:1] = [difference(focus, other)] if view == "difference" else []
    figures[2:2] = both_patterns(focus, other) if view == "both" else []
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        for figure in figures:
            with panes.cell():
                show_figure(figure, focus)


def other_prompt(focus: Focus) -> Other | None:
    """The same model with another prompt."""
    swap = focus.ask(patching.colour_swap, focus.text, focus.answers)
    default = swap.corrupted if swap else ""
    text = state.option("compare.other", default)
    controls.write(
        "Prompt B", text, lambda written: state.set_option("compare.other", written, default),
        key="compare_other", placeholder="The prompt to compare with the one above, which is A",
    )  # fmt: skip
    st.button(
        "Use the current prompt as B", key="compare_pin", type="tertiary",
        help="Keeps the prompt above as B; then change A.",
        on_click=state.set_option, args=("compare.other", focus.text, ""),
    )  # fmt: skip
    if not text.strip():
        st.info("Write a prompt B, or keep the current prompt as B and then change A.")
        return None
    try:
        return Other(tokens_of(focus.model, text, focus.prepend_bos))
    except PromptError as error:
        prose.problem(str(error), title="Prompt B cannot be read.")
        return None


def other_model(focus: Focus) -> Other | None:
    """Another model with the same prompt."""
    present = [row.name for row in available_models() if row.present]
    names = list(dict.fromkeys([*service().names, *present]))
    names = [name for name in names if name != focus.loaded.name]
    chosen = state.option("compare.model", names[0] if names else "")
    if chosen not in names:
        if chosen:
            prose.problem(
                f"{chosen!r} is not on this machine or not loaded. Load it once by “Another "
                "model”, then come back to this one.",
                title="Model B is not there.",
            )
        else:
            st.info("There is no second model here. Load one by “Another model” at the side.")
        if not names:
            return None
        chosen = names[0]
    controls.pick(
        "Model B", names, chosen, lambda name: state.set_option("compare.model", name, ""),
        key="compare_model",
    )  # fmt: skip
    with st.spinner("Loading the model", show_time=True):
        loaded = service().loaded(chosen)
    try:
        tokens = tokens_of(loaded.model, focus.text, focus.prepend_bos)
    except PromptError as error:
        prose.problem(str(error), title="Model B cannot read this prompt.")
        return None
    return Other(tokens, chosen, loaded.hash)


def other_code(focus: Focus, other: Other) -> str:
    """The lines that make the second run's model and prompt."""
    text = focus.text
    if not other.model:
        swap = focus.ask(patching.colour_swap, focus.text, focus.answers)
        text = state.option("compare.other", swap.corrupted if swap else "")
    name = "" if other.model == "tiny" else repr(other.model)
    model = f"other_model = interp.load({name})" if other.model else "other_model = model"
    if focus.model.tokenizer is None:
        return f"{model}\nother = [{list(other.tokens)}]"
    bos = "" if focus.prepend_bos else ", prepend_bos=False"
    return f"{model}\nother = other_model.to_tokens({text!r}{bos})"


def choose_head(layer: int, head: int) -> None:
    """A head was clicked."""
    state.change(layer=layer, head=head)


def head_map(
    focus: Focus, other: Other, table: pd.DataFrame, measure: str, places: pd.DataFrame
) -> Figure:
    """How much each head changes."""
    title = f"{MEASURES[measure].capitalize()}, by head"
    values = table.pivot(index="layer", columns="head", values=measure).to_numpy()

    def draw() -> None:
        canvas.grid(
            values, rows=[str(n) for n in range(focus.cfg.n_layers)],
            columns=[str(n) for n in range(focus.cfg.n_heads)], row_title="layer",
            column_title="head", label=title, key="compare_grid",
            unit="bits" if measure == "divergence" else "share of attention",
            marked=(focus.layer, focus.head), on_pick=choose_head,
        )  # fmt: skip

    code = (
        f"{other_code(focus, other)}\n"
        "ds = interp.differences.pattern_changes(model, tokens, other_model, other)\n"
        "table = ds.to_dataframe().reset_index()"
    )
    both = places.dropna(subset=["position", "other_position"])
    reading = readings.heads(table, measure, len(both), len(places) - len(both))
    return Figure(
        "changed_heads", title, table, code, reading,
        lambda: charts.head_map(table, measure, title), draw,
        MEANING["moved attention" if measure == "moved" else "divergence"],
    )  # fmt: skip


def most_changed(focus: Focus, other: Other, measure: str) -> Figure:
    """The heads that change most; a click keeps one."""
    table = focus.ask(compare.most_changed, focus.tokens, other, measure, N_HEADS)

    def picked() -> None:
        rows = st.session_state["compare_heads"]["selection"]["rows"]
        if rows:
            choose_head(int(table["layer"][rows[0]]), int(table["head"][rows[0]]))

    def draw() -> None:
        number = st.column_config.NumberColumn
        st.dataframe(
            table, hide_index=True, key="compare_heads", on_select=picked,
            selection_mode="single-row",
            column_config={
                "query": number(help="Of the edge that changes most: position in A"),
                "key": number(help="Of the edge that changes most: position in A"),
                "weight": number("weight in A", format="%.3f"),
                "other_weight": number("weight in B", format="%.3f"),
                "moved": number(format="%.3f"), "divergence": number(format="%.4f"),
            },
        )  # fmt: skip

    code = (
        f"{other_code(focus, other)}\n"
        "ds = interp.differences.pattern_changes(model, tokens, other_model, other)\n"
        f'table = ds.to_dataframe().reset_index().nlargest({N_HEADS}, "{measure}")'
    )
    return Figure("most_changed", "Heads that change most", table, code, (), None, draw)


def both_patterns(focus: Focus, other: Other) -> list[Figure]:
    """The chosen head in A and in B."""
    first = focus.pattern(focus.layer, focus.head)
    second = focus.ask(compare.pattern, other, focus.layer, focus.head)
    lines = f"{other_code(focus, other)}\n"
    return [
        pattern("pattern_a", "A", first, "model, tokens", focus),
        pattern("pattern_b", "B", second, "other_model, other", focus, lines),
    ]


def pattern(
    name: str, side: str, array: xr.DataArray, given: str, focus: Focus, lines: str = ""
) -> Figure:
    """One side's whole pattern."""
    weights = array.values.copy()
    weights[np.triu_indices(len(weights), 1)] = np.nan
    pieces = array["key_token"].values.tolist()
    labels = [f"{position} {visible(piece)}" for position, piece in enumerate(pieces)]
    title = f"{focus.name} in {side}"

    def draw() -> None:
        canvas.grid(
            weights, rows=labels, columns=labels, row_title="query (looks)",
            column_title="key (is looked at)", label=title, key=f"{name}_grid", limit=1.0,
        )  # fmt: skip

    code = (
        f"{lines}pattern = interp.patterns.of_head({given}, {focus.layer}, {focus.head})\n"
        "table = pattern.to_dataframe().reset_index()"
    )
    return Figure(
        name, title, array.to_dataframe().reset_index(), code, (),
        (lambda: charts.attention_matrix(array.values, pieces, title))
        if len(labels) <= LEGIBLE
        else None,
        draw, MEANING["attention weight"],
    )  # fmt: skip


def difference(focus: Focus, other: Other) -> Figure:
    """The chosen head's pattern in B minus that in A."""
    ds = focus.ask(compare.of_head, focus.tokens, other, focus.layer, focus.head)
    labels = maps.place_labels(ds)
    table = ds[["weight", "other_weight", "change"]].reset_coords(drop=True).to_dataframe()
    table = table.dropna().reset_index()
    title = f"{focus.name}: weight in B minus weight in A"

    def draw() -> None:
        canvas.grid(
            ds["change"].values, rows=labels, columns=labels, row_title="query (looks)",
            column_title="key (is looked at)", label=title, key="compare_difference",
            scheme="signed",
        )  # fmt: skip

    code = (
        f"{other_code(focus, other)}\n"
        f"ds = interp.differences.of_head(model, tokens, other_model, other, {focus.layer}, "
        f"{focus.head})\n"
        'ds = ds[["weight", "other_weight", "change"]].reset_coords(drop=True)\n'
        "table = ds.to_dataframe().dropna().reset_index()"
    )
    pieces = dict(zip(ds["key_pos"].values.tolist(), ds["token"].values.tolist(), strict=True))
    edges = table.assign(
        query_token=table["query_pos"].map(pieces), key_token=table["key_pos"].map(pieces)
    )
    chart = (lambda: maps.pattern_difference(ds, title)) if len(labels) <= LEGIBLE else None
    return Figure(
        "difference", title, table, code, readings.of_head(edges, focus.name), chart, draw,
        MEANING["attention weight"],
    )  # fmt: skip


def next_tokens(focus: Focus, other: Other) -> Figure:
    """What comes next in either run."""
    table = focus.ask(compare.next_tokens, focus.tokens, other, N_TOKENS)
    values = focus.ask(compare.logit_differences, focus.tokens, other, focus.answers)

    def draw() -> None:
        share = st.column_config.ProgressColumn
        st.dataframe(
            table.assign(token=[visible(token) for token in table["token"]]), hide_index=True,
            key="compare_tokens",
            column_config={
                "prob": share("in A", min_value=0, max_value=1, format="%.4f"),
                "other_prob": share("in B", min_value=0, max_value=1, format="%.4f"),
                "change": st.column_config.NumberColumn("B minus A", format="%+.4f"),
                "rank": "rank in A", "other_rank": "rank in B",
            },
        )  # fmt: skip

    code = (
        f"{other_code(focus, other)}\n"
        "table = interp.differences.next_tokens(model, tokens, other_model, other, "
        f"n_top={N_TOKENS})"
    )
    same = focus.ask(compare.same_vocabulary, other)
    reading = readings.next_tokens(table, values, same, focus)
    return Figure("next_tokens", "The next token in A and B", table, code, reading, None, draw)


if __name__ == "__main__":
    show(page)
