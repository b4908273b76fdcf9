"""Results over layers and positions as heat maps whose axes are the prompt.

Colours, labels and tooltips follow `interp.charts`.
"""

from typing import Any, Literal

import altair as alt
import xarray as xr

from interp import statistics
from interp.charts import CELL, SLANTED, shortened
from interp.model.tokens import visible

TOKEN_CELL = 22
"""Pixels of a cell in maps over positions, of which there are many."""
WORD_CELL = 70
"""Width in pixels of a cell that shows a token."""
WORD_CHARACTERS = 9
"""Longest token that a cell shows whole."""
SMALLEST_RANGE = 1e-9
"""Of a map of zeros, which has no range of its own."""

Shown = Literal["effect", "recovered_fraction", "pooled_recovered_fraction"]
MEASURES = {
    "effect": statistics.effect,
    "recovered_fraction": statistics.recovered_fraction,
    "pooled_recovered_fraction": statistics.pooled_recovered_fraction,
}
INTO = {"denoising": "clean into corrupted", "noising": "corrupted into clean"}


def sweep_map(ds: xr.Dataset, shown: Shown = "effect", *, limit: float | None = None) -> alt.Chart:
    """A patching sweep, averaged over examples: layers downwards, positions or heads to the right.

    A sweep over layers, heads and positions is a block of heads for each layer. Cells that no
    example has stay empty.

    Args:
        ds: `patched` over (`layer`, [`head`], [`pos`], `example`), as of `interp.patching.sweep`.
        shown: Which function of it, from `interp.statistics`.
        limit: Both ends of the colour range, to compare maps; by default the size of the largest
            value, and at least 1 for a fraction.

    Raises:
        ValueError: other dims.
        PromptError: a fraction that is not defined.
    """
    values = MEASURES[shown](ds)
    values = values.mean("example") if "example" in values.dims else values
    if values.dims not in (("layer", "pos"), ("layer", "head"), ("layer", "head", "pos")):
        raise ValueError(f"A map needs the dims layer and head, pos or both; got {values.dims}.")
    cells = xr.Dataset({"value": values, "n": ds.patched.notnull().sum("example")})
    table = cells.reset_coords(drop=True).to_dataframe().dropna().reset_index()
    if limit is None:
        limit = max(float(abs(values).max()), SMALLEST_RANGE if shown == "effect" else 1.0)
    scale = alt.Scale(scheme="purpleorange", domain=[-limit, limit], clamp=True)
    legend = alt.Legend(values=[-limit, 0, limit], format=".3~g")
    tooltip = [alt.Tooltip(f"{dim}:N") for dim in values.dims]
    encoding: dict[str, Any] = {
        "x": alt.X("head:O", axis=alt.Axis(labelAngle=0)),
        "y": alt.Y("layer:O"),
        "color": alt.Color("value:Q", scale=scale, legend=legend, title=None),
    }
    if "pos" in values.dims:
        labels = position_labels(ds)
        table["token"] = table["pos"].map(dict(zip(ds["pos"].values, labels, strict=True)))
        tooltip.append(alt.Tooltip("token:N"))
        encoding["x"] = alt.X("token:N", sort=labels, title=None, axis=SLANTED)
    if len(values.dims) == 3:
        header = alt.Header(labelExpr="'layer ' + datum.value", labelAngle=0, labelAlign="left")
        row = alt.Row("layer:O", header=header, title=None, spacing=6)
        encoding |= {"y": alt.Y("head:O"), "row": row}
    tooltip += [alt.Tooltip("value:Q", format=".6g", title=shown), alt.Tooltip("n:Q")]
    size = alt.Step(TOKEN_CELL if "pos" in values.dims else CELL)
    return (
        alt.Chart(alt.InlineData(values=table.to_dict("records")))
        .mark_rect()
        .encode(**encoding, tooltip=tooltip)
        .properties(title=_sweep_title(ds, shown), width=size, height=size)
    )


def _sweep_title(ds: xr.Dataset, shown: Shown) -> alt.Title:
    """What was patched into what; what is shown, in which unit, over how many examples."""
    attrs, n = ds.attrs, ds.sizes["example"]
    over = "ratio of means, n=" if shown == "pooled_recovered_fraction" else "mean of n="
    averaged = f"{over}{n}" if n > 1 else "n=1"
    measured = (
        f"effect on {attrs['metric']} in {attrs['unit']}"
        if shown == "effect"
        else f"recovered fraction of {attrs['metric']}"
    )
    patched = f"{attrs['site']}, {attrs['direction']} ({INTO[attrs['direction']]})"
    estimated = f", by {attrs['method']}" if "method" in attrs else ""
    stopped = ", stopped early" if attrs["partial"] else ""
    return alt.Title(
        patched + estimated, subtitle=f"{measured}, {averaged}{stopped}", anchor="start"
    )


def position_labels(ds: xr.Dataset) -> list[str]:
    """Each position with its token, clean / corrupted; without, where the examples' differ."""
    labels = []
    for index, position in enumerate(ds["pos"].values):
        clean, corrupted = (
            dict.fromkeys(token for token in ds[name].values[:, index] if token)
            for name in ("clean_token", "corrupted_token")
        )
        shared = len(clean) == len(corrupted) == 1
        tokens = " / ".join(map(shortened, clean | corrupted)) if shared else ""
        labels.append(f"{position} {tokens}".strip())
    return labels


