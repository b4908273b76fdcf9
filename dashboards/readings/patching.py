"""What the patching lab's numbers say."""

from collections.abc import Mapping

import pandas as pd

from dashboards.components.prose import code
from dashboards.focus import Focus
from dashboards.measurements.patching import Cost, Place, Swept

INTO = {
    "denoising": ("clean", "corrupted", "bring the answer back"),
    "noising": ("corrupted", "clean", "take the answer away"),
}
"""From which run, into which, and what the effect then asks."""
SMALL_SHARE = 0.05
"""Of the gap between the runs: an effect below it is called small."""
LARGE_SHARE = 0.5
AGREED = 1e-3
"""Two computations of one number in float32 agree within this, in logits."""
SITE = {
    "resid_pre": "the residual stream before layer {layer}",
    "resid_mid": "the residual stream of layer {layer} between attention and MLP",
    "resid_post": "the residual stream after layer {layer}",
    "attn_out": "what the attention of layer {layer} writes",
    "mlp_out": "what the MLP of layer {layer} writes",
    "z": "the mixed values z of {head}",
    "q": "the queries q of {head}",
    "k": "the keys k of {head}",
    "v": "the values v of {head}",
    "pattern": "the whole attention pattern of {head}",
}
"""What a site is, in a sentence."""


def direction(chosen: str) -> str:
    """What a direction does, and what it asks."""
    source, base, asks = INTO[chosen]
    return (
        f"{chosen.capitalize()}: values of the {source} run are put into the {base} run. It asks "
        f"what is enough to {asks}."
    )


def cost(expected: Cost) -> str:
    """The work, before it begins."""
    seconds = expected.n_runs * expected.seconds
    return (
        f"{expected.n_cells:,} cells. As one run of the model each, with the two runs that are "
        f"compared, that would be {expected.n_runs:,} runs, about {duration(seconds)} at the "
        f"{expected.seconds:.3f} s that one run took just now. The sweep shares what the runs have "
        "in common and gives the same numbers, usually in less time."
    )


def duration(seconds: float) -> str:
    """A length of time as people say it."""
    if seconds < 1:
        return "a moment"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def place_name(site: str, place: Place, focus: Focus) -> str:
    """A cell in words."""
    where = SITE[site].format(layer=place.layer, head=f"L{place.layer}H{place.head}")
    if place.position is None:
        return f"{where}, at all positions"
    return f"{where}, at position {place.position} ({code(focus.pieces[place.position])})"


def sweep(swept: Swept, site: str, focus: Focus) -> list[str]:
    """The largest cells, and what they do and do not show."""
    paragraphs = []
    if swept.n_finished < swept.n_cells:
        paragraphs.append(
            f"Stopped early: {swept.n_finished:,} of {swept.n_cells:,} cells are measured. Empty "
            "cells are unknown, not zero, and a larger effect may be among them."
        )
    if not swept.n_finished:
        return paragraphs
    clean, corrupted = (float(swept.ds[name][0]) for name in ("clean", "corrupted"))
    gap = clean - corrupted
    place = swept.largest()
    effect = value(swept, place, "effect")
    source, base, _ = INTO[swept.ds.attrs["direction"]]
    both = (
        f"The logit difference is {clean:+.2f} in the clean run and {corrupted:+.2f} in the "
        f"corrupted one, a gap of {gap:+.2f}."
    )
    if abs(effect) < SMALL_SHARE * abs(gap):
        found = (
            f"No single cell matters: the largest effect, {effect:+.3f}, is under "
            f"{SMALL_SHARE:.0%} of the gap. The information may travel through several at once."
        )
    else:
        share = f", {effect / abs(gap):+.0%} of the gap" if gap else ""
        found = (
            f"The largest effect is {effect:+.2f} logits{share}, from "
            f"{place_name(site, place, focus)}."
        )
    caution = (
        f"An effect shows that the {source} value, put into the {base} run, is enough to change "
        "the answer by that much; it does not show that the model needs this place alone."
        if source == "clean"
        else "An effect shows that the answer leans on what the clean run has here; a cell without "
        "one may still carry the answer, if another place carries it too."
    )
    if site.startswith("resid"):
        caution += (
            " In the residual stream everything up to here passes, so a large effect says where "
            "the information is, not which part put it there: try z or mlp_out next."
        )
    return [*paragraphs, f"{both} {found}", caution]


def value(swept: Swept, place: Place, name: str) -> float:
    """One number of a cell."""
    axes = {"layer": place.layer, "head": place.head, "pos": place.position}
    return float(swept.cells[name].isel({a: at for a, at in axes.items() if at is not None}))


def cell(swept: Swept, plain: pd.DataFrame, site: str, place: Place, focus: Focus) -> list[str]:
    """What was done in a cell, in plain words, with its numbers."""
    source, base, _ = INTO[swept.ds.attrs["direction"]]
    runs: Mapping[str, float] = dict(zip(plain["run"], plain["logit_difference"], strict=True))
    patched, effect = (value(swept, place, name) for name in ("patched", "effect"))
    done = (
        f"The {base} prompt was run, and on the way {place_name(site, place, focus)} was replaced "
        f"by what the {source} prompt has there. Everything after it was computed from the "
        f"replaced values. The logit difference went from {runs[base]:+.3f} to {patched:+.3f}: an "
        f"effect of {effect:+.3f} logits."
    )
    if "recovered_fraction" in swept.cells:
        fraction = value(swept, place, "recovered_fraction")
        done += f" Recovered fraction: {fraction:.3f} (0 = corrupted run, 1 = clean run)."
    off = abs(runs["patched"] - patched)
    agrees = "the same" if off < AGREED else "not the same, which is a bug: please report it"
    return [
        done,
        f"A plain forward pass with one hook gives {runs['patched']:+.5f}, the sweep "
        f"{patched:+.5f}: {agrees}.",
    ]


def checks(table: pd.DataFrame, largest_before: float, first: int) -> list[str]:
    """Whether what must hold does."""
    worst = float(table["largest_difference"].max())
    says = (
        f"All of these hold, within {worst:.1e} logits (rounding)."
        if worst < AGREED
        else f"One of these is off by {worst:.1e} logits: do not trust this sweep."
    )
    before = (
        f"The first token that differs is at position {first}; in the sweep, cells before it have "
        f"an effect of exactly {largest_before:g}."
        if largest_before == largest_before
        else "This sweep patches all positions at once, so it has no cells before the difference."
    )
    return [f"{says} {before}"]
