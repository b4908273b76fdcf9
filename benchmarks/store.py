"""Collecting against the model alone and other ways to cache, and what a million tokens cost."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config

from benchmarks import candidates, made_stores
from benchmarks.measure import interleaved
from benchmarks.rows import Row, equal_rows
from benchmarks.saelens import SAELens
from benchmarks.sweeps import GPT2_SMALL, Runs
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import select_names
from interp.store.durable import LocalFiles
from interp.store.planned import PlannedStore
from interp.store.preflight import PROBE_BYTES, seconds_to_write
from interp.store.preparing import BATCH_TOKENS, DEFAULT_CTX
from interp.store.reader import open as open_store
from interp.store.recording import Batch, batches, record_rows, row_layout
from interp.store.shard_layout import shard_bytes
from interp.store.spec import DTYPES, HookLayout
from interp.store.workers import pull
from interp.store.writer import run_units

N_BATCHES = 2
"""Of 4096 tokens, which are collected in one timing."""
COST_SEQUENCES = 4
"""Run to measure the seconds of a choice of hooks."""
CHOICES = {
    "one residual": ["blocks.{layer}.hook_resid_post"],
    "residuals of all layers": ["blocks.*.hook_resid_post"],
    "q, k, v, z of a layer": [f"blocks.{{layer}}.attn.hook_{part}" for part in "qkvz"],
    "MLP neurons of a layer": ["blocks.{layer}.mlp.hook_post"],
    "patterns of all layers": ["blocks.*.attn.hook_pattern"],
}
MILLION, GIGA = 10**6, 1e9


@torch.no_grad()
def collecting(repeats: int, config: GPT2Config = GPT2_SMALL) -> Iterator[Row]:
    """Batches of 4096 tokens, the residual stream of a middle layer.

    Ours flushes its files to disk and keeps checksums and moments; the others do none of it.
    """
    layer, ctx = config.n_layer // 2, min(DEFAULT_CTX, config.n_positions)
    model, bridge = candidates.ours(config), candidates.transformer_lens(config)
    hook = row_layout(f"blocks.{layer}.hook_resid_post", model.cfg, ctx, "float16")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        n_sequences = N_BATCHES * BATCH_TOKENS // ctx
        planned = made_stores.plan(folder / "planned", hook, n_sequences=n_sequences, ctx=ctx)
        tokens = [batch.tokens for batch in batches(planned.tokens(0), BATCH_TOKENS)]
        runs: Runs = {
            "interp": lambda: _collect(model, folder / "planned", folder / "store"),
            "forward alone": lambda: [model(x, None, stop_at_layer=layer + 1) for x in tokens],
            "torch.save, our cache": lambda: _save(model, tokens, hook.name, folder / "ours"),
            "torch.save, TransformerLens' cache": lambda: _save(
                bridge, tokens, hook.name, folder / "theirs"
            ),
        }
        with SAELens(config, hook.name, tokens, folder / "saelens") as saelens:
            seconds = interleaved(runs | saelens.runs, repeats)
        what = f"collecting {hook.name}, {n_sequences * ctx} tokens"
        ratio = seconds["interp"] / seconds["forward alone"]
        yield Row(what, "s", seconds, ratio, 1 / 0.9, "forward alone", saelens.note)
        for name in ("torch.save, TransformerLens' cache", "SAELens"):
            if name in seconds:
                yield Row(what, "s", {}, seconds["interp"] / seconds[name], 1.0, name)
        stored = open_store(folder / "store").view(hook.name).slice(0, n_sequences * ctx)
        saved = [
            torch.load(folder / "ours" / f"{at}.pt", weights_only=True) for at in range(N_BATCHES)
        ]
        yield equal_rows(what, stored, torch.cat(saved).flatten(0, 1))


def _collect(model: HookedGPT2, planned: Path, into: Path) -> None:
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(planned, into)
    store = PlannedStore.read(LocalFiles(into))
    run_units(pull(store), store, model)


def _save(model, tokens: Sequence[Tensor], name: str, folder: Path) -> None:
    """What people write: a file for each batch."""
    folder.mkdir(exist_ok=True)
    stop = int(name.split(".")[1]) + 1
    for number, batch in enumerate(tokens):
        _, cache = model.run_with_cache(batch, names_filter=name, stop_at_layer=stop)
        torch.save(cache[name].half(), folder / f"{number}.pt")


@torch.no_grad()
def costs(repeats: int, config: GPT2Config = GPT2_SMALL) -> Iterator[Row]:
    """Gigabytes and seconds per million tokens, from exact sizes and this machine's speed."""
    model, ctx = candidates.ours(config), min(DEFAULT_CTX, config.n_positions)
    layouts = {
        what: [
            row_layout(name, model.cfg, ctx, "float16")
            for pattern in patterns
            for name in select_names(pattern.format(layer=config.n_layer // 2), config.n_layer)
        ]
        for what, patterns in CHOICES.items()
    }
    n_bytes = {what: _bytes_per_million(hooks, ctx) for what, hooks in layouts.items()}
    of_values = {
        what: MILLION * sum(hook.row_bytes for hook in hooks) for what, hooks in layouts.items()
    }
    largest = max(n_bytes[what] / of_values[what] for what in layouts)
    of_all = f"a million tokens, float16, sequences of {ctx}"
    gigabytes = {what: size / GIGA for what, size in n_bytes.items()}
    yield Row(f"{of_all}: size", "GB", gigabytes, largest, 1.01, "the values alone (worst)")

    tokens = candidates.tokens(COST_SEQUENCES, ctx) % config.vocab_size
    batch = Batch(tokens, torch.ones_like(tokens, dtype=torch.bool), tokens.numel())
    runs: Runs = {
        what: lambda hooks=hooks: record_rows(model, batch, hooks)
        for what, hooks in layouts.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        files = LocalFiles(Path(folder))
        runs["disk"] = lambda: seconds_to_write(files, PROBE_BYTES)
        seconds = interleaved(runs, repeats)
    per_byte = seconds.pop("disk") / PROBE_BYTES
    of_model = {what: each * MILLION / batch.n_tokens for what, each in seconds.items()}
    of_disk = {what: size * per_byte for what, size in n_bytes.items()}
    together = {what: max(of_model[what], of_disk[what]) for what in layouts}
    slowest = max(together[what] / of_model[what] for what in layouts)
    note = f"durable writes {1 / per_byte / GIGA:.2g} GB/s; of the disk: " + ", ".join(
        f"{what} {each:.3g}" for what, each in of_disk.items()
    )
    yield Row(f"{of_all}: time", "s", together, slowest, 1 / 0.9, "the model alone (worst)", note)


def _bytes_per_million(hooks: Sequence[HookLayout], ctx: int) -> float:
    """Of the shards, from those of one whole unit."""
    n_rows = made_stores.unit_tokens(hooks, ctx)
    of_unit = sum(shard_bytes(hook.feature, DTYPES[hook.dtype], n_rows) for hook in hooks)
    return of_unit * MILLION / n_rows


GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {
    "store_collecting": collecting,
    "store_costs": costs,
}
