"""Which heads carry a colour from its word to the answer, and what does each read from whom?

Prompts with two or three coloured things are changed in one fact at a time: which colour (the two
colours change places), which thing (the two things do), or which question. Each exchange turns the
answer into the same other colour; a head that carries the fact is one whose patch turns it too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
import xarray as xr

from interp import attention, charts, head_circuits, maps, patching, path_patching, statistics
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import visible
from interp.progress import Progress, no_progress
from interp.prompts import PromptPairs, question_exchanged, things_exchanged
from interp.prompts.prompt_pairs import is_one_token
from interp.report import Section
from interp.tiny.lexicon import WORDS

Head = tuple[int, int]
INTERVAL = ["mean", "low", "high"]
EDGES = (
    ("thing", "colour"),
    ("after", "colour"),
    ("asked", "thing"),
    ("asked", "colour"),
    ("END", "asked"),
    ("END", "thing"),
    ("END", "after"),
    ("END", "colour"),
)
"""(query, key) by the names of positions."""
HEAVY = 0.25
"""Mean attention weight from which on an edge is shown even if cutting it does nothing."""
SIGNIFICANT = 0.05
"""Largest corrected p-value of a finding."""
SHARE = "share of clean - corrupted"


@dataclass(frozen=True)
class Search:
    """Prompts, and the same with one fact exchanged."""

    model: HookedGPT2
    pairs: PromptPairs
    exchanges: Mapping[str, PromptPairs]
    """The pairs' clean prompts with corrupted ones of their own, by what is exchanged."""
    threshold: float
    """Smallest share of clean - corrupted that counts."""
    seed: int
    progress: Progress = no_progress

    @classmethod
    def of(
        cls, model: HookedGPT2, pairs: PromptPairs, threshold: float, seed: int,
        progress: Progress = no_progress,
    ) -> "Search":  # fmt: skip
        """With all three exchanges."""
        exchanges = {
            "colours": pairs,
            "things": things_exchanged(model, pairs),
            "question": question_exchanged(model, pairs),
        }
        return cls(model, pairs, exchanges, threshold, seed, progress)

    @property
    def metric(self) -> Metric:
        """logit(answer) - logit(the other thing's colour)."""
        return self.pairs.metric(self.model)

    @property
    def positions(self) -> dict[str, list[int]]:
        """Named positions in the order of the prompt; `after` is the word after the thing."""
        roles = {name: place.tolist() for name, place in self.pairs.roles.items()}
        after = [place + 1 for place in roles["thing"]]
        order = ("colour", "thing", "after", "other_colour", "other_thing", "asked", "END")
        return {name: (roles | {"after": after})[name] for name in order}

    def shares(self, exchange: str, site: str) -> xr.DataArray:
        """Effect of patching each head's `site` from the exchanged prompt, over clean - corrupted.

        -1 is all of it: the patch alone gives the exchanged prompt's answer.
        """
        ds = patching.sweep(
            self.model, self.pairs.clean, self.exchanges[exchange].corrupted, site, self.metric,
            "noising",
        )  # fmt: skip
        return as_share(ds)


def as_share(ds: xr.Dataset) -> xr.DataArray:
    """Effects over the mean of clean - corrupted, example by example."""
    return statistics.effect(ds) / float((ds.clean - ds.corrupted).mean())


def name_of(head: Head) -> str:
    """As in L1H2."""
    return path_patching.component_name(*head)


def depth_section(search: Search) -> Section:
    """Where each fact is, layer by layer: the residual stream patched at named positions."""
    parts, pictures, readings = [], [], []
    exchanges = list(search.exchanges.items())
    for fact, pairs in search.progress(exchanges, "Patching the stream"):
        ds = patching.sweep(
            search.model, pairs.clean, pairs.corrupted, "resid_pre", search.metric,
            positions=search.positions,
        )  # fmt: skip
        restored = statistics.pooled_recovered_fraction(ds)
        table = restored.to_series().unstack("pos")[list(search.positions)].reset_index()
        parts.append(table.assign(exchanged=fact))
        picture = maps.sweep_map(ds, "pooled_recovered_fraction", limit=1.0)
        pictures.append(picture.properties(title=f"{fact} exchanged: share restored"))
        readings.append(f"{fact}: " + where_it_is(restored, search.threshold))
    table = pd.concat(parts, ignore_index=True).round(4)
    reading = (
        "Denoising: the stream before each layer, at one named position, is taken from the clean "
        "run into the run with one fact exchanged. 1 restores all of the logit difference, so all "
        "that the answer needs of that fact is there. “thing” is the asked thing where it is first "
        "mentioned, “after” the word after it, “asked” the thing in the question.",
        *readings,
    )
    order = ["exchanged", "layer", *search.positions]
    return Section("Where is each fact, at each depth?", reading, table[order], tuple(pictures))


