"""Which features does a sparse autoencoder find, and does the model use them?

Trained on what the second layer's attention writes, where the embedded model moves a colour to its
thing (`interp run colour_binding`), on texts of its own language. That place was chosen after a
look at two: in the residual stream behind the same layer (`--hook blocks.1.hook_resid_post`)
features find colours no better than random directions do.

Expectation: eight features at a time keep nearly all of the loss; most features stand for one word;
some for a colour at any word, which hardly any coordinate and random direction does; without the
feature of a thing's colour the answer suffers.

Method: activations are collected into a store, without first tokens; a TopK autoencoder (Gao et
al. 2024, arXiv:2406.04093) is trained on shuffled rows; a tenth of the texts is for testing and
another for choosing features. The loss with the rebuilt activation in its place is set between the
intact loss and the loss with the mean, or nothing, in its place. Features are judged by their
strongest rows and by average precision, beside coordinates and random directions.
"""

from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Annotated

import altair as alt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from typer import Option

import interp
from analyses import _sae_features as judging
from analyses._sae_rows import Rows, as_batch, read_rows
from analyses._stored import collected, is_store
from interp import charts, sparse_autoencoder, splicing
from interp.errors import PromptError, StoreError
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import model_hash
from interp.progress import Progress, no_progress
from interp.report import Report, Section
from interp.sparse_autoencoder import SparseAutoencoder
from interp.statistics import bootstrap_mean
from interp.store.reader import ActivationStore
from interp.store.views import View
from interp.tiny.language import training_documents

HOOK = "blocks.1.hook_attn_out"
BATCH = 1024
LEARNING_RATE = 3e-3
TESTED, PARTS = 400, 10
"""About how many texts are tested, and the smallest number of parts of which one is for testing."""
FEWEST = 50
"""Texts below this leave too few for testing."""
LOSS_TEXTS = 200
USE_PROMPTS = 100
PERCENT = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
"""Where the ranges of the histogram begin."""


