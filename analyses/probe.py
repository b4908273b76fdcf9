"""Where can a linear probe read a thing's colour, and does the model use what is read there?

Two things with a colour each, then a question: "... The bike is" → green. A linear probe is trained
to name the asked thing's colour from the residual stream, at named places and at every depth.

Expectation, from what patching finds (`interp run patching`): the colour can be read at its own
word, at the thing once a head has brought it there (before layer 2), and where the prompt ends
after layer 3; nowhere before its word, not at the other thing, and hardly where patching finds
nothing.

Method: the activations are collected into a store and read from it by place. Colours and things are
drawn independently, so that a thing by itself tells nothing. Softmax regression, trained and tested
on different documents; intervals over test documents. Control task (Hewitt and Liang 2019,
arXiv:1909.03368): a random colour for each combination of colour and thing. (They draw one for each
word; at a fixed place there are few words, and at the end a single one.) Then activation patching
of the same places, and of what the probe reads alone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from typer import Option

import interp
from analyses import _probed_directions as directions
from analyses._probed_directions import PLACE
from analyses._probed_sentences import Sentences, at_places, depths, draw_sentences
from analyses._stored import collected
from interp import charts, patching, probes, statistics
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import model_hash
from interp.progress import Progress, no_progress
from interp.prompts import PromptPairs
from interp.report import Report, Section

FEWEST = 100
"""Prompts below this leave too few of each colour."""
N_PATCHED = 100
"""Prompts that are patched, all of them from the probes' test documents."""
READABLE = 0.5
"""A colour counts as readable where the interval of the accuracy is above this."""
MOVES = 0.1
"""A place counts as used where patching it moves at least this share of the logit difference."""