def where_it_is(restored: xr.DataArray, threshold: float) -> str:
    """Each layer's positions that restore more than the threshold."""
    layers = []
    for layer, row in zip(restored["layer"].values, restored, strict=True):
        found = [
            f"{float(share):.0%} at {name}"
            for name, share in zip(row["pos"].values, row, strict=True)
            if abs(float(share)) >= threshold
        ]
        layers.append(f"before layer {layer} {', '.join(found) or 'nowhere'}")
    return "; ".join(layers) + "."


def head_table(search: Search) -> pd.DataFrame:
    """Every head's share of each exchange, with interval and corrected p-value; `found` by rule."""
    by_fact = [search.shares(fact, "z") for fact in search.exchanges]
    shares = xr.concat(by_fact, pd.Index(search.exchanges, name="exchanged"), join="exact")
    interval = statistics.bootstrap(shares, seed=search.seed)
    tests = statistics.permutation_test(shares, seed=search.seed)
    columns = interval[INTERVAL].assign(p_corrected=tests.p_corrected)
    table = columns.reset_coords(drop=True).to_dataframe().reset_index()
    large = (table["mean"] <= -search.threshold) & (table["high"] < 0)
    return table.assign(found=large & (table["p_corrected"] <= SIGNIFICANT))


def found_heads(table: pd.DataFrame) -> list[Head]:
    """Heads that carry one of the facts, in order of their layers."""
    rows = table[table["found"]]
    return sorted({(int(row.layer), int(row.head)) for row in rows.itertuples()})


def heads_section(search: Search, table: pd.DataFrame) -> Section:
    """Which heads carry which fact."""
    found = found_heads(table)
    others = table[~table["found"]]
    ordered = table.sort_values("mean", ignore_index=True)
    names = [name_of((row.layer, row.head)) for row in ordered.itertuples()]
    shown = ordered.assign(head=names).drop(columns="layer")
    carried = [
        f"{name_of(head)} ({', '.join(facts_of(table, head))})" for head in found
    ]  # fmt: skip
    reading = (
        "Noising: one head's output z is taken from the prompt with one fact exchanged, at all "
        f"positions; the effect is given as a {SHARE} of that exchange, so -1 means that this head "
        f"alone turns the answer. The rule: a head is found if it takes at least "
        f"{search.threshold:.0%} of an exchange, with an interval below zero and p ≤ {SIGNIFICANT} "
        f"(sign flips over {len(search.pairs)} prompts, Holm over all heads and exchanges).",
        f"Found: {'; '.join(carried) or 'none'}. The largest share that is not found: "
        f"{float(others['mean'].min()):+.1%}.",
    )
    pictures = tuple(
        charts.head_map(rows, "mean", f"{fact} exchanged", signed=True)
        for fact, rows in table.groupby("exchanged", sort=False)
    )
    return Section("Which heads carry it?", reading, shown, pictures)


def facts_of(table: pd.DataFrame, head: Head) -> list[str]:
    """What a head was found to carry, with its share."""
    own = (table["layer"] == head[0]) & (table["head"] == head[1]) & table["found"]
    return [f"{row.exchanged} {row.mean:+.0%}" for row in table[own].itertuples()]