LENS_COLOURS = {
    "prob": "probability",
    "answer_prob": "probability of the followed token",
    "answer_rank": "rank of the followed token",
    "kl": "KL(final || here), nats",
}


def place_labels(ds: xr.Dataset) -> list[str]:
    """Each place of two prompts, by position in the first: the token, or both where they differ.

    Args:
        ds: As of `interp.differences.of_head`.
    """
    rows = zip(
        *(ds[name].values.tolist() for name in ("key_pos", "token", "other_token")), strict=True
    )
    return [
        f"{position} {' / '.join(dict.fromkeys(map(shortened, tokens)))}"
        for position, *tokens in rows
    ]


def pattern_difference(ds: xr.Dataset, title: str) -> alt.Chart:
    """How one head's pattern differs between two runs: other minus first, around zero.

    Args:
        ds: As of `interp.differences.of_head`.
    """
    labels = place_labels(ds)
    change = ds["change"].values
    cells = [
        {"query": labels[query], "key": labels[key], "change": float(change[query, key])}
        for query in range(len(labels))
        for key in range(query + 1)
    ]
    limit = max((abs(cell["change"]) for cell in cells), default=0.0) or SMALLEST_RANGE
    scale = alt.Scale(scheme="purpleorange", domain=[-limit, limit])
    return (
        alt.Chart(alt.InlineData(values=cells))
        .mark_rect()
        .encode(
            x=alt.X("key:N", sort=None, title="key (read from)", axis=SLANTED),
            y=alt.Y("query:N", sort=None, title="query (reading)"),
            color=alt.Color("change:Q", scale=scale, title="change of weight"),
            tooltip=["query:N", "key:N", alt.Tooltip("change:Q", format="+.5f")],
        )
        .properties(title=title, width=alt.Step(18), height=alt.Step(18))
    )


def logit_lens_table(ds: xr.Dataset, shown: str = "prob") -> alt.LayerChart:
    """The most probable next token at each layer and position, coloured by its probability.

    Args:
        ds: One prompt of `interp.logit_lens.logit_lens`, `ds.isel(example=0)`.
        shown: What colours the cells, of `LENS_COLOURS`; ranks are coloured by their logarithm.
    """
    if set(ds["token"].dims) != {"layer", "pos", "rank"}:
        raise ValueError(
            f"The table shows one prompt, such as ds.isel(example=0); got {ds['token'].dims}."
        )
    ranks = [alt.Tooltip(f"rank {rank}:N") for rank in range(1, 1 + ds.sizes["rank"])]
    measured = alt.Tooltip(f"{shown}:Q", format=".4g", title=LENS_COLOURS[shown])
    base = alt.Chart(alt.InlineData(values=_lens_cells(ds, shown))).encode(
        x=alt.X("position:N", sort=None, title=None, axis=SLANTED),
        y=alt.Y("layer:N", sort=None),
        tooltip=["layer:N", "position:N", *([] if shown == "prob" else [measured]), *ranks],
    )
    scale = _lens_scale(ds, shown)
    colour = alt.Color(f"{shown}:Q", scale=scale, title=LENS_COLOURS[shown])
    low, high = scale.to_dict()["domain"]
    middle = (low * high) ** 0.5 if shown == "answer_rank" else low + 0.6 * (high - low)
    is_light = f"datum.{shown} {'<' if shown == 'answer_rank' else '>'} {middle:g}"
    readable = alt.condition(is_light, alt.value("black"), alt.value("white"))
    words = base.mark_text(fontSize=11).encode(text="word:N", color=readable)
    title = alt.Title(
        f"Logit lens of {ds.attrs['model']}",
        subtitle="most probable next token if the model ended here, n=1",
        anchor="start",
    )
    return alt.LayerChart(layer=[base.mark_rect().encode(color=colour), words]).properties(
        title=title, width=alt.Step(WORD_CELL), height=alt.Step(TOKEN_CELL)
    )


def _lens_scale(ds: xr.Dataset, shown: str) -> alt.Scale:
    """From 0 to 1, from the highest rank, the brightest, to the lowest, or from 0 up."""
    if shown in ("prob", "answer_prob"):
        return alt.Scale(scheme="viridis", domain=[0, 1])
    largest = float(ds[shown].max())
    if shown == "answer_rank":
        return alt.Scale(scheme="viridis", type="log", reverse=True, domain=[1, max(largest, 2)])
    return alt.Scale(scheme="viridis", domain=[0, max(largest, SMALLEST_RANGE)])


def _lens_cells(ds: xr.Dataset, shown: str) -> list[dict[str, str | float]]:
    """A record for each layer and position: its best token, what is shown, every rank as text."""
    ordered = ds.transpose("layer", "pos", "rank")
    values = ordered[shown].isel(rank=0) if "rank" in ordered[shown].dims else ordered[shown]
    columns = (ordered["token"], ordered["prob"], values)
    prompt = zip(ds["pos"].values, ds["prompt_token"].values, strict=True)
    labels = [f"{pos} {shortened(token)}" for pos, token in prompt]
    return [
        {
            "layer": str(layer),
            "position": label,
            "word": shortened(token[0], WORD_CHARACTERS),
            shown: value,
        }
        | {
            f"rank {rank}": f"{visible(one)}  {p:.4g}"
            for rank, (one, p) in enumerate(zip(token, prob, strict=True), start=1)
        }
        for layer, *row in zip(
            ds["layer"].values, *(column.values.tolist() for column in columns), strict=True
        )
        for label, token, prob, value in zip(labels, *row, strict=True)
        if token[0]
    ]
