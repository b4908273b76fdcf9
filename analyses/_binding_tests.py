"""Is the answer lost without the found heads, kept with nothing else, and untouched by others?

Resample ablation on other prompts, with random draws of other heads as control; mean ablation,
which also removes what is common to all sentences; and the colour's second way, past its thing.
"""

from collections.abc import Sequence
from itertools import combinations
from math import comb
from random import Random

import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from analyses._binding_search import INTERVAL, SHARE, Head, Search, as_share, name_of
from interp import attention, charts, patching, path_patching, prompts
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, HookFunction
from interp.progress import Progress, no_progress
from interp.report import Section
from interp.statistics import bootstrap_mean

NIL = 0.1
"""A control shows nothing if its interval keeps within this share of the logit difference."""
INTACT, OTHER_WORDS = "intact", "other words"
WITHOUT, ONLY = "without all found", "only the found"
CONTROL, WORST = "control: mean of the draws", "control: worst draw"


def outcome_table(
    model: HookedGPT2, found: Sequence[Head], n_pairs: int, n: int, controls: int, seed: int,
    progress: Progress = no_progress,
) -> pd.DataFrame:  # fmt: skip
    """The logit difference without the found heads, without others, and with nothing else.

    An ablated head's z comes from the same sentence about other words (resample ablation).
    """
    pairs = prompts.colour_binding(model, n, seed=seed, n_pairs=n_pairs)
    pairs = prompts.other_words(model, pairs, seed=seed)
    others = [head for head in all_heads(model) if head not in found]
    draws = control_draws(others, len(found), controls, seed)
    groups = {WITHOUT: list(found)} | {f"without {name_of(head)}": [head] for head in found}
    groups |= {ONLY: others} | {f"draw {index}": draw for index, draw in enumerate(draws)}
    ds = patching.patch_together(
        model, pairs.clean, pairs.corrupted, groups, pairs.metric(model), "noising",
        progress=progress,
    )  # fmt: skip
    is_draw = ds["group"].str.startswith("draw ")
    by_draw = ds.patched.sel(group=is_draw)
    worst = by_draw.isel(group=int(by_draw.mean("example").argmin("group")))
    named = {str(cell["group"].item()): cell for cell in ds.patched.sel(group=~is_draw)}
    values = {INTACT: ds.clean, OTHER_WORDS: ds.corrupted} | named
    values |= {CONTROL: by_draw.mean("group"), WORST: worst}
    rows = []
    for condition, value in values.items():
        change = bootstrap_mean((value - ds.clean).values, seed=seed)
        own = bootstrap_mean(value.values, seed=seed)
        names = ("change", "change low", "change high")
        rows.append(
            {"pairs": n_pairs, "condition": condition}
            | own._asdict()
            | dict(zip(names, change, strict=True))
        )
    return pd.DataFrame(rows)


def all_heads(model: HookedGPT2) -> list[Head]:
    """Every (layer, head)."""
    return [
        (layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)
    ]


def control_draws(others: Sequence[Head], size: int, n: int, seed: int) -> list[list[Head]]:
    """`n` different random sets of heads that were not found; all sets, if there are fewer.

    As many heads as were found, or all others where these are fewer.
    """
    size = min(size, len(others))
    if comb(len(others), size) <= n:
        return [list(draw) for draw in combinations(others, size)]
    random, draws = Random(seed), dict[tuple[Head, ...], None]()
    while len(draws) < n:
        draws[tuple(sorted(random.sample(list(others), size)))] = None
    return [list(draw) for draw in draws]


def ablation_section(table: pd.DataFrame, found: Sequence[Head], n: int) -> Section:
    """Ablating what was found, and what was not."""
    by_size = {f"{k} pair{'s' if k > 1 else ''}": rows for k, rows in table.groupby("pairs")}
    reading = (
        f"{n} prompts per set that had no part in the search. An ablated head gets its z, at every "
        "position, from the same sentence about other colours and things (resample ablation): what "
        "it knows of the frame stays, what it knows of this binding goes. Controls are draws of "
        f"{len(found)} heads that were not found; “{ONLY}” ablates all others together, and "
        f"“{OTHER_WORDS}” is the other sentence's own run.",
        *(f"{size}: {verdict(rows)}" for size, rows in by_size.items()),
        prediction(table, found),
    )
    pictures = tuple(
        charts.intervals(rows[["condition", *INTERVAL]], size, "logit difference")
        for size, rows in by_size.items()
    )
    return Section("Does the answer depend on them, and only on them?", reading, table, pictures)


def verdict(table: pd.DataFrame) -> str:
    """What the ablations of one set say, in words that follow the numbers."""
    rows = table.set_index("condition")
    intact, without, worst = rows["mean"][INTACT], rows["mean"][WITHOUT], rows.loc[WORST]
    band = f"±{NIL * intact:.2f} ({NIL:.0%})"
    control = (
        f"within {band}: the controls show nothing"
        if controls_show_nothing(rows)
        else f"not within {band}: the controls do show something"
    )
    return (
        f"without the found heads {without:+.2f} of {intact:+.2f} logits is left (the other "
        f"sentence gives {rows['mean'][OTHER_WORDS]:+.2f}); with nothing but the found heads "
        f"{rows['mean'][ONLY]:+.2f}, a faithfulness of {faithfulness(rows):.0%}. The worst control "
        f"changes it by {worst.change:+.2f} [{worst['change low']:+.2f}, "
        f"{worst['change high']:+.2f}], {control}."
    )