def edge_table(search: Search) -> pd.DataFrame:
    """Every head's attention weight on each named edge, beside the effect of cutting that edge."""
    places, parts = search.positions, []
    for query, key in search.progress(EDGES, "Cutting edges"):
        ds = attention.edge_effects(
            search.model, search.pairs.clean, places[query], places[key], search.metric
        )
        table = statistics.bootstrap(ds["effect"], seed=search.seed)[INTERVAL]
        table = table.assign(weight=ds["weight"].mean("example"))
        frame = table.reset_coords(drop=True).to_dataframe().reset_index()
        parts.append(frame.assign(edge=f"{query} → {key}"))
    table = pd.concat(parts, ignore_index=True)
    return table[["edge", "layer", "head", "weight", *INTERVAL]]


def needed_edges(search: Search, table: pd.DataFrame, intact: float) -> "pd.Series[bool]":
    """Which edges take the threshold's share of the logit difference, with an interval below 0."""
    return (table["mean"] <= -search.threshold * intact) & (table["high"] < 0)


def edges_section(search: Search, table: pd.DataFrame, intact: float) -> Section:
    """Where the heads look, and whether it matters that they do."""
    counts = needed_edges(search, table, intact)
    shown = table.assign(needed=counts)[counts | (table["weight"] >= HEAVY)]
    shown = shown.sort_values("mean", ignore_index=True)
    shown = shown.assign(head=[name_of((row.layer, row.head)) for row in shown.itertuples()]).drop(
        columns="layer"
    )
    needed = [
        f"{row.head} {row.edge} (weight {row.weight:.2f}, effect {row.mean:+.2f})"
        for row in shown[shown["needed"]].itertuples()
    ]
    idle = table[~counts].sort_values("weight").iloc[-1]
    reading = (
        "One edge of one head is cut (score -inf, the rest of the row renormalises); the effect is "
        f"the change of the logit difference, {intact:.2f} as is. Shown are edges that take "
        f"{search.threshold:.0%} of it or more, and those of weight {HEAVY} or more.",
        f"Needed: {'; '.join(needed) or 'none of them alone'}.",
        f"The heaviest edge that is not needed: L{idle.layer:.0f}H{idle['head']:.0f} {idle.edge}, "
        f"weight {idle.weight:.2f}, effect {idle['mean']:+.2f}. A weight says where a head looks, "
        "not that the answer depends on it.",
    )
    return Section("Where do they look, and does it matter?", reading, shown)


def input_table(search: Search, found: list[Head]) -> pd.DataFrame:
    """Through which of query, key and value each found head hears of each fact, and from whom."""
    rows = []
    combinations = [(fact, letter) for fact in search.exchanges for letter in INPUTS]
    for fact, letter in search.progress(combinations, "Patching queries, keys and values"):
        interval = statistics.bootstrap(search.shares(fact, letter), seed=search.seed)
        for layer, head in found:
            cell = interval.sel(layer=layer, head=head)
            if float(cell["mean"]) <= -search.threshold and float(cell["high"]) < 0:
                senders = senders_of(search, fact, [(layer, head, letter)])
                rows.append(
                    {"reader": name_of((layer, head)), "input": INPUTS[letter], "fact": fact}
                    | {name: float(cell[name]) for name in INTERVAL}
                    | {"heard from": ", ".join(senders) or "none alone"}
                )
    columns = ["reader", "input", "fact", *INTERVAL, "heard from"]
    return pd.DataFrame(rows, columns=columns).sort_values("reader", ignore_index=True)


INPUTS = {"q": "query", "k": "key", "v": "value"}


def senders_of(
    search: Search, fact: str, receivers: list[tuple[int, int, str]] | str
) -> list[str]:  # fmt: skip
    """Heads and MLPs that act on these inputs, with their share, largest first."""
    ds = path_patching.sweep(
        search.model, search.pairs.clean, search.exchanges[fact].corrupted, receivers=receivers,
        metric=search.metric, direction="noising", freeze_mlps=receivers == "logits",
    )  # fmt: skip
    shares = as_share(ds).mean("example").to_series().sort_values()
    large = shares[shares <= -search.threshold]
    return [f"{sender} {share:+.0%}" for sender, share in large.items()]


