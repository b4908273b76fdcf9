"""What the sections of a patching report say: words that follow the numbers of its sweeps."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
import xarray as xr

from analyses._sweeps import SIZEABLE, Plan, Row, Sweep, rows_of
from interp import agreement, charts, effects, maps
from interp.model.tokens import visible
from interp.report import Section

N_SHOWN = 10
"""Rows that a section shows of its cells or pairs; the CSV has them all."""
NUMBERS = ("effect", "low", "high", "recovered_fraction")
"""Of a cell, for the overview."""
AGREEMENT = ("pearson", "spearman", "sign_agreement", "largest_error")
"""Of `interp.agreement`, between estimated and exact effects."""
N_BARS = 20
"""Heads in a bar chart."""
LEVEL = 0.05
"""Corrected p-values below are called significant."""
DONE = {
    "denoising": "Clean values were put into the corrupted run: an effect of the whole gap would "
    "restore the clean metric.",
    "noising": "Corrupted values were put into the clean run: an effect of minus the whole gap "
    "would bring the metric down to the corrupted one.",
}
MEANS = {
    "denoising": "Denoising: where the effect is large, what stands there is enough to bring the "
    "answer back, given everything else of the corrupted run. It need not be necessary: other "
    "places may carry the same.",
    "noising": "Noising: where the effect is large, the answer needs what stands there, given "
    "everything else of the clean run. Where it is small, others may stand in for it.",
}
ONLY_DIFFERENCES = (
    "Only what differs between the two prompts can show. What both need is the same in both runs, "
    "and patching it changes nothing: no effect does not mean that a part is not used."
)


def pairs_section(ds: xr.Dataset, examples: pd.DataFrame) -> Section:
    """The pairs with the metric of both runs.

    Args:
        ds: Any sweep of them.
        examples: A row for each, with where it differs and its answers.
    """
    gap, n = ds.clean - ds.corrupted, len(examples)
    numbers = pd.DataFrame({"clean_metric": ds.clean, "corrupted_metric": ds.corrupted, "gap": gap})
    reading = [
        f"{ds.metric} in {ds.unit}, {f'mean of n={n}' if n > 1 else 'n=1'}: clean "
        f"{float(ds.clean.mean()):+.3g}, corrupted {float(ds.corrupted.mean()):+.3g}. Their gap of "
        f"{float(gap.mean()):+.3g} is what patching can move, and the denominator of the recovered "
        "fraction, (patched - corrupted) / gap."
    ]
    undefined, no_fraction = (effects.undefined_fraction(ds, pooled=p) for p in (False, True))
    if undefined:
        reading.append(undefined)
        reading.append(
            "So this report shows effects, and no recovered fractions."
            if no_fraction
            else "Fractions in this report are ratios of means over all pairs, which are defined."
        )
    reversed_pairs = int((gap < 0).sum())
    if reversed_pairs and not no_fraction:
        reading.append(
            f"In {reversed_pairs} of {n} pairs the corrupted prompt favours the answer more than "
            "the clean one: the model does not show the behaviour there."
        )
    table = pd.concat([examples.index.to_series(name="example"), numbers, examples], axis=1)
    return Section("The pairs", tuple(reading), table, n_shown=N_SHOWN)


def texts_section(clean: Sequence[str], corrupted: Sequence[str]) -> Section:
    """All prompts, to look at."""
    table = pd.DataFrame({"example": range(len(clean)), "clean": clean, "corrupted": corrupted})
    return Section("All prompts", (f"{len(clean)} pairs.",), table, n_shown=N_SHOWN)


def token_section(
    clean: Sequence[str], corrupted: Sequence[str], roles: Mapping[str, int]
) -> Section:
    """The tokens of one pair side by side, with the names of positions."""
    named = [[role for role, at in roles.items() if at == pos] for pos in range(len(clean))]
    table = pd.DataFrame(
        {
            "pos": range(len(clean)),
            "clean": [visible(token) for token in clean],
            "corrupted": [visible(token) for token in corrupted],
            "differs": ["≠" if a != b else "" for a, b in zip(clean, corrupted, strict=True)],
            "name": [", ".join(names) for names in named],
        }
    )
    reading = (
        f"{len(clean)} tokens each. They differ at {differences(clean, corrupted)}. Before that, "
        "both runs are the same and no patch can have an effect.",
    )
    return Section("Token by token: the first pair", reading, table)


def differences(clean: Sequence[str], corrupted: Sequence[str]) -> str:
    """Where two prompts differ: "5 ·black / ·brown"."""
    return ", ".join(
        f"{pos} {visible(one)} / {visible(other)}"
        for pos, (one, other) in enumerate(zip(clean, corrupted, strict=True))
        if one != other
    )


def overview_section(sweeps: Sequence[Sweep]) -> Section:
    """The strongest cell of each sweep."""
    rows = []
    for sweep in sweeps:
        numbers = {name: sweep.first[name] for name in NUMBERS if name in sweep.first}
        row = {"sweep": sweep.plan.title, "strongest cell": place(sweep.first)} | numbers
        if sweep.has_fraction:
            row[f"≥ {SIZEABLE:.0%} of gap"] = f"{len(sweep.large)}/{len(sweep.table)}"
        rows.append(row)
    streams = [sweep for sweep in sweeps if sweep.plan.site.startswith("resid")]
    parts = [sweep for sweep in sweeps if sweep not in streams]
    reading = [carried(sweep) for sweep in streams if sweep.has_fraction]
    if not sweeps[0].has_fraction:
        reading.append(
            "The two prompts do not differ in this metric. Effects are of parts that cancel out, "
            "not of what makes a difference."
        )
    if parts:
        best = max(parts, key=lambda sweep: abs(sweep.first["effect"]))
        reading.append(
            f"Of single parts, the largest effect is that of {best.plan.site}, {place(best.first)} "
            f"({best.plan.direction}): {amount(best.first, best.ds.unit)}."
        )
    return Section("In short", tuple(reading), pd.DataFrame(rows))


def sweep_section(sweep: Sweep) -> Section:
    """Map, strongest cells, and what they say."""
    ds, table = sweep.ds, sweep.table
    strongest = f"Strongest: {place(sweep.first)}, {amount(sweep.first, ds.unit)}."
    reading = [f"{DONE[sweep.plan.direction]} {strongest}"]
    pictures: list = [maps.sweep_map(ds)]
    if sweep.plan.site.startswith("resid"):
        steps = [f"L{row['layer']} {row['pos']} {row['effect']:+.3g}" for row in by_layer(sweep)]
        reading.append(f"The strongest position of each layer: {'; '.join(steps)}.")
    if any(isinstance(pos, str) for pos in sweep.cells.get("pos", [])):
        reading.append(
            "Only positions that have a name in every pair were patched. Patch one pair, or pairs "
            "of one length that differ at one place, to see every position."
        )
    if sweep.has_fraction:
        reading.append(sizeable(sweep))
    if "p" in table:
        reading.append(significance(sweep))
        if "pos" not in table:
            title = f"{sweep.plan.site}, {sweep.plan.direction}: effects with 95 % intervals"
            unit = f"effect on {ds.metric} in {ds.unit}, n={ds.sizes['example']}"
            heads = table[:N_BARS].rename(columns={"effect": "mean"})
            pictures.append(charts.head_bars(heads, title, unit))
    if ds.partial:
        reading.append(f"PARTIAL: stopped early, {sweep.n_done} were measured.")
    return Section(sweep.plan.title, tuple(reading), table, tuple(pictures), n_shown=N_SHOWN)


def by_layer(sweep: Sweep) -> list[dict[Hashable, Any]]:
    """The strongest cell of each layer, in their order."""
    return rows_of(sweep.table.groupby("layer").head(1).sort_values("layer"))


def place(row: Row) -> str:
    """A cell's name: "L1H2", "layer 0 at 5 ·black / ·brown"."""
    head = f"L{row['layer']}H{row['head']}" if "head" in row else f"layer {row['layer']}"
    return f"{head} at {row['pos']}" if "pos" in row else head