def faithfulness(rows: pd.DataFrame) -> float:
    """(only the found - other words) / (intact - other words), of the means."""
    left = rows["mean"]
    return (left[ONLY] - left[OTHER_WORDS]) / (left[INTACT] - left[OTHER_WORDS])


def controls_show_nothing(rows: pd.DataFrame) -> bool:
    """Whether the worst draw's interval keeps within the band."""
    band, worst = NIL * rows["mean"][INTACT], rows.loc[WORST]
    return bool(-band <= worst["change low"] and worst["change high"] <= band)


def prediction(table: pd.DataFrame, found: Sequence[Head]) -> str:
    """Whether what was predicted holds, and if not, what fails."""
    sets = [rows.set_index("condition") for _, rows in table.groupby("pairs")]
    parts = {
        "two hops take two heads in different layers": len({layer for layer, _ in found}) > 1,
        "without the found heads the answer is lost": all(
            rows["mean"][WITHOUT] <= rows["high"][OTHER_WORDS] for rows in sets
        ),
        "without as many others it is not": all(map(controls_show_nothing, sets)),
        "with nothing but the found heads it stays": all(
            faithfulness(rows) >= 1 - NIL for rows in sets
        ),
    }
    failed = [part for part, holds in parts.items() if not holds]
    if not failed:
        return "The prediction holds in every set."
    return f"The prediction does not hold: it said that {'; and that '.join(failed)}."


@torch.no_grad()
def mean_table(search: Search, found: Sequence[Head]) -> pd.DataFrame:
    """Mean ablation of groups of heads, as they are and with the found heads' attention held."""
    model, batch = search.model, search.model.as_batch(search.pairs.clean)
    _, cache = model.run_with_cache(
        batch, names_filter=["blocks.*.attn.hook_z", "blocks.*.attn.hook_pattern"]
    )
    others = [head for head in all_heads(model) if head not in found]
    first = min(layer for layer, _ in found)
    groups = {
        "found": list(found),
        "others": others,
        f"others before layer {first}": [head for head in others if head[0] < first],
        f"others from layer {first} on": [head for head in others if head[0] >= first],
    }

    def replace_by_mean(heads: Sequence[Head]) -> HookFunction:
        def replace(z: Tensor, hook: Hook) -> None:
            for layer, head in heads:
                if layer == hook.layer():
                    z[:, :, head] = cache["z", layer][batch.attention_mask][:, head].mean(dim=0)

        return replace

    def hold(pattern: Tensor, hook: Hook) -> None:
        for layer, head in found:
            if layer == hook.layer():
                pattern[:, head] = cache["pattern", layer][:, head]

    rows = []
    for group, heads in {"none": [], **{name: x for name, x in groups.items() if x}}.items():
        hooks = [("blocks.*.attn.hook_z", replace_by_mean(heads))]
        held = [("blocks.*.attn.hook_pattern", hold)]
        may_move = any(head in others for head in heads)
        for attention_is, extra in (("recomputed", []), ("held", held))[: 1 + may_move]:
            logits = model.run_with_hooks(batch, hooks + extra, positions="last")
            assert isinstance(logits, Tensor)
            values = search.metric(logits).numpy(force=True)
            interval = bootstrap_mean(values, seed=search.seed)
            rows.append(
                {"ablated": group, "attention of the found heads": attention_is}
                | interval._asdict()
            )
    return pd.DataFrame(rows)


def mean_section(search: Search, found: Sequence[Head]) -> Section:
    """A harder ablation, and why its control does show something."""
    table = mean_table(search, found)
    left = table.set_index(["ablated", "attention of the found heads"])["mean"]
    intact = left["none", "recomputed"]
    alone, held = left["others", "recomputed"] / intact, left["others", "held"] / intact
    if alone >= 1 - NIL:
        finding = f"Without all others {alone:.0%} stays: this control shows nothing either."
    elif held - alone > NIL:
        finding = (
            f"Here the control does show something: without all others {alone:.0%} of the "
            f"difference stays. With the found heads' attention held at the intact run's it is "
            f"{held:.0%}: what the others do is, above all, to let the found heads know where to "
            "look. The colour itself does not pass through them."
        )
    else:
        finding = (
            f"Here the control does show something: without all others {alone:.0%} of the "
            f"difference stays, and with the found heads' attention held {held:.0%}: the others "
            "are needed for more than to tell the found heads where to look."
        )
    reading = (
        "The mean of a head's z over all positions of all these prompts takes its place (mean "
        "ablation). That also removes what resampling keeps: all that a head tells of where a word "
        "stands in the sentence, and next to what. “Held”: the found heads' patterns are those of "
        "the intact run.",
        finding,
    )
    conditions = table["ablated"] + ", attention " + table["attention of the found heads"]
    rows = table.assign(condition=conditions)
    picture = charts.intervals(rows, "Left under mean ablation", "logit difference")
    return Section("A harder ablation: the mean", reading, table, (picture,))