def inputs_section(search: Search, table: pd.DataFrame) -> Section:
    """Which head reads what through which input, and from whom."""
    at_logits = ", ".join(senders_of(search, "colours", "logits"))
    reading = (
        "Noising again, one input of one head at a time: only its query, only its key, or only its "
        f"value comes from the prompt with the fact exchanged ({SHARE}). “Heard from”: the senders "
        "whose path into that input (through MLPs, all other heads frozen) takes "
        f"{search.threshold:.0%} or more; senders that stand one behind the other both count, so "
        "these do not add up.",
        "Of the exchanged colours the logits hear directly, through no other head or MLP, from "
        f"{at_logits or 'no component alone'}.",
    )
    return Section("Who reads what, from whom?", reading, table)


def circuit_section(
    search: Search, heads: pd.DataFrame, edges: pd.DataFrame, inputs: pd.DataFrame, intact: float
) -> Section:
    """What was found, a line for each head."""
    needed = needed_edges(search, edges, intact)
    rows = []
    for head in found_heads(heads):
        own = edges[needed & (edges["layer"] == head[0]) & (edges["head"] == head[1])]
        heard = inputs[inputs["reader"] == name_of(head)]
        through = [f"{row.fact} by its {row.input}" for row in heard.itertuples()]
        looks = [f"{row.edge} ({row.weight:.2f})" for row in own.itertuples()]
        rows.append(
            {"head": name_of(head), "carries": ", ".join(facts_of(heads, head))}
            | {"looks (weight)": ", ".join(looks) or "no single edge is needed"}
            | {"hears of": ", ".join(through) or "no single fact"}
        )
    reading = (
        "The found heads, with the facts they carry (share of the exchange), the edges that are "
        f"needed (cutting one takes {search.threshold:.0%} of the logit difference or more; mean "
        "attention weight in brackets), and the input by which they hear of each fact.",
    )
    return Section("The circuit", reading, pd.DataFrame(rows))


def weights_section(search: Search, found: list[Head]) -> Section:
    """What the found heads look for and copy, by their weights alone."""
    model = search.model
    words = torch.unique(model.as_batch(search.pairs.clean).tokens).tolist()
    colours, things = (word_ids(model, kind) for kind in ("colours", "things"))
    rows = []
    for layer, head in found:
        best = head_circuits.qk_top_pairs(model, layer, head, words, n_pairs=N_BEST)
        queries, keys = best["query"].values.tolist(), best["key"].values.tolist()
        first = (visible(str(best[f"{side}_token"].values[0])) for side in ("query", "key"))
        rows.append(
            {"head": name_of((layer, head)), "QK: best pair": " → ".join(first)}
            | {"key a colour": sum(key in colours for key in keys) / N_BEST}
            | {"key a thing": sum(key in things for key in keys) / N_BEST}
            | {"same word": sum(map(int.__eq__, queries, keys)) / N_BEST}
            | {"OV: colours copied": copied(model, layer, head, colours)}
            | {"OV: things copied": copied(model, layer, head, things)}
        )
    reading = (
        f"QK: of the {N_BEST} pairs of words of these prompts where the first looks for the second "
        "most, the best one, and how often the key is a colour, a thing, or the query's own word. "
        "OV: the share of words whose own logit rises most, among their kind, when the head reads "
        "them. Both follow the direct path through the effective embedding. What earlier heads and "
        "later MLPs add is not in it: a head may carry a colour in a form that only a later head "
        "or MLP turns into the word.",
    )
    return Section("What do their weights say?", reading, pd.DataFrame(rows))


N_BEST = 50
"""Pairs of words that a head's QK circuit is described by."""


def word_ids(model: HookedGPT2, kind: str) -> list[int]:
    """Ids of the colours or things that are one token."""
    words = [f" {word}" for word in WORDS[kind] if is_one_token(model, f" {word}")]
    return [model.to_single_token(word) for word in words]


def copied(model: HookedGPT2, layer: int, head: int, words: list[int]) -> float:
    """Share of these words whose own logit rises most when the head reads them."""
    pairs = head_circuits.ov_top_pairs(model, layer, head, words, n_pairs=len(words) ** 2)
    table = pairs[["read", "raised"]].to_dataframe()
    strongest = table.drop_duplicates("read")  # best pairs come first
    return float((strongest["read"] == strongest["raised"]).mean())
