"""Patching lab: values of one prompt put into another, place by place."""

import re

import numpy as np
import streamlit as st

from dashboards import state
from dashboards.components import canvas, controls, prose
from dashboards.components.aligned_tokens import aligned_tokens, columns_of
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.components.long_work import long_work
from dashboards.focus import Focus, tokens_of
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.measurements import patching
from dashboards.measurements.basics import Tokens
from dashboards.measurements.patching import Place, Swept
from dashboards.readings import patching as readings
from dashboards.service import service
from dashboards.snippets import patched_cell
from interp import charts, maps
from interp.errors import InterpError, PromptError
from interp.model.tokens import visible
from interp.prompts import PromptPair
from interp.sites import HEAD_SITES, VECTOR_SITES

SITES = {
    "resid_pre": "resid_pre: the stream before each layer",
    "resid_mid": "resid_mid: the stream between attention and MLP",
    "resid_post": "resid_post: the stream after each layer",
    "attn_out": "attn_out: what attention writes",
    "mlp_out": "mlp_out: what the MLP writes",
    "z": "z: each head's mixed values",
    "q": "q: each head's queries",
    "k": "k: each head's keys",
    "v": "v: each head's values",
    "pattern": "pattern: where each head looks",
}
DIRECTIONS = {"denoising": "denoising", "noising": "noising"}
SHOWN = {"effect": "effect", "recovered_fraction": "recovered fraction"}
SLICES = {"head": "one head, every layer", "layer": "one layer, every head"}
# Plain patching in so few seconds is begun without being asked.
AT_ONCE_SECONDS = 6.0

WHOLE = re.compile("[0-9]{1,6}")


def page(focus: Focus) -> None:
    """The lab."""
    corrupted = pair(focus)
    if corrupted is None:
        return
    site, direction, per_position, shown = settings()
    arguments = (focus.tokens, corrupted, site, direction, per_position, focus.answers)
    cost = focus.ask(patching.cost, corrupted, site, per_position)
    job = long_work(
        "patching", (focus.loaded.hash, *arguments),
        lambda: focus.start(patching.sweep, *arguments), cost=readings.cost(cost),
        label="Patch every place", at_once=cost.n_runs * cost.seconds < AT_ONCE_SECONDS,
    )  # fmt: skip
    if job is None:
        return
    swept: Swept = job.result
    if swept.undefined and shown == "recovered_fraction":
        prose.note(f"The effect is shown instead. {swept.undefined}")
        shown = "effect"
    place = chosen_place(swept)
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        with panes.cell():
            show_figure(sweep(swept, site, per_position, shown, place, focus), focus)
        with panes.cell():
            if swept.n_finished:
                show_figure(cell(swept, corrupted, site, direction, place, focus), focus)
            show_figure(checks(swept, corrupted, direction, focus), focus)


def pair(focus: Focus) -> Tokens | None:
    """The corrupted prompt's tokens, once it can be patched."""
    swap = focus.ask(patching.colour_swap, focus.text, focus.answers)
    default = swap.corrupted if swap else ""
    text = state.option("patching.corrupted", default)
    controls.write(
        "Corrupted prompt", text,
        lambda written: state.set_option("patching.corrupted", written, default),
        key="patching_corrupted", help=MEANING["corrupted prompt"],
        placeholder="The same prompt with one word changed: as many tokens as above",
    )  # fmt: skip
    templates(focus, swap)
    if not text.strip():
        st.info("Write the prompt above with one word changed, or take a template.")
        return None
    corrupted = tokens_of(focus.model, text, focus.prepend_bos)
    places = focus.ask(patching.alignment, focus.tokens, corrupted)
    aligned_tokens(columns_of(places), names=("clean", "corrupted"), key="patching_pair")
    try:
        focus.ask(patching.check, focus.tokens, corrupted)
    except PromptError as error:
        prose.problem(str(error), title="These two prompts cannot be patched into each other.")
        return None
    return corrupted