def first_reader(edges: pd.DataFrame) -> Head:
    """The head whose edge from thing to colour is needed most."""
    rows = edges[edges["edge"] == "thing → colour"]
    row = rows.loc[rows["mean"].idxmin()]
    return int(row["layer"]), int(row["head"])


def cut_section(search: Search) -> Section:
    """What is left of the colour without the main edge, and without a second one."""
    places = search.positions
    main, again, end = (
        (None, None, places[query], places[key])
        for query, key in (("thing", "colour"), ("after", "colour"), ("END", "after"))
    )
    cuts = {
        "none": [],
        "thing → colour": [main],
        "after → colour": [again],
        "END → after": [end],
        "thing → colour, after → colour": [main, again],
        "thing → colour, END → after": [main, end],
    }
    measured = {
        name: [
            attention.knockout(search.model, side, edges, search.metric).cut
            for side in (search.pairs.clean, search.pairs.corrupted)
        ]
        for name, edges in search.progress(list(cuts.items()), "Cutting edges in all heads")
    }
    whole = float((measured["none"][0] - measured["none"][1]).mean())
    rows = []
    for name, (clean, exchanged) in measured.items():
        left = bootstrap_mean(((clean - exchanged) / whole).values, seed=search.seed)
        means = {"clean": float(clean.mean()), "colours exchanged": float(exchanged.mean())}
        rows.append({"condition": name} | means | left._asdict())
    table = pd.DataFrame(rows)
    reading = (
        "Edges cut in all heads. The logit difference of the clean prompts, and with the colours "
        "exchanged; their difference, as a share of that of the intact run, is what the model "
        "still knows of which colour it was (mean, low, high). Below zero the colour counts "
        "against itself.",
        cut_verdict(table),
    )
    picture = charts.intervals(table, "What is left of the colour, with edges cut", "share")
    return Section("What is left without the main edge?", reading, table, (picture,))


def cut_verdict(table: pd.DataFrame) -> str:
    """Whether the main edge leaves something, and whether the second one takes that."""
    rows = table.set_index("condition")
    main = rows.loc["thing → colour"]
    if main.low <= 0:
        return f"The main edge leaves nothing to speak of: {main['mean']:+.1%}."
    second = rows.loc[["thing → colour, after → colour", "thing → colour, END → after"]]
    left = f"Without the edge thing → colour {main['mean']:.1%} [{main.low:.1%}, {main.high:.1%}]"
    if (second["high"] <= 0).all():
        return (
            f"{left} is left: the right colour is still preferred. Nothing of that remains when "
            "the word after the thing cannot read the colour either, or the end cannot read that "
            "word: the second path goes through the word after the thing."
        )
    return f"{left} is left, and it does not all go through the word after the thing."


def paths_section(search: Search, found: Sequence[Head], reader: Head) -> Section:
    """On which ways the colour leaves the head that reads it."""
    pairs, places, metric = search.pairs, search.positions, search.metric
    sides = (search.model, pairs.clean, pairs.corrupted)
    shares: dict[str, xr.DataArray] = {}
    name = name_of(reader)
    for roles in (("thing",), ("after",), ("thing", "after"), tuple(places)):
        where = "all named positions" if len(roles) > 2 else " and ".join(roles)
        chosen = {role: places[role] for role in roles}
        ds = patching.patch_together(*sides, {name: [reader]}, metric, "noising", chosen)
        shares[f"{name} at {where}"] = as_share(ds).isel(group=0)
    for layer, head in found:
        for place in ("thing", "after") if layer > reader[0] else ():
            ds = path_patching.sweep(
                *sides, receivers=[(layer, head, "v")], senders=[reader], metric=metric,
                direction="noising", positions={place: places[place]},
            )  # fmt: skip
            path = f"{name} → value of {name_of((layer, head))} at {place}"
            shares[path] = as_share(ds).isel(sender=0)
    rows = [
        {"condition": what} | bootstrap_mean(share.values, seed=search.seed)._asdict()
        for what, share in shares.items()
    ]
    table = pd.DataFrame(rows)
    left = table.set_index("condition")["mean"]
    reading = [
        f"The colours exchanged once more (noising, {SHARE}), now only in {name}, the head that "
        "reads the colour: at the thing, at the word after it, and on its way into each later "
        "found head's value.",
        f"At the thing {left[f'{name} at thing']:+.1%}, at the word after it "
        f"{left[f'{name} at after']:+.1%}, at both {left[f'{name} at thing and after']:+.1%}.",
    ]
    second = left[[what for what in left.index if what.endswith(" at after") and "→" in what]]
    if len(second):
        largest = second.idxmin()
        reading.append(f"The largest path past the thing: {largest}, {second[largest]:+.1%}.")
    picture = charts.intervals(table, "Colours exchanged in one place only", SHARE)
    return Section("Which ways does the colour take?", tuple(reading), table, (picture,))
