"""Attribution: the logit difference as a sum of what heads, MLPs, embeddings and biases add."""

import pandas as pd
import streamlit as st
import xarray as xr

from dashboards import pages, state
from dashboards.components import canvas, controls
from dashboards.components.figure import Figure
from dashboards.components.figure import show as show_figure
from dashboards.focus import Focus
from dashboards.frame import show
from dashboards.glossary import MEANING
from dashboards.measurements import attribution, basics
from dashboards.readings import attribution as readings
from interp import charts

DECOMPOSE = "da = interp.logit_attribution.decompose(model, tokens, metric)\n"
READ_FROM = {"head": "the chosen head", "heads": "all heads", "all": "everything"}
MOST_BARS = 20
# Tokens with a bar of their own.
MOST_TOKENS = 40
N_NEURONS = 10


def page(focus: Focus) -> None:
    """The sum, its heads, its other parts, and its neurons."""
    da = focus.ask(attribution.decomposition, focus.tokens, focus.answers)
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        with panes.cell():
            show_figure(heads(da, focus), focus)
            pages.link("head", f"What {focus.name} does in general")
            show_figure(sum_check(da, focus), focus)
        with panes.cell():
            show_figure(largest(da), focus)
    with st.grid(2, min_column_width=430, gap="medium") as panes:
        with panes.cell():
            show_figure(parts(da, focus), focus)
        with panes.cell():
            show_figure(positions(da, focus), focus)
    show_figure(neurons(focus), focus)


def choose_head(layer: int, head: int) -> None:
    """A head was clicked."""
    state.change(layer=layer, head=head)


def heads(da: xr.DataArray, focus: Focus) -> Figure:
    """One signed number per head."""
    table = attribution.heads(da)
    total = focus.ask(basics.logit_difference, focus.tokens, focus.answers)
    title = "What each head adds to answer - wrong answer"
    square = table.pivot(index="layer", columns="head", values="contribution").to_numpy()
    code = (
        f"{DECOMPOSE}"
        'parts = da.sel(component=da.kind == "head").sum("pos").isel(example=0, drop=True)\n'
        'table = parts.to_dataframe().reset_index()[["layer", "head", "contribution"]]'
    )

    def draw() -> None:
        canvas.grid(
            square, rows=[str(n) for n in range(focus.cfg.n_layers)],
            columns=[str(n) for n in range(focus.cfg.n_heads)], row_title="layer",
            column_title="head", label=title, key="contribution_grid", scheme="signed",
            unit="logits", marked=(focus.layer, focus.head), on_pick=choose_head,
        )  # fmt: skip

    return Figure(
        "heads", title, table, code, readings.heads(table, total, focus),
        lambda: charts.head_map(table, "contribution", title, signed=True), draw,
        MEANING["direct logit attribution"],
    )  # fmt: skip


def sum_check(da: xr.DataArray, focus: Focus) -> Figure:
    """The parts' sum beside the model's own number."""
    own = focus.ask(basics.logit_difference, focus.tokens, focus.answers)
    table = attribution.sum_check(da, own)
    code = (
        "import pandas\n\n"
        f"{DECOMPOSE}"
        'total = float(da.sel(component=da.kind != "residue").sum())\n'
        'own = float(metric(model.run_with_hooks(tokens, [], positions="last")))\n'
        f"names = {table['number'].tolist()}\n"
        'table = pandas.DataFrame({"number": names, "logits": [total, own, total - own]})'
    )

    def draw() -> None:
        logits = st.column_config.NumberColumn("logits", format="%+.6f")
        st.dataframe(
            table, hide_index=True, key="sum_check", column_config={"number": "", "logits": logits}
        )

    return Figure(
        "sum_check", "Do the parts add up?", table, code, readings.sum_check(table), None, draw,
        MEANING["residue"],
    )  # fmt: skip


def largest(da: xr.DataArray) -> Figure:
    """The parts with the largest bars, and one bar for the rest."""
    table = attribution.components(da)
    code = (
        f"{DECOMPOSE}"
        'parts = da.sum("pos").isel(example=0, drop=True).to_dataframe().reset_index()\n'
        'table = parts.sort_values("contribution", key=abs, ascending=False, kind="stable")'
    )
    return Figure(
        "largest", "The largest contributions", table, code, readings.largest(table, MOST_BARS),
        lambda: charts.contributions(da, most=MOST_BARS),
        help=MEANING["direct logit attribution"],
    )  # fmt: skip


def parts(da: xr.DataArray, focus: Focus) -> Figure:
    """Heads by layer, MLPs, embeddings and biases, in the order of the model."""
    table = attribution.parts(da)
    title = "From the embeddings to the end"
    code = (
        f"{DECOMPOSE}"
        'parts = interp.logit_attribution.by_part(da).sum("pos").isel(example=0, drop=True)\n'
        "table = parts.to_dataframe().reset_index()"
    )
    return Figure(
        "parts", title, table, code, readings.parts(table, focus),
        lambda: charts.signed_bars(table, "part", "contribution", title, "logits"),
        help=MEANING["direct logit attribution"],
    )  # fmt: skip


def positions(da: xr.DataArray, focus: Focus) -> Figure:
    """The positions that it was read from."""
    of = controls.choose("attribution.of", "Read by", READ_FROM)
    component = focus.name if of == "head" else None
    table = attribution.positions(da, component, only_heads=of == "heads")
    name = focus.name if of == "head" else READ_FROM[of].capitalize()
    title = f"{name}: what comes from which token"
    select = {
        "head": f'one = one.sel(component=["{focus.name}"])\n',
        "heads": 'one = one.sel(component=one.kind == "head")\n',
        "all": "",
    }
    code = (
        f"{DECOMPOSE}"
        "one = da.isel(example=0, drop=True)\n"
        f"{select[of]}"
        'rows = one.sum("component").to_dataframe().reset_index()\n'
        'table = rows[["pos", "token", "contribution"]]'
    )

    def chart() -> charts.alt.Chart:
        named = pd.DataFrame(
            {"token": charts.token_labels(table["token"].tolist()), "logits": table["contribution"]}
        )
        return charts.signed_bars(named, "token", "logits", title, "logits", most=MOST_TOKENS)

    return Figure("positions", title, table, code, readings.positions(table, name), chart)


def neurons(focus: Focus) -> Figure:
    """The strongest neurons of the chosen layer's MLP."""
    every = focus.ask(attribution.neurons, focus.tokens, focus.answers, focus.layer)
    table = attribution.strongest(every, N_NEURONS)
    title = f"Neurons of layer {focus.layer}'s MLP: {N_NEURONS} strongest each way"
    code = (
        "da = interp.logit_attribution.neurons(model, tokens, metric)\n"
        f"rows = da.sel(layer={focus.layer}).isel(example=0, drop=True).to_dataframe()\n"
        f'ends = interp.logit_attribution.both_ends(rows["contribution"], {N_NEURONS})\n'
        'table = rows.loc[ends.index, ["activation", "contribution"]].reset_index()'
    )

    def chart() -> charts.alt.Chart:
        named = table.assign(neuron=table["neuron"].astype(str))
        return charts.signed_bars(named, "neuron", "contribution", title, "logits")

    return Figure("neurons", title, table, code, readings.neurons(every, table, focus.layer), chart)


if __name__ == "__main__":
    show(page)