def amount(row: Row, unit: str) -> str:
    """A cell's effect with its interval, and the recovered fraction, as far as there are any."""
    interval = f" [{row['low']:+.3g}, {row['high']:+.3g}]" if "low" in row else ""
    said = f"{row['effect']:+.3g}{interval} {unit}"
    if "recovered_fraction" in row:
        said += f" (recovered fraction {row['recovered_fraction']:.2f})"
    return said


def carried(sweep: Sweep) -> str:
    """Where the stream carries the difference, first and last."""
    first, *_, last = [
        f"in layer {row['layer']} at {row['pos']} ({row['effect']:+.3g})"
        if abs(row["effect"]) >= SIZEABLE * abs(sweep.gap)
        else f"in layer {row['layer']} at none of the patched positions"
        for row in by_layer(sweep) * 2
    ]
    return (
        f"In the residual stream ({sweep.plan.site}, {sweep.plan.direction}) what makes the "
        f"difference stands most {first}, and {last}. This shows where it is, not who moved it."
    )


def sizeable(sweep: Sweep) -> str:
    """Which cells carry much of the gap, and which of them push the other way."""
    shown = [f"{place(row)} {row['effect']:+.3g}" for row in rows_of(sweep.large[:N_SHOWN])]
    shown += ["..."] if len(sweep.large) > N_SHOWN else []
    towards = sweep.gap if sweep.plan.direction == "denoising" else -sweep.gap
    against = int((sweep.large["effect"] * towards < 0).sum())
    other = {"denoising": "away from the clean metric", "noising": "beyond the clean metric"}
    return (
        f"{len(sweep.large)} of {len(sweep.table)} cells reach {SIZEABLE:.0%} of the gap"
        f"{': ' if shown else ''}{', '.join(shown)}."
        + (f" {against} of them push {other[sweep.plan.direction]}." if against else "")
    )