def run(
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    store: Annotated[
        Path | None, Option(help="Folder of the activations, kept and used again.")
    ] = None,
    n: Annotated[int, Option(help="Number of prompts.")] = 800,
    penalty: Annotated[float, Option(help="Of the probes' squared weights.")] = 1.0,
    seed: Annotated[int, Option(help="Of prompts, split, controls and intervals.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """Where can a linear probe read a colour, and does the model use it there?"""
    if n < FEWEST or penalty <= 0:
        raise PromptError(
            f"Use {FEWEST} or more prompts and a positive penalty; got {n} and {penalty}."
        )
    hooked = interp.load(model)
    sentences = draw_sentences(hooked, n, seed)
    hooks = depths(hooked)
    with collected(hooked, sentences.pairs.clean, list(hooks.values()), store) as activations:
        features = at_places(activations, sentences, hooks)
    options = {"penalty": penalty, "seed": seed}
    cells = {}
    for cell in progress(list(features), "Training probes"):
        cells[cell] = probes.evaluate(
            features[cell], sentences.labels, sentences.types, range(n), **options
        )
    test = torch.nonzero(probes.in_test(range(n), seed=seed)).flatten()[:N_PATCHED]
    tested = sentences.chosen(test)
    table = reading_table(cells, seed)
    sections = [reading_section(table, sentences)]
    behaviour = statistics.bootstrap_mean(behaves(hooked, tested.pairs), seed=seed)
    if behaviour.low > 0:
        table["moved"] = patched_share(hooked, tested).stack(cell=("depth", "place")).values
        depth = str(table.loc[table.loc[table.place == PLACE, "moved"].idxmax(), "depth"])
        x = features[depth, PLACE]
        strengths = directions.strength_table(x, sentences, **options)
        exchanges = directions.exchange_table(hooked, sentences, x, hooks[depth], test, **options)
        sections += [
            use_section(table),
            directions.strength_section(strengths, depth),
            directions.exchange_section(exchanges, depth),
        ]
    else:
        sections.append(no_use_section(behaviour))
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked), "n": n}
    settings |= {"penalty": penalty, "seed": seed, "store": str(store) if store else "temporary"}
    question = f"{sentences.pairs.clean[0]} →{sentences.pairs.answers[0]}"
    return Report("Where can a probe read the colour?", question, tuple(sections), settings)


def behaves(model: HookedGPT2, pairs: PromptPairs) -> Float[np.ndarray, " example"]:
    """logit(answer) - logit(the other thing's colour) where the prompts end."""
    with torch.no_grad():
        logits = model(model.to_batch(pairs.clean), positions="last")
    return pairs.metric(model)(logits).numpy(force=True)


def patched_share(model: HookedGPT2, sentences: Sentences) -> xr.DataArray:
    """Share of the logit difference that the clean stream at each depth and place restores."""
    pairs, places = sentences.pairs, sentences.places
    shares = []
    for site in ("resid_pre", "resid_post"):
        ds = patching.sweep(
            model, pairs.clean, pairs.corrupted, site, pairs.metric(model), positions=places
        )
        share = statistics.pooled_recovered_fraction(ds).reset_coords(drop=True)
        shares.append(share.isel(layer=[-1]) if site == "resid_post" else share)
    moved = xr.concat(shares, dim="layer")
    return moved.assign_coords(layer=list(depths(model))).rename(layer="depth", pos="place")


def reading_table(cells: Mapping[tuple[str, str], xr.Dataset], seed: int) -> pd.DataFrame:
    """Accuracies for each depth and place."""
    rows = []
    for (depth, place), ds in cells.items():
        interval = statistics.bootstrap_mean(ds.accuracy.values, seed=seed)
        rows.append(
            {"depth": depth, "place": place, "accuracy": interval.mean}
            | {"low": interval.low, "high": interval.high}
            | {name: float(ds[name].mean()) for name in ("control", "selectivity", "majority")}
        )
    return pd.DataFrame(rows)


def reading_section(table: pd.DataFrame, sentences: Sentences) -> Section:
    """Where a probe succeeds, beside the control."""
    best = table.loc[table["selectivity"].idxmax()]
    chance = table.loc[table.place == "before"]
    reading = (
        f"{len(sentences.labels)} prompts of two coloured things; the probe names the colour of "
        f"the one asked about, one of {len(set(sentences.labels))}. Rows: the stream before each "
        "layer, and at the end of the last. Places: the word before the colour, the colour, "
        "the token after it, its thing, the other thing, the thing in the question, and the "
        "prompt's last token.",
        "Accuracy is the share of test documents named right, with a 95 % interval; the most "
        f"frequent colour alone gives {table.majority.mean():.2f}. The control has a random colour "
        "for each combination of colour and thing: what the same probe can learn by heart. "
        "Selectivity is accuracy minus control.",
        f"Most selective at {best.place}, {best.depth}: accuracy {best.accuracy:.2f} "
        f"[{best.low:.2f}, {best.high:.2f}], control {best.control:.2f}. Before the colour is "
        f"named no probe can succeed, and the best one there has {chance.accuracy.max():.2f}.",
    )
    pictures = (
        charts.cell_map(table, "place", "depth", "accuracy", "Accuracy of the probe"),
        charts.cell_map(table, "place", "depth", "control", "Control: random colours"),
    )
    return Section("Where can the colour be read?", reading, table, pictures)


def use_section(table: pd.DataFrame) -> Section:
    """Readable and used are not the same."""
    readable, used = table.low > READABLE, table.moved > MOVES
    compared = table.assign(
        verdict=np.select(
            [readable & used, readable & ~used, ~readable & used],
            ["readable, used", "readable, not used", "used, not readable"],
            "neither",
        )
    )[["depth", "place", "accuracy", "moved", "verdict"]]
    unused = compared[readable & ~used]
    named = ", ".join(f"{row.place} at {row.depth}" for row in unused.itertuples())
    claim = (
        f"{len(unused)} of {int(readable.sum())} readable places are not used: {named}. That is "
        "not what patching led to expect, and there a probe alone would mislead: the colour is "
        "present, carried along or left over, and the answer does not come from there."
        if len(unused)
        else "Every readable place is also used, as expected: here the probe does not mislead."
    )
    unread = compared[~readable & used]
    reading = (
        "A probe shows that information is there; patching shows whether the model needs it there. "
        "Right: the share of the logit difference that is restored when the stream at this place "
        "alone comes from the sentence with the right colour (denoising: clean into corrupted, the "
        "two colours exchanged). Prompts of the test documents only.",
        claim,
        "Places that are used though this probe cannot read them: "
        + (", ".join(f"{row.place} at {row.depth}" for row in unread.itertuples()) or "none")
        + f". (Readable: interval above {READABLE}; used: more than {MOVES:.0%} moved.)",
    )
    pictures = (
        charts.cell_map(compared, "place", "depth", "accuracy", "Readable: accuracy of the probe"),
        charts.cell_map(compared, "place", "depth", "moved", "Used: share moved by patching"),
    )
    order = compared.sort_values(["verdict", "moved"], ascending=False, kind="stable")
    n_shown = max(1, int((compared["verdict"] != "neither").sum()))
    return Section("Readable, but is it used?", reading, order, pictures, n_shown)


def no_use_section(behaviour: statistics.Interval) -> Section:
    """Why nothing is patched."""
    reading = (
        f"Nothing is patched: the model does not prefer the right colour to the other thing's "
        f"(logit difference {behaviour}). What a probe reads here, this model does not use to "
        "answer.",
    )
    return Section("Readable, but is it used?", reading)
