"""When does the answer appear in the residual stream, and which parts of the model write it?

Expectation, from studies of GPT-2 small (nostalgebraist 2020; Wang et al. 2022): the answer climbs
to the first rank over the last layers, and a few late heads, reading the word that is the answer,
write most of its logit difference. The part that writes most need not be the one the answer depends
on.

Method: the logit lens after every sublayer; direct logit attribution of logit(answer) minus
logit(wrong) with the final LayerNorm's scale frozen, heads split by the position they read from;
zero ablation of each head, to set what is lost without it beside what it writes itself. Means over
prompts, with bootstrap intervals.
"""

from collections.abc import Callable
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from typer import Option

import interp
from interp import charts, logit_attribution, logit_lens, maps, prompts, statistics
from interp.ablation import zero_heads
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import visible
from interp.model.weights import model_hash
from interp.progress import Progress, no_progress
from interp.prompts import PromptPairs
from interp.report import Report, Section

STUDIES: dict[str, Callable[..., PromptPairs]] = {
    "colour_binding": prompts.colour_binding,
    "ioi": prompts.ioi,
    "induction": prompts.induction,
}
INTERVAL = ["mean", "low", "high"]


def run(
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    study: Annotated[str, Option(help="colour_binding, ioi or induction.")] = "colour_binding",
    n_prompts: Annotated[int, Option(help="Number of prompts.")] = 50,
    seed: Annotated[int, Option(help="Of the prompts and the bootstrap.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """When does the answer appear in the residual stream, and which parts write it?"""
    if study not in STUDIES:
        raise PromptError(f"There is no study {study!r}; choose from {', '.join(STUDIES)}.")
    if n_prompts < 2:
        raise PromptError(f"An interval needs 2 or more prompts, got {n_prompts}.")
    hooked = interp.load(model)
    pairs = STUDIES[study](hooked, n_prompts, seed=seed)
    da = logit_attribution.decompose(hooked, pairs.clean, pairs.metric(hooked))
    removed = without_each_head(hooked, pairs, da, progress)
    sections = (
        sentence_section(hooked, pairs),
        layers_section(hooked, pairs, seed),
        parts_section(da, seed),
        sources_section(da, pairs, seed),
        ablation_section(removed),
    )
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked), "study": study}
    settings |= {"n_prompts": n_prompts, "seed": seed}
    title = "When does the answer appear, and what writes it?"
    question = f"{pairs.clean[0]} →{pairs.answers[0]}, and {n_prompts - 1} more of {study}"
    return Report(title, question, sections, settings)


def sentence_section(model: HookedGPT2, pairs: PromptPairs) -> Section:
    """The lens on the first prompt, every position."""
    answer = model.to_single_token(pairs.answers[0])
    ds = logit_lens.logit_lens(model, pairs.clean[0], answer).isel(example=0)
    end = ds.isel(pos=-1)
    table = pd.DataFrame(
        {
            "layer": ds["layer"].values,
            "first token": [visible(token) for token in end.token.isel(rank=0).values],
            "its probability": end.prob.isel(rank=0).values,
            "rank of the answer": end.answer_rank.values.astype(int),
            "probability of the answer": end.answer_prob.values,
            "KL to the end (nats)": end.kl.values,
        }
    )
    reading = (
        f"What the model would say after “{pairs.clean[0]}” if it ended after each sublayer: the "
        "stream there, read through the final LayerNorm and the unembedding. L0 pre is the "
        "embedding, mid is after attention, post after the MLP.",
        f"The answer “{pairs.answers[0].strip()}” {first_place(table)}",
        "An early layer need not write for this reader: a low rank there does not show that the "
        "answer is not yet known.",
    )
    return Section("One prompt, layer by layer", reading, table, (maps.logit_lens_table(ds),))


def first_place(table: pd.DataFrame) -> str:
    """From which layer on the answer stays first."""
    first = (table["rank of the answer"] == 1).to_list()
    if not first[-1]:
        rank = table["rank of the answer"].iloc[-1]
        return f"is not the model's answer here: it ends at rank {rank}."
    since = max((index + 1 for index, here in enumerate(first) if not here), default=0)
    return f"is first from {table['layer'][since]} on."


def layers_section(model: HookedGPT2, pairs: PromptPairs, seed: int) -> Section:
    """The lens at the end of all prompts."""
    ds = logit_lens.logit_lens(model, pairs.clean, pairs.answer_ids(model), positions="last")
    ds = ds.isel(pos=0)
    interval = statistics.bootstrap(ds.answer_prob, seed=seed)
    table = pd.DataFrame(
        {"condition": ds["layer"].values}
        | {name: interval[name].values for name in INTERVAL}
        | {
            "median rank": ds.answer_rank.median("example").values,
            "first in": (ds.answer_rank == 1).mean("example").values,
            "mean KL (nats)": ds.kl.mean("example").values,
        }
    )
    gain = table["mean"].diff()
    largest = int(gain[1:].idxmax())
    reading = (
        f"Mean probability of the answer where {len(pairs)} prompts end, with its interval; its "
        "median rank; in which share of prompts it is first; and KL(final || here).",
        f"The largest step is {gain[largest]:+.2f}, from {table.condition[largest - 1]} to "
        f"{table.condition[largest]}; at the end the answer is first in "
        f"{table['first in'].iloc[-1]:.0%} of the prompts.",
    )
    picture = charts.intervals(table, "The answer, read off after each sublayer", "probability")
    return Section("All prompts, layer by layer", reading, table, (picture,))


def parts_section(da: xr.DataArray, seed: int) -> Section:
    """What each component writes by itself."""
    parts = da.sum("pos")
    interval = statistics.bootstrap(parts, seed=seed)
    table = interval[INTERVAL].to_dataframe()[["kind", *INTERVAL]].reset_index()
    table = table.sort_values("mean", key=abs, ascending=False, ignore_index=True)
    total = float(parts.sum("component").mean())
    by_kind = table.groupby("kind")["mean"].sum()
    largest = table.iloc[0]
    reading = (
        "The logit difference as a sum of what every part writes into the stream by itself. The "
        "largest absolute residue (metric minus all parts) is "
        f"{float(abs(parts.sel(component='residue')).max()):.1e} logits.",
        f"Of {total:+.2f} logits, heads write {by_kind['head']:+.2f} and MLPs "
        f"{by_kind['mlp']:+.2f}. The largest part is {largest.component} with "
        f"{largest['mean']:+.2f} [{largest.low:+.2f}, {largest.high:+.2f}].",
    )
    picture = charts.contributions(da)
    return Section("What each part writes", reading, table, (picture,))


def sources_section(da: xr.DataArray, pairs: PromptPairs, seed: int) -> Section:
    """What the heads write, by the position that they read from."""
    heads = da.sel(component=da.kind == "head").sum("component").transpose("pos", "example")
    places = {"first token": torch.zeros(len(pairs), dtype=torch.long)} | pairs.roles
    by_place = {
        role: heads.values[at.numpy(), np.arange(len(pairs))] for role, at in places.items()
    }
    by_place["elsewhere"] = heads.sum("pos").values - sum(by_place.values())
    rows = [
        {"condition": role} | statistics.bootstrap_mean(values, seed=seed)._asdict()
        for role, values in by_place.items()
    ]
    table = pd.DataFrame(rows)
    largest = table.loc[table["mean"].idxmax()]
    reading = (
        "What all heads together write where the prompt ends, by the position whose value they "
        f"moved there. Most for the answer comes from “{largest.condition}”: "
        f"{largest['mean']:+.2f} [{largest.low:+.2f}, {largest.high:+.2f}] logits.",
    )
    picture = charts.intervals(table, "What heads write, by where they read", "logits")
    return Section("Where the heads read it", reading, table, (picture,))


def without_each_head(
    model: HookedGPT2, pairs: PromptPairs, da: xr.DataArray, progress: Progress
) -> pd.DataFrame:
    """What each head writes directly, and what is lost without it, in logits."""
    metric = pairs.metric(model)
    heads = da.sel(component=da.kind == "head").sum("pos").mean("example")
    intact = float(da.sum(["component", "pos"]).mean())
    places = list(zip(heads["layer"].values.tolist(), heads["head"].values.tolist(), strict=True))
    rows = []
    for (layer, head), direct in zip(progress(places, "Ablating heads"), heads.values, strict=True):
        with torch.no_grad():
            logits = model.run_with_hooks(
                pairs.clean, zero_heads([(layer, head)]), positions="last"
            )
        assert isinstance(logits, Tensor)
        lost = intact - float(metric(logits).mean())
        rows.append({"layer": layer, "head": head, "writes": direct, "lost without it": lost})
    return pd.DataFrame(rows)


def ablation_section(table: pd.DataFrame) -> Section:
    """Whether the heads that write are the heads that are needed."""
    names = [f"L{row.layer}H{row.head}" for row in table.itertuples()]
    writer, needed = int(table["writes"].idxmax()), int(table["lost without it"].idxmax())
    verdict = (
        "The head that writes most is also the one the answer depends on most."
        if writer == needed
        else "The head the answer depends on most is not the one that writes most: it works "
        "through later layers, and direct attribution counts that as theirs."
    )
    reading = (
        "Beside what each head writes directly: how much of the logit difference is lost when its "
        "z is set to zero. Zero is far from what a head usually writes: effects can be overstated.",
        f"{names[writer]} writes most ({table.writes[writer]:+.2f}; without it "
        f"{table['lost without it'][writer]:+.2f} are lost); most is lost without {names[needed]} "
        f"({table['lost without it'][needed]:+.2f}; it writes {table.writes[needed]:+.2f}).",
        verdict,
    )
    pictures = (
        charts.head_map(table, "writes", "Writes directly (logits)", signed=True),
        charts.head_map(table, "lost without it", "Lost without it (logits)", signed=True),
    )
    return Section("Is what writes what is needed?", reading, table, pictures)