def run(
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    store: Annotated[
        Path | None, Option(help="Store to use; made from the model's language if not there.")
    ] = None,
    hook: Annotated[str, Option(help="Activation with one vector for each position.")] = HOOK,
    n_features: Annotated[int, Option(help="Features to learn.")] = 512,
    k: Annotated[int, Option(help="Features that rebuild one activation.")] = 8,
    steps: Annotated[int, Option(help=f"Batches of {BATCH} rows.")] = 1000,
    texts: Annotated[int, Option(help="Texts to generate, without a store.")] = 4000,
    save: Annotated[Path | None, Option(help="File for the autoencoder (safetensors).")] = None,
    seed: Annotated[int, Option(help="Of texts, training, directions and intervals.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """Which features does a sparse autoencoder find, and are they used?"""
    if texts < FEWEST or steps < 1 or not 1 <= k <= n_features:
        raise PromptError(
            f"Use {FEWEST} or more texts, 1 or more steps and k from 1 to n_features; got {texts}, "
            f"{steps} and {k} of {n_features}."
        )
    hooked = interp.load(model)
    documents = None
    if store is None or not is_store(store):
        written = training_documents(f"sparse autoencoder {seed}")
        documents = [document.text for document in islice(written, texts)]
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked), "hook": hook}
    settings |= {"n_features": n_features, "k": k, "steps": steps, "seed": seed}
    about = {name: str(value) for name, value in settings.items()}
    settings |= {"texts": texts if documents else "as stored", "store": str(store or "temporary")}
    with collected(hooked, documents, [hook], store) as activations:
        parts = max(PARTS, activations.n_documents // TESTED)
        train = training_view(activations, hook, parts)
        sae, history = sparse_autoencoder.train(
            shuffled(train, seed), steps, n_features=n_features, k=k,
            learning_rate=LEARNING_RATE, seed=seed, about=about, progress=progress,
        )  # fmt: skip
        test, choice = (
            read_rows(activations, hook, f"sequence % {parts} = {part}") for part in (0, 1)
        )
        mean = train.statistics().mean.float()
    sae.requires_grad_(False)
    if save:
        sae.save(save)
    losses = spliced(hooked, hook, sae, mean, test)
    rebuilt = sparse_autoencoder.reconstruction(sae, test.x.split(BATCH))
    sections = [loss_section(losses, rebuilt, seed), frequency_section(rebuilt, history)]
    kinds, each = judging.purity_tables(judging.readers(sae, test, seed), test)
    sections.append(judging.purity_section(kinds))
    colours = judging.colour_table(sae, choice, test, seed)
    if colours is not None:
        sections.append(judging.examples_section(each, test))
        sections.append(judging.colour_section(colours, seed))
        uses = judging.use_table(hooked, sae, hook, colours, USE_PROMPTS, seed)
        sections += [] if uses is None else [judging.use_section(uses)]
    question = f"{hook} as {k} of {n_features} features; {len(train):,} rows to learn from"
    title = "Which features does a sparse autoencoder find?"
    return Report(title, question, tuple(sections), settings)


def training_view(activations: ActivationStore, hook: str, parts: int) -> View:
    """The rows to learn from: all texts but two parts, without first tokens.

    Raises:
        StoreError: the hook has no single vector for each position.
    """
    view = activations.view(hook, where=f"not first and sequence % {parts} > 1")
    if len(view.feature) != 1:
        raise StoreError(
            f"{hook} has {list(view.feature)} numbers at a position; an autoencoder needs one "
            f"vector, such as {HOOK} or a residual stream."
        )
    return view


def shuffled(view: View, seed: int) -> Iterator[Float[Tensor, "row d_in"]]:
    """Random batches, epoch after epoch."""
    for epoch in count():
        for batch in view.shuffled(batch=BATCH, seed=seed, epoch=epoch):
            assert isinstance(batch.x, Tensor)
            yield batch.x


def spliced(
    model: HookedGPT2, hook: str, sae: SparseAutoencoder, mean: Float[Tensor, " d_in"], rows: Rows
) -> xr.DataArray:
    """The model's loss on whole texts, intact and with something in the activation's place."""
    batch = as_batch(rows, LOSS_TEXTS)
    first = torch.zeros_like(batch.attention_mask)
    first[:, 0] = True
    replacements = {"rebuilt": sae, "mean": mean.expand_as, "zero": torch.zeros_like}
    return splicing.spliced_losses(model, batch, hook, replacements, keep=first)


def loss_section(losses: xr.DataArray, rebuilt: xr.Dataset, seed: int) -> Section:
    """Whether the model still predicts."""
    rows = []
    for condition in losses["condition"].values.tolist():
        values = losses.sel(condition=condition)
        added = bootstrap_mean((values - losses.sel(condition="clean")).values, seed=seed)
        own = bootstrap_mean(values.values, seed=seed)
        rows.append(
            {"condition": condition} | own._asdict()
            | {"added": added.mean, "added low": added.low, "added high": added.high}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    reading = (
        f"Next-token loss in nats on {losses.sizes['example']} texts that had no part in training, "
        "with 95 % intervals over texts: intact, with the rebuilt activation in its place, with "
        "its mean, with nothing. First tokens stay as they are.",
        f"Loss recovered: {recovered(losses, 'mean', seed)} against the mean, "
        f"{recovered(losses, 'zero', seed)} against nothing (1 loses nothing). The mean is the "
        "stricter measure: it already keeps what all activations share.",
        f"On test rows {float(rebuilt.explained_variance):.1%} of the variance is explained by "
        f"{float(rebuilt.l0):.1f} features a row. What a model needs can be in the part that is "
        "not explained; that is why the loss is measured.",
    )
    picture = charts.intervals(table, "Loss by what is in the activation's place", "nats per token")
    return Section("Does it keep what the model needs?", reading, table, (picture,))


def recovered(losses: xr.DataArray, ablation: str, seed: int) -> str:
    """The loss recovered with its interval, or that there is none to recover."""
    try:
        return str(splicing.loss_recovered(losses, "rebuilt", ablation=ablation, seed=seed))
    except PromptError:
        return "not defined (that costs nothing here)"


def frequency_section(rebuilt: xr.Dataset, history: xr.Dataset) -> Section:
    """How often features fire."""
    frequency = rebuilt.frequency.values
    fires = frequency > 0
    counts, _ = np.histogram(100 * frequency[fires], bins=[0.0, *PERCENT, 100.0])
    ranges = ["less", *(f"{low:g} %" for low in PERCENT)]
    table = pd.DataFrame({"from": ["never", *ranges], "features": [int((~fires).sum()), *counts]})
    reading = (
        f"On what share of the {rebuilt.attrs['n_rows']:,} test rows a feature fires: from the "
        "number given up to the next.",
        f"{int((~fires).sum())} of {len(frequency)} features never fire here; at the end of "
        f"training {int(history.n_dead[-1])} were dead. The median of the others fires on "
        f"{np.median(frequency[fires]):.2%} of the rows, the commonest on {frequency.max():.1%}.",
    )
    picture = charts.bars(table, "from", "features", "How often features fire")
    picture = picture.properties(width=alt.Step(44))
    return Section("How often do features fire?", reading, table, (picture,))