def templates(focus: Focus, swap: PromptPair | None) -> None:
    """Buttons that set the prompt, the answers and the corrupted prompt."""
    text = state.option("patching.seed", "0")
    seed = int(text) if WHOLE.fullmatch(text) else 0
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption("Templates", width="content")
        st.button(
            "Swap the colour", key="patching_swap", type="tertiary", disabled=swap is None,
            help="The prompt above with its colour changed; the two colours become the answers.",
            on_click=use_pair, args=(swap,),
        )  # fmt: skip
        st.button(
            "Indirect object", key="patching_ioi", type="tertiary",
            help="Two people, one of them gives; corrupted, the other one does. Each click draws "
            "other names.",
            on_click=draw_people, args=(focus, seed),
        )  # fmt: skip
    message = st.session_state.pop("patching_problem", "")
    if message:
        prose.problem(message, title="This template has no prompt for this model.")


def draw_people(focus: Focus, seed: int) -> None:
    """Another pair about two people."""
    try:
        drawn = service().answer(focus.loaded, patching.indirect_object, seed)
    except InterpError as error:
        st.session_state["patching_problem"] = str(error)
        return
    use_pair(drawn)
    state.set_option("patching.seed", str(seed + 1), "0")


def use_pair(chosen: PromptPair) -> None:
    """A template's prompts and answers."""
    state.change(
        text=chosen.clean, target=chosen.answer, wrong=chosen.wrong, query=None, key=None,
        layer=None, head=None,
    )  # fmt: skip
    state.set_option("patching.corrupted", chosen.corrupted, "")
    state.set_option("patching.cell", "", "")


