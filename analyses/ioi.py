"""Which heads find the indirect object, and does the answer depend on them?

"When Mary and John went to the store, John gave a drink to" should go on with Mary, the indirect
object (IO), and not with John, the subject (S), who is mentioned twice. Which heads see to that,
what does each of them look at, and what is left of the answer without them?

Prediction, written before running: some heads look from the end at the indirect object and copy it
(name movers); earlier heads look from the end at the second mention of the subject and turn the
name movers away from it (S-inhibition). Without these the difference is gone; without as many other
heads nothing is lost. A small model may do without heads that tell a second mention from a first.

Method, after Wang et al. 2022, arXiv:2211.00593: logit difference; direct attribution; activation
patching by named position; path patching from the logits backwards (noising: the clean run with
parts of the run on other names); classes by stated rules on effect and attention; ablation by the
mean over prompts with other names (ABC) that have the same named positions.
"""

from collections.abc import Mapping, Sequence
from math import comb
from random import Random
from typing import Annotated

import pandas as pd
import xarray as xr
from torch import Tensor
from typer import Option

import interp
from interp import (
    ablation,
    charts,
    head_classes,
    heads,
    logit_attribution,
    maps,
    metrics,
    patching,
    path_tracing,
    prompts,
    statistics,
)
from interp.errors import PromptError
from interp.head_classes import RULES
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import model_hash
from interp.path_patching import component_name
from interp.progress import Progress, no_progress
from interp.prompts import PromptPair, PromptPairs
from interp.prompts.studies import Corruption
from interp.published import indirect_object
from interp.report import Report, Section
from interp.statistics import Interval, bootstrap_mean

N_REFERENCE = 300
"""ABC prompts, at least, whose means take the place of what is ablated."""
N_CONTROLS = 5
"""Draws of heads that were not found."""
ATTENDED = 0.15
"""Mean attention from which on a head counts as looking at a position."""
NIL = 0.05
"""A loss below this share of the logit difference is called nothing."""
WITHOUT, ONLY, RANDOM = "without the heads found", "without all other heads", "random others"
GPT2_SMALL = (12, 12, 768)
"""Layers, heads and d_model."""
PUBLISHED: Mapping[str, Sequence[tuple[int, int]]] = {
    "name mover": indirect_object.NAME_MOVERS,
    "negative name mover": indirect_object.NEGATIVE_NAME_MOVERS,
    "S-inhibition": indirect_object.S_INHIBITION,
    "duplicate token": indirect_object.DUPLICATE_TOKEN,
    "induction": indirect_object.INDUCTION,
    "previous token": indirect_object.PREVIOUS_TOKEN,
    "backup name mover": indirect_object.BACKUP_NAME_MOVERS,
}
STREAM = ("resid_pre", "attn_out", "mlp_out")
Head = tuple[int, int]


