"""Results to Altair charts, one function per picture; `interp.pictures.save` writes their files.

Colours are safe for colour-blind readers: `viridis` for amounts, `purpleorange` around zero with a
symmetric range. Titles say what is shown and in which unit; tooltips give the exact numbers.
"""

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from interp.model.tokens import visible
from interp.statistics import bootstrap

CELL = 34
"""Pixels of a heat-map cell."""
WRITTEN_CELL = 44
"""Width in pixels of a cell that shows its number."""
NARROW = 14
"""Width in pixels of a bar where there are many."""
LABEL_CHARACTERS = 16
"""Longest token that a label shows whole."""
WHOLE = alt.Axis(labelLimit=0)
"""Of an axis of names, none of which is cut off."""
SLANTED = alt.Axis(labelAngle=-60, labelLimit=0)
"""Of a horizontal axis of tokens."""
EVERY_NAME = alt.Axis(labelLimit=0, labelOverlap=False)
"""Of a vertical axis of names."""
NEGATIVE, POSITIVE = "#8073ac", "#e08214"
"""Of bars on both sides of zero; from `purpleorange`."""


def head_map(
    table: pd.DataFrame, value: str, title: str, *, signed: bool = False,
    limit: float | None = None,
) -> alt.Chart:  # fmt: skip
    """One number per head, layers downwards.

    Args:
        table: Columns `layer`, `head` and `value`.
        signed: Colour around zero instead of from zero up.
        limit: End of the colour range, to compare maps; by default the size of the largest value.
    """
    largest = limit or max(float(table[value].abs().max()), 1e-9)
    domain = [-largest, largest] if signed else [0, largest]
    scale = alt.Scale(scheme="purpleorange" if signed else "viridis", domain=domain)
    return (
        alt.Chart(table)
        .mark_rect()
        .encode(
            x=alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0)),
            y=alt.Y("layer:O", title="layer"),
            color=alt.Color(f"{value}:Q", scale=scale, title=None),
            tooltip=["layer:O", "head:O", alt.Tooltip(f"{value}:Q", format=".5f")],
        )
        .properties(title=title, width=alt.Step(CELL), height=alt.Step(CELL))
    )


def place_map(
    table: pd.DataFrame, x: str, y: str, value: str, title: str, *, signed: bool = False,
    limit: float | None = None,
) -> alt.Chart:  # fmt: skip
    """One number for each pair of names, as `head_map`; rows and columns in the table's order.

    Args:
        table: Columns `x`, `y` and `value`; a row without a value is an empty cell.
        signed, limit: As in `head_map`.
    """
    largest = limit or max(float(table[value].abs().max()), 1e-9)
    domain = [-largest, largest] if signed else [0, largest]
    scale = alt.Scale(scheme="purpleorange" if signed else "viridis", domain=domain, clamp=True)
    rows = table[[x, y, value]].dropna().to_dict("records")
    return (
        alt.Chart(alt.InlineData(values=rows))  # of a table, Altair takes 5000 rows at most
        .mark_rect()
        .encode(
            x=alt.X(f"{x}:N", sort=None, title=None, axis=SLANTED),
            y=alt.Y(f"{y}:N", sort=None, title=None),
            color=alt.Color(f"{value}:Q", scale=scale, title=None),
            tooltip=[f"{x}:N", f"{y}:N", alt.Tooltip(f"{value}:Q", format=".5g")],
        )
        .properties(title=title, width=alt.Step(22), height=alt.Step(22))
    )


def cell_map(
    table: pd.DataFrame, x: str, y: str, value: str, title: str, *, limit: float = 1.0
) -> alt.LayerChart:
    """One number, also written out, for each pair of names; rows and columns in the table's order.

    Args:
        table: Columns `x` and `y` (text), and `value`, from 0 to `limit` (beyond: the end colour).
    """
    base = alt.Chart(table).encode(
        x=alt.X(f"{x}:N", sort=None, axis=SLANTED),
        y=alt.Y(f"{y}:N", sort=None),
        tooltip=[f"{x}:N", f"{y}:N", alt.Tooltip(f"{value}:Q", format=".4f")],
    )
    scale = alt.Scale(scheme="viridis", domain=[0, limit], clamp=True)
    cells = base.mark_rect().encode(color=alt.Color(f"{value}:Q", scale=scale, title=None))
    readable = alt.condition(alt.datum[value] > 0.6 * limit, alt.value("black"), alt.value("white"))
    numbers = base.mark_text(fontSize=11).encode(
        text=alt.Text(f"{value}:Q", format=".2f"), color=readable
    )
    return alt.LayerChart(layer=[cells, numbers]).properties(
        title=title, width=alt.Step(WRITTEN_CELL), height=alt.Step(WRITTEN_CELL / 2)
    )


def shortened(token: str, n_characters: int = LABEL_CHARACTERS) -> str:
    """A token for a label: white space shown, and cut if it is long."""
    text = visible(token)
    return text if len(text) <= n_characters else text[: n_characters - 1] + "…"