def significance(sweep: Sweep) -> str:
    """How many effects are more than chance, and whether the test could tell."""
    tests, n = sweep.table["p_corrected"].dropna(), sweep.ds.sizes["example"]
    least = len(tests) * 2 / 2**n
    if least >= LEVEL:
        return (
            f"{n} pairs are too few to test {len(tests)} cells: flipping signs gives no p below "
            f"2/2^{n}, which Holm's correction takes to {min(least, 1.0):.2g}. Use more pairs."
        )
    found = int((tests < LEVEL).sum())
    return (
        f"p: sign-flip permutation over pairs, p_corrected after Holm for {len(tests)} cells with "
        f"any effect. Below {LEVEL}: {found}. low and high: 95 % bootstrap interval over pairs."
    )


def facts_section(facts: pd.DataFrame) -> Section:
    """What must hold for every patch, with numbers.

    Args:
        facts: Columns check, expected, measured and largest_difference.
    """
    largest = float(facts["largest_difference"].max())
    reading = (
        "Each row is a fact that holds for patches in any model, measured in plain forward passes "
        "with hooks that share nothing with the sweeps: the metric that must come out, the metric "
        "that came out (means over pairs), and the largest difference of any pair.",
        f"The largest difference is {largest:.1e}: "
        + ("rounding." if largest < 1e-3 else "more than rounding in float32; be careful."),
    )
    return Section("Can the sweeps be trusted?", reading, facts)


def estimate_section(estimates: Sequence[tuple[Sweep, xr.Dataset]], n_planned: int) -> Section:
    """How well attribution patching would have done.

    Args:
        estimates: Each with the sweep of the same cells.
        n_planned: How many there are if it was not stopped.
    """
    rows, pictures = [], []
    for sweep, ds in estimates:
        comparison = agreement.compare(ds, sweep.ds)
        rows.append({"sweep": sweep.plan.title} | {m: float(comparison[m]) for m in AGREEMENT})
        pictures.append(maps.sweep_map(ds, limit=abs(sweep.first["effect"]) or None))
    table = pd.DataFrame(rows, columns=["sweep", *AGREEMENT])
    reading = [
        "Attribution patching estimates all cells from one gradient, (source - base) times the "
        "derivative, instead of running them. pearson and spearman compare it with the exact "
        "effects over cells; sign_agreement is the share of equal signs. The maps have the colours "
        "of the exact ones."
    ]
    ranked = rows_of(table.dropna().sort_values("spearman"))
    if ranked:
        reading.append(
            f"It ranks worst in {ranked[0]['sweep']}: spearman {ranked[0]['spearman']:.2f}, "
            f"largest error {ranked[0]['largest_error']:.3g}. Where it disagrees, trust the sweep."
        )
    if len(rows) < n_planned:
        reading.append(f"PARTIAL: stopped early, {len(rows)} of {n_planned} were estimated.")
    title = "How good is the estimate from gradients?"
    return Section(title, tuple(reading), table if rows else None, tuple(pictures))


def meaning_section(sweeps: Sequence[Sweep]) -> Section:
    """What these numbers show, what not, and what to try next."""
    directions = list(dict.fromkeys(sweep.plan.direction for sweep in sweeps))
    tries = []
    if sweeps[0].ds.sizes["example"] == 1:
        tries.append("one pair is an example, not a finding: give many with --file or --task")
    if len(directions) == 1:
        tries.append("the other direction, --direction both: enough and needed are two questions")
    heads = [sweep for sweep in sweeps if sweep.plan.axes == ("layer", "head")]
    plans = [sweep.plan for sweep in sweeps]
    if heads and not any(plan.site == "pattern" for plan in plans):
        name = place(heads[0].first)
        tries.append(f"is it where {name} looks or what it reads there? --sites pattern,v")
    if heads and not any(plan.per_position for plan in plans):
        tries.append("at which positions do heads matter? --per-position")
    tries.append("another corrupted prompt: it decides which difference is followed")
    tries.append("interp run heads: what kind of head each one is")
    reading = [*(MEANS[direction] for direction in directions), ONLY_DIFFERENCES]
    return Section(
        "What this shows, and what next", (*reading, f"To try next: {'; '.join(tries)}.")
    )


def partial_section(sweeps: Sequence[Sweep], plans: Sequence[Plan]) -> Section:
    """Which sweeps were finished when it was stopped."""
    done = {sweep.plan: sweep.n_done for sweep in sweeps}
    rows = [{"sweep": plan.title, "measured": done.get(plan, "not begun")} for plan in plans]
    reading = (
        "PARTIAL: the run was stopped early. Every cell below was measured in all pairs, exactly; "
        "the others are left out, so that the strongest may be among them.",
    )
    return Section("This report is partial", reading, pd.DataFrame(rows))