def run(
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    n: Annotated[int, Option(help="Number of prompts.")] = 100,
    corruption: Annotated[Corruption, Option(help="Three other names, or the givers swapped.")] = (
        "abc"
    ),
    threshold: Annotated[
        float, Option(help="Smallest effect of a path, as a share of clean minus corrupted.")
    ] = 0.02,
    seed: Annotated[int, Option(help="Of prompts, intervals, p-values and control heads.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """Which heads find the indirect object, and does the answer depend on them?"""
    if n < 2 or threshold <= 0:
        raise PromptError(f"Use 2 or more prompts and a threshold above 0; got {n}, {threshold}.")
    hooked = interp.load(model)
    drawn = prompts.ioi(hooked, n + max(n, N_REFERENCE), seed=seed, corruption=corruption)
    pairs, fresh = drawn[:n], drawn[n : 2 * n]
    answers = answer_table(hooked, pairs)
    sections = [behaviour_section(answers, seed), writing_section(hooked, pairs)]
    if prefers_io(answers, seed):
        grids = patched_grids(hooked, pairs, progress)
        traced = path_tracing.trace(
            hooked, pairs.clean, pairs.corrupted, pairs.metric(hooked), pairs.roles,
            threshold=threshold, attended=ATTENDED, seed=seed, progress=progress,
        )  # fmt: skip
        table, weights = heads_found(hooked, pairs, traced)
        sections += [grid_section(grids), path_section(traced), roles_section(table, weights)]
        classes = {rule.name: head_classes.members(table, rule.name) for rule in RULES}
        risen = takeover(hooked, pairs, classes["name mover"])
        beyond = risen[risen["low"] > traced.threshold * traced.gap]
        classes["backup name mover"] = head_classes.members(beyond)
        sections.append(
            takeover_section(risen, classes["name mover"], classes["backup name mover"])
        )
        if len(table):
            reference = prompts.ioi(hooked, len(drawn), seed=seed)
            groups = groups_of(hooked, table, seed)
            outcome = without(hooked, fresh, reference, groups, progress)
            sections.append(test_section(outcome, groups, seed))
        sections.append(published_section(hooked.cfg, table, classes))
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked), "n": n}
    settings |= {"seed": seed, "corruption": corruption, "threshold": threshold}
    settings |= {"attended": ATTENDED, "prepend_bos": hooked.cfg.default_prepend_bos}
    title = "Which heads find the indirect object?"
    return Report(title, f"{pairs.clean[0]} …", tuple(sections), settings)


def answer_table(model: HookedGPT2, pairs: PromptPairs) -> pd.DataFrame:
    """What the model answers to each clean and corrupted prompt."""
    answers = pairs.answer_ids(model)
    parts = []
    for side, texts in (("clean", pairs.clean), ("corrupted", pairs.corrupted)):
        logits = model(model.to_batch(texts), positions="last")
        assert isinstance(logits, Tensor)
        columns = {
            "logit_diff": pairs.metric(model)(logits),
            "probability": metrics.prob(answers)(logits),
            "first": (logits[:, 0].argmax(dim=-1).cpu() == answers).float(),
        }
        values = {name: column.numpy(force=True) for name, column in columns.items()}
        parts.append(pd.DataFrame({"prompts": side, "order": pairs.groups} | values))
    return pd.concat(parts, ignore_index=True).assign(right=lambda rows: rows["logit_diff"] > 0)


def prefers_io(answers: pd.DataFrame, seed: int) -> bool:
    """Whether the difference is above zero, and above the corrupted prompts', with intervals."""
    sides = answers.groupby("prompts")["logit_diff"]
    clean, corrupted = (sides.get_group(side).to_numpy() for side in ("clean", "corrupted"))
    return all(bootstrap_mean(each, seed=seed).low > 0 for each in (clean, clean - corrupted))


def behaviour_section(answers: pd.DataFrame, seed: int) -> Section:
    """Logit difference and accuracy, by the order of the names."""
    rows = []
    for side, of_side in answers.groupby("prompts", sort=False):
        parts = [("all", of_side), *of_side.groupby("order")]
        for order, part in parts if side == "clean" else parts[:1]:
            shares = part[["right", "first", "probability"]].mean().to_dict()
            interval = bootstrap_mean(part["logit_diff"], seed=seed)._asdict()
            condition = {"condition": f"{side}, {order}", "n": len(part)}
            rows.append(condition | interval | shares)
    table = pd.DataFrame(rows)
    clean, corrupted = table.iloc[0], table.iloc[-1]
    reading = [
        "ABBA: the indirect object is named first; BABA: the subject is. Mean logit(IO) - logit(S) "
        "at END with a bootstrap 95 % interval over prompts; right: IO above S; first: IO is the "
        "likeliest of all tokens; probability: of IO.",
        f"{clean['right']:.0%} are right, and IO is the likeliest token in {clean['first']:.0%}. "
        f"On the corrupted prompts the same difference is {corrupted['mean']:+.2f}.",
    ]
    if not prefers_io(answers, seed):
        reading.append(
            "This model does not prefer the indirect object: the difference, or what it is above "
            "that of the corrupted prompts, has an interval that does not lie above zero. There is "
            "no behaviour to explain, and the study ends here."
        )
    picture = charts.intervals(table, "Does the model prefer the indirect object?", "logit(IO - S)")
    return Section("Does the model do it?", tuple(reading), table, (picture,))


def writing_section(model: HookedGPT2, pairs: PromptPairs) -> Section:
    """Direct attribution, by component."""
    parts = logit_attribution.decompose(model, pairs.clean, pairs.metric(model)).sum("pos")
    columns = ["component", "kind", "mean", "low", "high"]
    table = statistics.bootstrap(parts).to_dataframe().reset_index()[columns]
    table = table.sort_values("mean", key=abs, ascending=False, ignore_index=True)
    largest = ", ".join(f"{row.component} {row.mean:+.2f}" for row in table.head(5).itertuples())
    by_kind = table.groupby("kind")["mean"].sum()
    reading = (
        "What each part adds to the difference by itself, through the final LayerNorm with its "
        "scale frozen; the parts add up to it. What a head does through later layers counts as "
        "theirs, so this is who writes the answer, not who finds it.",
        f"Largest: {largest}. All heads {by_kind['head']:+.2f}, all MLPs {by_kind['mlp']:+.2f}.",
    )
    return Section("Who writes it", reading, table, (charts.contributions(parts, most=12),))


def patched_grids(model: HookedGPT2, pairs: PromptPairs, progress: Progress) -> list[xr.Dataset]:
    """Activation patching (denoising) of the stream, what is added to it, and every head."""
    return [
        patching.sweep(
            model, pairs.clean, pairs.corrupted, site, pairs.metric(model), positions=pairs.roles,
            per_position=site == "z", progress=progress,
        )
        for site in (*STREAM, "z")
    ]  # fmt: skip


def grid_section(grids: Sequence[xr.Dataset]) -> Section:
    """What each layer and head restores at each named position."""
    tables = []
    for ds in grids:
        cells = statistics.pooled_recovered_fraction(ds).reset_coords(drop=True)
        columns = {"recovered_fraction": cells, "effect": statistics.effect(ds).mean("example")}
        rows = xr.Dataset(columns).reset_coords(drop=True).to_dataframe().reset_index()
        tables.append(rows.assign(site=ds.attrs["site"]))
    columns = ["site", "layer", "head", "pos", "effect", "recovered_fraction"]
    table = pd.concat(tables)[columns].sort_values("effect", key=abs, ascending=False)
    stream = table[table["site"] == "resid_pre"].pivot(
        index="layer", columns="pos", values="recovered_fraction"
    )
    best = table[table["site"] == "z"].nlargest(1, "recovered_fraction").iloc[0]
    moved = "; ".join(f"layer {layer}: {row.idxmax()}" for layer, row in stream.iterrows())
    reading = (
        "Denoising: one value of the clean run is put into the corrupted run, and the fraction is "
        "how much of the difference between the runs that restores (1 all, 0 nothing, below 0 the "
        "opposite). S1 and S2 are the subject's two mentions, S1+1 the token after the first.",
        f"Where the stream before a layer restores most: {moved}.",
        f"The head that restores most is {component_name(int(best.layer), int(best['head']))} at "
        f"{best.pos}, with {best.recovered_fraction:.2f}.",
    )
    pictures = tuple(maps.sweep_map(ds, "pooled_recovered_fraction") for ds in grids)
    return Section("Where the names travel", reading, table, pictures)


def path_section(traced: xr.Dataset) -> Section:
    """Who acts on the logits, who on those, and so on."""
    table = traced[["mean", "low", "high", "passes"]].to_dataframe().reset_index(drop=True)
    table["into"] = table.apply(head_classes.input_name, axis=1)
    beyond = table[table["passes"]]
    of_heads = beyond[beyond["part"] != "mlp"]
    reading = [
        "Noising: what one head or MLP writes is replaced by what it writes in the corrupted run, "
        "and only what reaches the named input counts; other heads keep their output, MLPs pass it "
        f"on. A path is found if the interval of its effect lies beyond {traced.threshold:g} of "
        f"clean minus corrupted, {traced.threshold * traced.gap:.2f} logits. A step leads into the "
        "heads that the step before found: into their queries, and into their keys and values "
        f"where {ATTENDED:g} or more of their attention goes. MLPs are not followed.",
    ]
    for step, rows in of_heads.groupby("step"):
        by_input = [
            f"into {into}: "
            + ", ".join(f"{row.sender} {row.mean:+.2f}" for row in part.itertuples())
            for into, part in rows.groupby("into", sort=False)
        ]
        reading.append(f"Step {step}, heads {'; '.join(by_input)}.")
    reading.append(f"Step {table['step'].max()} finds no head that was not known, and is the last.")
    pictures = tuple(
        charts.head_map(
            heads_of(table[table["into"] == into]),
            "mean",
            f"Noising effect on paths into {into} (logits)",
            signed=True,
        )
        for into in of_heads["into"].unique()
    )
    columns = ["step", "into", "sender", "mean", "low", "high"]
    return Section("Which paths carry it", tuple(reading), beyond[columns], pictures)


def heads_of(paths: pd.DataFrame) -> pd.DataFrame:
    """The paths from heads, with the column `head` that a map needs."""
    return paths[paths["part"] != "mlp"].rename(columns={"part": "head"})


def heads_found(
    model: HookedGPT2, pairs: PromptPairs, traced: xr.Dataset
) -> tuple[pd.DataFrame, xr.DataArray]:
    """The traced heads with their classes and copying; and every head's attention between roles."""
    weights = path_tracing.attention_between(model, pairs.clean, pairs.roles).mean("example")
    table = head_classes.classify(traced, weights)
    names = [model.to_single_token(name) for name in sorted({*pairs.answers, *pairs.wrong})]
    scores = heads.scores(model, names, n_tokens=2, n_sequences=1)
    copying = scores.sel(kind="ov_copying").to_series()
    found = pd.MultiIndex.from_frame(table[["layer", "head"]])
    return table.assign(copying=copying.reindex(found).values), weights


def roles_section(table: pd.DataFrame, weights: xr.DataArray) -> Section:
    """The classes, with the heads in each."""
    reading = [
        "A class is a rule that a head meets or not: an effect beyond the threshold above, and the "
        "position that gets the most of its attention. Copying, which is in no rule, is the share "
        "of names whose own logit rises most of all names when the head reads that name."
    ]
    for rule in RULES:
        members = table[table["class"] == rule.name]
        listed = ", ".join(
            f"{row.name} ({Interval(row.mean, row.low, row.high)} into {row.into}, attention "
            f"{row.attention:.2f}, copying {row.copying:.2f})"
            for row in members.itertuples(index=False)
        )
        reading.append(f"{rule}. Found: {listed or 'no head'}.")
    others = table[table["class"] == head_classes.NO_CLASS]
    if len(others):
        named = ", ".join(
            f"{row.name} at {row.pos} ({row.mean:+.2f} into {row.into}, looks at "
            f"{row.looks_at or 'no named position'})"
            for row in others.itertuples(index=False)
        )
        reading.append(f"On a path, but in no class: {named}.")
    pictures = tuple(
        charts.head_map(
            weights.sel(query=query, key=key).to_series().rename("weight").reset_index(),
            "weight",
            f"Mean attention, {query} to {key}",
            limit=1.0,
        )
        for query, key in dict.fromkeys((rule.query, rule.key) for rule in RULES)
    )
    shown = table.drop(columns=["layer", "head"])
    return Section("What the heads are", tuple(reading), shown, pictures)


def takeover(model: HookedGPT2, pairs: PromptPairs, movers: Sequence[Head]) -> pd.DataFrame:
    """How much more each other head writes of the answer when the name movers write nothing."""
    metric = pairs.metric(model)
    before = logit_attribution.decompose(model, pairs.clean, metric).sum("pos")
    with model.hooks(ablation.zero_heads(movers)):
        after = logit_attribution.decompose(model, pairs.clean, metric).sum("pos")
    gone = [component_name(*head) for head in movers]
    chosen = (before["kind"] == "head") & ~before["component"].isin(gone)
    rise = statistics.bootstrap((after - before).isel(component=chosen.values))
    columns = ["component", "layer", "head", "mean", "low", "high"]
    table = rise.to_dataframe().reset_index()[columns]
    return table.sort_values("mean", ascending=False, ignore_index=True)


def takeover_section(
    table: pd.DataFrame, movers: Sequence[Head], backups: Sequence[Head]
) -> Section:
    """Backup name movers, or why there is nothing to look for."""
    title = "Who takes over from the name movers?"
    if not movers:
        return Section(title, ("There is no name mover whose work could be taken over.",))
    reading = (
        f"The name movers ({names_of(movers)}) are replaced by zero. Change of every other head's "
        "direct part of the difference.",
        "Backup name movers, whose part rises by more than the threshold of a path: "
        f"{names_of(backups) or 'none'}.",
    )
    picture = charts.head_map(table, "mean", "Change of the direct part (logits)", signed=True)
    return Section(title, reading, table, (picture,))


def names_of(chosen: Sequence[Head]) -> str:
    """As in "L1H1, L2H3"."""
    return ", ".join(component_name(*head) for head in chosen)


def groups_of(model: HookedGPT2, table: pd.DataFrame, seed: int) -> dict[str, Sequence[Head]]:
    """What is ablated together: each found head, all, all others, and random others."""
    every = [(x, h) for x in range(model.cfg.n_layers) for h in range(model.cfg.n_heads)]
    circuit = head_classes.members(table)
    others = [head for head in every if head not in circuit]
    size = min(len(circuit), len(others))
    random = Random(seed)
    draws: dict[tuple[Head, ...], None] = {}
    while len(draws) < min(N_CONTROLS, comb(len(others), size)):
        draws[tuple(sorted(random.sample(others, size)))] = None
    groups: dict[str, Sequence[Head]] = {f"without {names_of([head])}": [head] for head in circuit}
    groups |= {WITHOUT: circuit, ONLY: others}
    for number, draw in enumerate(draws, start=1):
        groups[f"without {size} {RANDOM} ({number})"] = draw
    return groups


def layout(pair: PromptPair) -> tuple[int, ...]:
    """Where a prompt's named positions are; prompts that agree in it are averaged."""
    return tuple(pair.roles.values())


def without(
    model: HookedGPT2,
    pairs: PromptPairs,
    reference: PromptPairs,
    groups: Mapping[str, Sequence[Head]],
    progress: Progress,
) -> xr.Dataset:
    """Mean ablation of each group; positions of the reference are those of the prompt."""
    parts: list[xr.Dataset] = []
    for where in progress(sorted(set(map(layout, pairs))), "Ablating"):
        own = PromptPairs(pairs.name, tuple(pair for pair in pairs if layout(pair) == where))
        others = [pair.corrupted for pair in reference if layout(pair) == where]
        metric = own.metric(model)
        part = ablation.ablate_together(
            model, own.clean, groups, metric, "positional mean", reference=others
        )
        corrupted = metric(model(model.to_batch(own.corrupted), positions="last"))
        part["corrupted"] = ("example", corrupted.numpy(force=True))
        parts.append(part.drop_vars("token"))
    return xr.concat(parts, "example")


def test_section(outcome: xr.Dataset, groups: Mapping[str, Sequence[Head]], seed: int) -> Section:
    """The answer without the heads found, without all others, and without random others."""
    interval = statistics.bootstrap(outcome["effect"], seed=seed)
    table = interval[["mean", "low", "high"]].to_dataframe().reset_index(names="condition")
    table["logit_diff"] = outcome["ablated"].mean("example").values
    table["heads"] = ["all others" if name == ONLY else names_of(groups[name]) for name in groups]
    table["right"] = (outcome["ablated"] > 0).mean("example").values
    controls = outcome["effect"].sel(group=[name for name in table["condition"] if RANDOM in name])
    control = controls.mean("group")
    original = float(outcome["original"].mean())
    rows = {
        name: Interval(*interval.sel(group=name)[["mean", "low", "high"]].to_array().values)
        for name in (WITHOUT, ONLY)
    }
    p = statistics.paired_permutation(outcome["effect"].sel(group=WITHOUT), control, seed=seed)
    faithfulness = 1 + rows[ONLY].mean / (original - float(outcome["corrupted"].mean()))
    reading = (
        f"On {outcome.sizes['example']} fresh prompts, which had no part in finding the heads. "
        "What a head writes is replaced by its mean, position by position, over prompts with three "
        "other names whose named positions are the same. MLPs stay. Change of the difference, "
        f"which is {original:.2f} with nothing removed.",
        f"All heads found together: {rows[WITHOUT]}. As many random other heads: "
        f"{bootstrap_mean(control, seed=seed)}, mean of {len(controls)} draws. Paired permutation "
        f"test of the two: p = {p:.2g}.",
        f"All other heads: {rows[ONLY]}. The heads found alone give {faithfulness:.0%} of clean "
        "minus corrupted (faithfulness).",
        verdict(original, rows[WITHOUT], bootstrap_mean(control, seed=seed), faithfulness),
    )
    picture = charts.intervals(table, "Change of the difference when heads are removed", "logits")
    return Section("Does the answer depend on them?", reading, table, (picture,))


def verdict(original: float, removed: Interval, control: Interval, faithfulness: float) -> str:
    """What the ablations show."""
    if removed.high >= min(0.0, control.low):
        return "Removing the heads found does no more than removing others: they are not needed."
    change = control.mean / original
    if control.low < -NIL * original:
        others = f"takes {-change:.0%}: heads that were not found matter too"
    elif change > NIL:
        others = f"takes nothing (it adds {change:.0%})"
    else:
        others = "takes nothing"
    alone = (
        "By themselves they are enough."
        if faithfulness > 1 - NIL
        else f"By themselves they are not enough: {1 - faithfulness:.0%} is missing."
    )
    return (
        f"Removing the heads found takes {-removed.mean / original:.0%} of the difference; "
        f"removing as many others {others}. {alone}"
    )


def published_section(
    cfg: ModelConfig, table: pd.DataFrame, classes: Mapping[str, Sequence[Head]]
) -> Section:
    """Class by class beside the circuit that was published for GPT-2 small."""
    title = "Beside the published circuit"
    shape = (cfg.n_layers, cfg.n_heads, cfg.d_model)
    if cfg.model_name.split("/")[-1] != "gpt2" or shape != GPT2_SMALL:
        reading = f"Left out: the published circuit is GPT-2 small's, and this is {cfg.model_name}."
        return Section(title, (reading,))
    return Section(title, *beside_published(classes, head_classes.members(table)))


def beside_published(
    classes: Mapping[str, Sequence[Head]], on_path: Sequence[Head]
) -> tuple[tuple[str, ...], pd.DataFrame]:
    """What was found of each published class, in words and as a table."""
    rows = []
    for name, published in PUBLISHED.items():
        found = classes[name]
        both = sorted(set(found) & set(published))
        listed = {"published": published, "found": found, "in both": both}
        rows.append({"class": name} | {column: names_of(some) for column, some in listed.items()})
    found, known = set(on_path).union(*classes.values()), set().union(*PUBLISHED.values())
    reading = (
        "The classes of Wang et al. 2022, arXiv:2211.00593, figure 2. They read attention patterns "
        "and chose receivers by hand; the classes found here are by the rules above.",
        f"On a path in any class: {len(found & known)} of the {len(known)} published heads. Found "
        f"and not published: {names_of(sorted(found - known)) or 'none'}.",
    )
    return reading, pd.DataFrame(rows)
