"""Ablation lab: take heads and MLPs out, alone and together, and see what breaks."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboards import pages
from dashboards.components import canvas, controls
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.components.long_work import long_work
from dashboards.focus import Focus
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.measurements import ablation, basics, costs
from dashboards.measurements.references import reference_code, sources
from dashboards.readings import ablation as readings
from interp import charts
from interp.model.tokens import visible

KINDS = {
    "zero": "zero",
    "mean": "mean",
    "positional mean": "positional mean",
    "resample": "resample",
}
MOST_SEED = 10**6


def page(focus: Focus) -> None:
    """The lab."""
    kind, source, seed = settings(focus)
    known = ablation.components(focus.model)
    chosen = controls.several(
        "ablation.chosen", "Taken out", list(known), (focus.name,),
        help="Heads and MLPs whose output is replaced. The map below does the same by click.",
    )  # fmt: skip
    asked = (tuple(known[name] for name in chosen), kind, source, seed)
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        with panes.cell():
            component_map(focus, chosen, kind, source, seed)
            if chosen:
                show_figure(measures(focus, asked), focus)
                show_figure(interplay(focus, asked), focus)
        with panes.cell():
            if chosen:
                show_figure(next_tokens(focus, chosen, asked), focus)
            else:
                st.markdown("Nothing is taken out. Click on the map, or choose from the list.")
    with st.container(horizontal=True):
        pages.link("attention", "Cut single attention edges")
        pages.link("head", f"See what {focus.name} does")


def settings(focus: Focus) -> tuple[str, str, int]:
    """What takes the place: kind, source of the reference prompts, seed."""
    places = sources(focus.model)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = controls.choose("ablation.kind", "Replaced by", KINDS, help=MEANING["ablation"])
        if kind == "zero":
            source, seed = next(iter(places)), 0
        else:
            source = controls.choose(
                "ablation.reference", "Reference prompts", places, help=MEANING["reference"]
            )
            seed = controls.number(
                "ablation.seed", "Seed", default=0, lowest=0, highest=MOST_SEED,
                help="Of the reference prompts, and of the one that resampling draws.",
            )  # fmt: skip
    st.caption(readings.replacement(kind, source, seed, focus))
    return kind, source, seed


def component_map(focus: Focus, chosen: list[str], kind: str, source: str, seed: int) -> None:
    """Every head and MLP: what each does alone, and which are chosen."""
    asked = (focus.tokens, kind, source, seed, focus.answers)
    size = (focus.cfg, len(ablation.components(focus.model)), len(focus.tokens))
    if costs.work(*size) <= costs.CHEAP:
        table = focus.ask(ablation.singles, *asked)
    else:
        job = long_work(
            "singles", (focus.loaded.hash, asked), lambda: focus.start(ablation.singles, *asked),
            cost=f"What does each of the {size[1]} heads and MLPs do alone? One continuation of "
            f"the run for each, about {max(1, costs.seconds(*size)):.0f} s on two processor cores.",
            label="Take out each alone",
        )  # fmt: skip
        table = None if job is None else job.result
    if table is None:
        st.markdown("**Heads and MLPs; click to take one out**")
        draw_map(focus, chosen, np.zeros((focus.cfg.n_layers, focus.cfg.n_heads + 1)), "", "amount")
        return
    show_figure(singles(focus, chosen, table, kind, source, seed), focus)


def draw_map(
    focus: Focus, chosen: list[str], values: np.ndarray, unit: str, scheme: canvas.Scheme
) -> None:
    """The map to click on, with the chosen parts crossed out."""
    n_layers, n_heads = focus.cfg.n_layers, focus.cfg.n_heads
    names = list(ablation.components(focus.model))

    def toggle(layer: int, column: int) -> None:
        name = names[layer * (n_heads + 1) + column]
        now = [part for part in chosen if part != name]
        now = now if name in chosen else [part for part in names if part in (*chosen, name)]
        controls.set_several("ablation.chosen", now)

    canvas.grid(
        values, rows=[str(n) for n in range(n_layers)],
        columns=[*(str(n) for n in range(n_heads)), "MLP"], row_title="layer",
        column_title="head", label="Heads and MLPs, and what each does alone",
        key="component_grid", scheme=scheme, unit=unit,
        chosen=[divmod(names.index(name), n_heads + 1) for name in chosen], on_pick=toggle,
    )  # fmt: skip


def singles(
    focus: Focus, chosen: list[str], table: pd.DataFrame, kind: str, source: str, seed: int
) -> Figure:
    """What each part does alone."""
    order = list(dict.fromkeys(table["part"]))
    values = table.pivot(index="layer", columns="part", values="effect")[order].to_numpy()
    title = f"Each taken out alone, by {kind}"
    options = options_code(kind, seed)
    code = (
        f"import pandas\n\n{given_code(focus, kind, source, seed)}"
        "sweeps = [\n"
        f'    interp.ablation.sweep(model, tokens, metric, "{kind}", of=of{options})["effect"]\n'
        '    for of in ("heads", "mlps")\n]\n'
        "of_heads, of_mlps = (\n"
        "    sweep.isel(example=0, drop=True).to_series().reset_index() for sweep in sweeps\n)\n"
        'of_heads = of_heads.rename(columns={"head": "part"}).astype({"part": str})\n'
        'table = pandas.concat([of_heads, of_mlps.assign(part="MLP")], ignore_index=True)\n'
        'table = table[["layer", "part", "effect"]]'
    )
    original = focus.ask(basics.logit_difference, focus.tokens, focus.answers)
    return Figure(
        "singles", title, table, code, readings.singles(table, original),
        lambda: charts.place_map(table, "part", "layer", "effect", title, signed=True),
        lambda: draw_map(focus, chosen, values, "logits", "signed"), MEANING["effect"],
    )  # fmt: skip


def given_code(focus: Focus, kind: str, source: str, seed: int) -> str:
    """The line that makes the reference prompts, where there are any."""
    return "" if kind == "zero" else reference_code(focus.model, focus.tokens, source, seed)


def options_code(kind: str, seed: int) -> str:
    """The options that go with them."""
    return "" if kind == "zero" else f", reference=reference, seed={seed}"


def hooks_code(focus: Focus, asked: tuple) -> str:
    """The lines that make hooks of the chosen parts."""
    chosen, kind, source, seed = asked
    return (
        f"{given_code(focus, kind, source, seed)}chosen = {list(chosen)}\n"
        f'hooks = interp.ablation.replacing_hooks(\n    model, tokens, chosen, "{kind}"'
        f"{options_code(kind, seed)}\n)\n"
    )


def next_tokens(focus: Focus, chosen: list[str], asked: tuple) -> Figure:
    """The most probable next tokens, before and after."""
    table, _ = focus.ask(ablation.before_and_after, focus.tokens, *asked, focus.answers)
    code = (
        f"{hooks_code(focus, asked)}"
        "table = interp.predictions.before_and_after(model, tokens, hooks)"
    )

    def draw() -> None:
        column = st.column_config
        bar = column.ProgressColumn(min_value=0, max_value=1, format="%.3f", width="small")
        st.dataframe(
            table.assign(token=[visible(piece) for piece in table["token"]]),
            hide_index=True, key="next_tokens", height="content",
            column_order=["token", "before", "after", "change", "rank_after"],
            column_config={
                "before": bar,
                "after": bar,
                "change": column.NumberColumn(format="%+.3f"),
                "rank_after": column.NumberColumn("rank after"),
            },
        )  # fmt: skip

    return Figure(
        "next_tokens", "Next token, before and after", table, code,
        readings.next_tokens(table, chosen), None, draw,
    )  # fmt: skip


def measures(focus: Focus, asked: tuple) -> Figure:
    """Logit difference, probability and loss."""
    _, table = focus.ask(ablation.before_and_after, focus.tokens, *asked, focus.answers)
    loss = "loss on the prompt" in set(table["measure"])
    code = (
        f"import pandas\n\n{hooks_code(focus, asked)}"
        "runs = {\n"
        '    "before": model(tokens),\n'
        '    "after": model.run_with_hooks(tokens, hooks),\n'
        "}\n"
        "judges = {\n"
        '    "logit difference": metric,\n'
        f'    "answer\'s probability": interp.metrics.prob({focus.target}),\n'
        + (
            '    "loss on the prompt": interp.metrics.next_token_loss(model.as_batch(tokens)),\n'
            if loss
            else ""
        )
        + "}\n"
        "rows = [\n"
        '    {"measure": name}\n'
        "    | {run: float(judge(logits)) for run, logits in runs.items()}\n"
        '    | {"unit": judge.unit}\n'
        "    for name, judge in judges.items()\n]\n"
        "table = pandas.DataFrame(rows)\n"
        'table = table.assign(change=table["after"] - table["before"])'
    )
    reading = readings.measures(table, focus)
    components, kind, source, seed = asked
    if kind == "resample":
        low, high = focus.ask(ablation.draws, focus.tokens, components, source, seed, focus.answers)
        reading = [*reading, readings.draws(low, high, ablation.N_DRAWS)]

    def draw() -> None:
        number = st.column_config.NumberColumn
        st.dataframe(
            table, hide_index=True, key="measures",
            column_order=["measure", "before", "after", "change", "unit"],
            column_config={
                "before": number(format="%.3f"),
                "after": number(format="%.3f"),
                "change": number(format="%+.3f"),
            },
        )  # fmt: skip

    return Figure("measures", "The answer and the prompt", table, code, reading, None, draw)


def interplay(focus: Focus, asked: tuple) -> Figure:
    """Together against each alone."""
    chosen, kind, source, seed = asked
    table = focus.ask(ablation.interplay, focus.tokens, *asked, focus.answers)
    code = (
        f"import pandas\n\n{given_code(focus, kind, source, seed)}chosen = {list(chosen)}\n"
        "ds = interp.ablation.interplay(\n"
        f'    model, tokens, chosen, metric, "{kind}"{options_code(kind, seed)}\n'
        ").isel(example=0)\n"
        'names = ["sum of each alone", "all together", "interplay"]\n'
        'parts = [ds[name].item() for name in ("sum", "together", "interplay")]\n'
        "table = pandas.DataFrame({\n"
        '    "taken_out": [*ds["component"].values.tolist(), *names],\n'
        '    "effect": [*ds["alone"].values.tolist(), *parts],\n'
        "})"
    )
    title = "Together, and each alone"
    return Figure(
        "interplay", title, table, code, readings.interplay(table),
        lambda: charts.signed_bars(
            table, "taken_out", "effect", title, "change of the logit difference, logits"
        ),
        None, MEANING["interplay"],
    )  # fmt: skip


if __name__ == "__main__":
    show(page)