def settings() -> tuple[str, str, bool, str]:
    """Site, direction, whether each position alone, and what is shown."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="patching_settings"):
        site = controls.choose("patching.site", "Site", SITES, help=MEANING["site"])
        direction = controls.choose(
            "patching.direction", "Direction", DIRECTIONS, help=MEANING["denoising"]
        )
        shown = controls.choose(
            "patching.shown", "Shown", SHOWN, help=MEANING["recovered fraction"]
        )
        alone = site in VECTOR_SITES and controls.switch(
            "patching.alone", "each position alone",
            help="Otherwise a head's values are patched at all positions together.",
        )  # fmt: skip
    st.caption(readings.direction(direction))
    return site, direction, alone, shown


def chosen_place(swept: Swept) -> Place:
    """The cell that was clicked, if this sweep has it; else the largest."""
    parts = state.option("patching.cell", "").split(".")
    if len(parts) == 3 and all(part == "-" or WHOLE.fullmatch(part) for part in parts):
        layer, head, position = (None if part == "-" else int(part) for part in parts)
        if layer is not None and swept.has(Place(layer, head, position)):
            return Place(layer, head, position)
    return swept.largest()


def choose_place(place: Place) -> None:
    """A cell was clicked."""
    text = ".".join("-" if at is None else str(at) for at in place)
    state.set_option("patching.cell", text, "")
    if place.head is not None:
        state.change(layer=place.layer, head=place.head)


def sweep(
    swept: Swept, site: str, per_position: bool, shown: str, place: Place, focus: Focus
) -> Figure:
    """The map."""
    direction = str(swept.ds.attrs["direction"])
    labels = [f"{position} {visible(piece)}" for position, piece in enumerate(focus.pieces)]
    numbers = [str(n) for n in range(max(focus.cfg.n_layers, focus.cfg.n_heads))]
    layers, heads = numbers[: focus.cfg.n_layers], numbers[: focus.cfg.n_heads]
    cells, which = swept.cells[shown], ""
    by_layer = False
    if per_position:
        by_layer = controls.choose("patching.slice", "Part of the sweep", SLICES) == "layer"
        cells = cells.isel(layer=place.layer) if by_layer else cells.isel(head=place.head)
        which = f", layer {place.layer}" if by_layer else f", head {place.head} of every layer"
    title = f"{SHOWN[shown].capitalize()} of patching {site}, {direction}{which}"
    by_head = site in HEAD_SITES and not per_position

    def clicked(row: int, column: int) -> None:
        layer, head = (place.layer, row) if by_layer else (row, place.head)
        choose_place(Place(layer, column) if by_head else Place(layer, head, column))

    def draw() -> None:
        canvas.grid(
            cells.values, rows=heads if by_layer else layers, columns=heads if by_head else labels,
            row_title="head" if by_layer else "layer",
            column_title="head" if by_head else "position that is patched", label=title,
            key="patching_grid", scheme="signed", unit="logits" if shown == "effect" else "",
            limit=None if shown == "effect" else max(1.0, float(np.nanmax(abs(cells), initial=0))),
            marked=(
                (place.head if by_layer else place.layer) or 0,
                (place.head if by_head else place.position) or 0,
            ),
            on_pick=clicked,
        )  # fmt: skip

    def chart() -> charts.alt.Chart:
        fraction = shown == "recovered_fraction"
        return maps.sweep_map(swept.ds, "recovered_fraction" if fraction else "effect")

    code = (
        f"{corrupted_code(focus)}\n"
        f'ds = interp.patching.sweep(model, tokens, corrupted, "{site}", metric, "{direction}"'
        f"{', per_position=True' if per_position else ''})\n"
        "table = interp.effects.table(ds)"
    )
    meant = "recovered fraction" if shown == "recovered_fraction" else "effect"
    return Figure(
        "patching", title, swept.table, code, readings.sweep(swept, site, focus), chart, draw,
        MEANING[meant],
    )  # fmt: skip


def corrupted_code(focus: Focus) -> str:
    """The line that makes the corrupted prompt."""
    swap = focus.ask(patching.colour_swap, focus.text, focus.answers)
    text = state.option("patching.corrupted", swap.corrupted if swap else "")
    if focus.model.tokenizer is None:
        return f"corrupted = [{list(tokens_of(focus.model, text, focus.prepend_bos))}]"
    bos = "" if focus.prepend_bos else ", prepend_bos=False"
    return f"corrupted = model.to_tokens({text!r}{bos})"


def cell(
    swept: Swept, corrupted: Tokens, site: str, direction: str, place: Place, focus: Focus
) -> Figure:
    """One cell: what was done, its numbers, and the lines that do it again."""
    plain = focus.ask(patching.cell, focus.tokens, corrupted, site, direction, place, focus.answers)
    where = "" if place.head is None else f"H{place.head}"
    where += "" if place.position is None else f", position {place.position}"
    title = f"This cell: {site} at L{place.layer}{where}"

    def draw() -> None:
        with st.container(horizontal=True):
            for name, value in zip(plain["run"], plain["logit_difference"], strict=True):
                st.metric(name, f"{value:+.3f}", width="content")

    source, base = ("tokens", "corrupted") if direction == "denoising" else ("corrupted", "tokens")
    code = patched_cell(corrupted_code(focus), site, place, source, base)
    return Figure(
        "cell", title, plain, code, readings.cell(swept, plain, site, place, focus), None, draw,
        MEANING["logit difference"],
    )  # fmt: skip


def checks(swept: Swept, corrupted: Tokens, direction: str, focus: Focus) -> Figure:
    """What must hold for every patch."""
    table = focus.ask(patching.checks, focus.tokens, corrupted, direction, focus.answers)
    code = (
        f"import pandas\n\n{corrupted_code(focus)}\nfacts = interp.causal_facts\n"
        f"names = {patching.CHECKS!r}\n"
        "rows = [\n"
        '    {"check": check, **getattr(facts, name)(\n'
        f'        model, tokens, corrupted, metric, "{direction}")._asdict()}}\n'
        "    for check, name in names.items()\n"
        "]\n"
        "table = pandas.DataFrame(rows)"
    )

    def draw() -> None:
        st.dataframe(
            table, hide_index=True, key="patching_checks",
            column_config={"largest_difference": st.column_config.NumberColumn(format="%.1e")},
        )  # fmt: skip

    reading = readings.checks(table, swept.before, swept.first_difference)
    return Figure("checks", "Checks: what must hold", table, code, reading, None, draw)


if __name__ == "__main__":
    show(page)
