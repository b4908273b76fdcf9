"""Stores to measure: planned over random letters, and filled with random numbers by hand."""

import random
import string
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import torch

from benchmarks import candidates
from interp.store.commits import Commit, HookCommit, write_commit
from interp.store.durable import LocalFiles
from interp.store.moments import Moments
from interp.store.naming import new_attempt, shard_path
from interp.store.plan import PlannedUnit, write_plan, write_vocabulary
from interp.store.planned import PlannedStore
from interp.store.preparing import BATCH_TOKENS, DEFAULT_CTX, MAX_UNIT_TOKENS, SHARD_BYTES
from interp.store.shards import ShardWriter
from interp.store.spec import DTYPES, Group, HookLayout, Spec, StoreRecord, write_group, write_store

PIECE_ROWS = 8192
D_VOCAB = 257
"""Ids of single bytes and the end of text."""


def plan(path: Path, hook: HookLayout, *, n_sequences: int, ctx: int = DEFAULT_CTX) -> PlannedStore:
    """A store without any unit; its units are as large as `interp.store.collect` makes them.

    Args:
        n_sequences: How many documents, each of `ctx` tokens with its BOS.
    """
    files, choice = LocalFiles(path), random.Random(0)
    texts = ["".join(choice.choices(string.ascii_letters, k=ctx - 1)) for _ in range(n_sequences)]
    settings = {
        "ctx": ctx,
        "packing": "documents",
        "prepend_bos": True,
        "positions": "all",
        "subsample": "",
        "seed": 0,
        "max_tokens": None,
        "unit_tokens": unit_tokens([hook], ctx),
    }
    tokenizer = candidates.tokenizer(D_VOCAB)
    planned = write_plan(files, texts, tokenizer, **settings)
    spec = Spec(
        model="random",
        model_hash="0",
        tokenizer_hash="0",
        texts=planned.fingerprint,
        batch_tokens=BATCH_TOKENS,
        compute_dtype="float32",
        versions={},
        **settings,
    )
    write_store(files, StoreRecord(spec, planned, write_vocabulary(files, tokenizer)))
    write_group(files, Group((hook,)))
    return PlannedStore.read(files)


def unit_tokens(hooks: Sequence[HookLayout], ctx: int = DEFAULT_CTX) -> int:
    """Tokens of a unit as `interp.store.collect` chooses them."""
    largest = max(hook.row_bytes for hook in hooks)
    return min(MAX_UNIT_TOKENS, max(ctx, SHARD_BYTES // largest))


def fill(store: PlannedStore, plain: Path) -> None:
    """Commit random numbers to all units of a store of one hook.

    Args:
        plain: File that gets the same rows, and nothing else.
    """
    generator = torch.Generator().manual_seed(0)
    with plain.open("wb") as copy:
        for unit in store.plan.units:
            _fill_unit(store, unit, generator, copy)


def _fill_unit(
    store: PlannedStore, unit: PlannedUnit, generator: torch.Generator, copy: BinaryIO
) -> None:
    ((group, hooks),) = store.groups.items()
    (hook,) = hooks.hooks
    attempt, moments = new_attempt(), Moments(hook.feature)
    writer = ShardWriter(
        store.files.begin(shard_path(hook.name, unit.unit, attempt)),
        hook=hook.name,
        unit=unit.unit,
        n_rows=unit.n_rows,
        feature=hook.feature,
        dtype=DTYPES[hook.dtype],
        metadata={},
    )
    for start in range(0, unit.n_rows, PIECE_ROWS):
        n_rows = min(PIECE_ROWS, unit.n_rows - start)
        x = torch.randn((n_rows, *hook.feature), generator=generator)
        moments.add(x)
        stored = x.to(DTYPES[hook.dtype])
        writer.append(stored)
        copy.write(stored.numpy().tobytes())
    commit = Commit(
        spec_sha=store.spec.sha,
        unit=unit.unit,
        group=group,
        n_rows=unit.n_rows,
        tokens_xxh3=unit.tokens_xxh3,
        hooks={hook.name: HookCommit.of(writer.finish(moments), moments, 0.0)},
        attempt=attempt,
        seconds={},
    )
    write_commit(store.files, commit)