def token_labels(tokens: Sequence[str]) -> list[str]:
    """Axis labels that stay distinct when a token repeats: position and text."""
    return [f"{position} {shortened(token)}" for position, token in enumerate(tokens)]


def attention_row(weights: Sequence[float], tokens: Sequence[str], title: str) -> alt.Chart:
    """How one query divides its attention among the keys: bars that sum to 1."""
    table = pd.DataFrame({"token": token_labels(tokens), "weight": list(weights)})
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X("weight:Q", title="attention weight", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("token:N", sort=None, title="key"),
            tooltip=["token:N", alt.Tooltip("weight:Q", format=".5f")],
        )
        .properties(title=title, width=360, height=alt.Step(18))
    )


def bars(table: pd.DataFrame, x: str, y: str, title: str) -> alt.Chart:
    """One bar per row, in the rows' order."""
    return (
        alt.Chart(table)
        .mark_bar()
        .encode(
            x=alt.X(f"{x}:O", sort=None, axis=alt.Axis(labelAngle=0)),
            y=alt.Y(f"{y}:Q"),
            tooltip=[f"{x}:O", alt.Tooltip(f"{y}:Q", format=".5f")],
        )
        .properties(title=title, width=alt.Step(14), height=160)
    )


def panels(table: pd.DataFrame, x: str, columns: Sequence[str], title: str) -> alt.Chart:
    """A row of bars for each of these columns, one below the other; each has its own range."""
    long = table.melt(id_vars=[x], value_vars=list(columns), var_name="of", value_name="value")
    return (
        alt.Chart(long)
        .mark_bar()
        .encode(
            x=alt.X(f"{x}:O", sort=None, axis=alt.Axis(labelAngle=0, labelOverlap=True)),
            y=alt.Y("value:Q", title=None),
            row=alt.Row("of:N", sort=list(columns), title=None),
            color=alt.condition(alt.datum.value < 0, alt.value(NEGATIVE), alt.value(POSITIVE)),
            tooltip=["of:N", f"{x}:O", alt.Tooltip("value:Q", format="+.5f")],
        )
        .properties(title=title, width=alt.Step(NARROW), height=80)
        .resolve_scale(y="independent")
    )


def paired_bars(
    table: pd.DataFrame, name: str, columns: Sequence[str], title: str, unit: str, *, most: int = 40
) -> alt.Chart:
    """Bars side by side for each row, one per column, in the rows' order.

    Args:
        name: Column of the rows' names, each once.
        unit: Of the values, for the axis.
        most: Rows that are shown: those with the largest sizes.
    """
    sizes = table[list(columns)].abs().max(axis=1).reset_index(drop=True)
    kept = table.reset_index(drop=True).loc[sizes.nlargest(most).index.sort_values()]
    long = kept.melt(id_vars=[name], value_vars=list(columns), var_name="of", value_name="value")
    return (
        alt.Chart(long)
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title=unit),
            y=alt.Y(
                f"{name}:N", sort=None, title=None,
                axis=alt.Axis(labelLimit=0, labelOverlap=False),
            ),
            yOffset=alt.YOffset("of:N", sort=list(columns)),
            color=alt.Color(
                "of:N", title=None, sort=list(columns), scale=alt.Scale(scheme="tableau10"),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[f"{name}:N", "of:N", alt.Tooltip("value:Q", format=".5f")],
        )
        .properties(title=title, width=400, height=alt.Step(18, **{"for": "position"}))
    )  # fmt: skip


def signed_bars(
    table: pd.DataFrame, name: str, value: str, title: str, unit: str, *, most: int | None = None
) -> alt.Chart:
    """One bar per row, to the right or to the left of zero, in the rows' order.

    Args:
        name: Column of the rows' names, each once.
        unit: Of the values, for the axis.
        most: How many rows have a bar of their own, the largest; one bar sums the others.
    """
    kept = table[[name, value]].reset_index(drop=True)
    if most is not None and len(table) > most:
        largest = kept[value].abs().nlargest(most).index
        others = kept.drop(largest)
        rest = {name: f"{len(others)} others", value: others[value].sum()}
        kept = pd.concat([kept.loc[largest].sort_index(), pd.DataFrame([rest])])
    return (
        alt.Chart(kept)
        .mark_bar()
        .encode(
            x=alt.X(f"{value}:Q", title=unit),
            y=alt.Y(f"{name}:N", sort=None, title=None, axis=EVERY_NAME),
            color=alt.condition(alt.datum[value] < 0, alt.value(NEGATIVE), alt.value(POSITIVE)),
            tooltip=[f"{name}:N", alt.Tooltip(f"{value}:Q", format="+.5f")],
        )
        .properties(title=title, width=400, height=alt.Step(18))
    )


def attention_matrix(
    pattern: Float[Tensor, "query_pos key_pos"] | Float[np.ndarray, "query_pos key_pos"],
    tokens: Sequence[str],
    title: str,
) -> alt.Chart:
    """A head's whole pattern: each row is a query and sums to 1; masked keys are left out."""
    labels = token_labels(tokens)
    weights = [
        {"query": labels[query], "key": labels[key], "weight": float(pattern[query, key])}
        for query in range(len(labels))
        for key in range(query + 1)
    ]
    return (
        alt.Chart(alt.InlineData(values=weights))  # of a table, Altair takes 5000 rows at most
        .mark_rect()
        .encode(
            x=alt.X("key:N", sort=None, title="key (read from)", axis=SLANTED),
            y=alt.Y("query:N", sort=None, title="query (reading)"),
            color=alt.Color(
                "weight:Q", scale=alt.Scale(scheme="viridis", domain=[0, 1]), title="weight"
            ),
            tooltip=["query:N", "key:N", alt.Tooltip("weight:Q", format=".5f")],
        )
        .properties(title=title, width=alt.Step(18), height=alt.Step(18))
    )


def intervals(table: pd.DataFrame, title: str, unit: str) -> alt.LayerChart:
    """Means with intervals.

    Args:
        table: Columns `condition`, `mean`, `low`, `high`.
        unit: Of the numbers, for the axis.
    """
    base = alt.Chart(table).encode(y=alt.Y("condition:N", sort=None, title=None, axis=WHOLE))
    tooltip = [
        "condition:N",
        *(alt.Tooltip(f"{c}:Q", format=".4f") for c in ("mean", "low", "high")),
    ]
    bar = base.mark_bar(opacity=0.8).encode(x=alt.X("mean:Q", title=unit), tooltip=tooltip)
    rule = base.mark_rule(strokeWidth=3, color="#e45756").encode(x="low:Q", x2="high:Q")
    layered = alt.LayerChart(layer=[bar, rule])
    return layered.properties(title=title, width=460, height=alt.Step(26))


def head_bars(table: pd.DataFrame, title: str, unit: str) -> alt.LayerChart:
    """Means of heads with intervals, highest first.

    Args:
        table: Columns `layer`, `head`, `mean`, `low`, `high`, as of `interp.statistics.bootstrap`.
        unit: Of the numbers, for the axis.
    """
    names = [f"L{layer}H{head}" for layer, head in zip(table["layer"], table["head"], strict=True)]
    ordered = table.assign(condition=names).sort_values("mean", ascending=False)
    return intervals(ordered, title, unit)


def contributions(da: xr.DataArray, *, most: int = 20) -> alt.LayerChart:
    """What each component adds to the metric, with intervals over examples; all bars add up to it.

    Args:
        da: Over (`component`, [`pos`], `example`), as of `interp.logit_attribution.decompose`;
            positions are summed.
        most: How many components have a bar of their own, largest first; one bar sums the others.
    """
    parts = da.reset_coords(drop=True)
    parts = parts.sum("pos") if "pos" in parts.dims else parts
    order = abs(parts.mean("example")).argsort().values[::-1]
    largest, others = parts.isel(component=order[:most]), parts.isel(component=order[most:])
    if others.sizes["component"]:
        name = f"{others.sizes['component']} others"
        rest = others.sum("component").expand_dims(component=[name])
        largest = xr.concat([largest, rest], dim="component")
    table = bootstrap(largest).to_dataframe().reset_index(names="condition")
    n, total = da.sizes["example"], float(parts.sum("component").mean())
    averaged = f"mean of n={n}" if n > 1 else "n=1"
    title = f"What adds up to {da.attrs['metric']} = {total:.3f} {da.attrs['unit']}, {averaged}"
    return intervals(table, title, da.attrs["unit"])


def lines(
    table: pd.DataFrame, x: str, y: str, series: str, title: str, *, log_x: bool = False,
    log_y: bool = False,
) -> alt.Chart:  # fmt: skip
    """One line per series, with points; axes logarithmic on request (to base 2 and 10).

    Args:
        x: A column of numbers, or of text, which keeps the table's order.
    """
    x_scale = alt.Scale(type="log", base=2) if log_x else alt.Undefined
    y_scale = alt.Scale(type="log", base=10) if log_y else alt.Undefined
    kind = "Q" if is_numeric_dtype(table[x]) else "N"
    across = (
        alt.X(f"{x}:Q", scale=x_scale) if kind == "Q" else alt.X(f"{x}:N", sort=None, axis=SLANTED)
    )
    return (
        alt.Chart(table)
        .mark_line(point=True)
        .encode(
            x=across,
            y=alt.Y(f"{y}:Q", scale=y_scale),
            color=alt.Color(f"{series}:N", title=None, scale=alt.Scale(scheme="tableau10")),
            tooltip=[f"{series}:N", f"{x}:{kind}", alt.Tooltip(f"{y}:Q", format=".4g")],
        )
        .properties(title=title, width=420, height=260)
    )
