"""One small unit of a store: tokens, two hooks, a commit; and what a reader makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from interp.store.commits import Commit, HookCommit, read_commit, withdraw, write_commit
from interp.store.durable import LocalFiles
from interp.store.moments import Moments
from interp.store.naming import new_attempt, shard_path, tokens_path
from interp.store.records import FileRecord
from interp.store.shard_layout import ShardRecord
from interp.store.shards import Shard, ShardWriter, Verify

GROUP = "89abcdef"
SPEC = "0" * 32
TOKENS = bytes(range(256)) * 10
BATCH = 40


@dataclass(frozen=True)
class Hook:
    """Values of a hook, computed anew whenever they are needed."""

    name: str
    feature: tuple[int, ...]
    dtype: torch.dtype

    def values(self, unit: int, n_rows: int) -> Tensor:
        seed = unit * 100 + len(self.name)
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(n_rows, *self.feature, generator=generator)

    def bits(self, unit: int, n_rows: int) -> np.ndarray:
        return as_bits(self.values(unit, n_rows).to(self.dtype))


HOOKS = (
    Hook("blocks.0.hook_resid_post", (24,), torch.float16),
    Hook("blocks.1.attn.hook_z", (4, 6), torch.bfloat16),
)
N_ROWS = 100


def as_bits(x: Tensor) -> np.ndarray:
    """What `Shard` returns for a tensor."""
    return x.numpy() if x.dtype == torch.float32 else x.view(torch.uint16).numpy()


def write_shard(
    files: LocalFiles, hook: Hook, values: Tensor, *, unit: int = 0, attempt: str | None = None
) -> tuple[ShardRecord, Moments]:
    path = shard_path(hook.name, unit, attempt or new_attempt())
    moments = Moments(hook.feature)
    writer = ShardWriter(
        files.begin(path),
        hook=hook.name,
        unit=unit,
        n_rows=len(values),
        feature=hook.feature,
        dtype=hook.dtype,
        metadata={"group": GROUP, "spec_sha": SPEC},
    )
    try:
        for batch in values.split(BATCH):
            moments.add(batch)
            writer.append(batch.to(hook.dtype))
        return writer.finish(moments), moments
    finally:
        writer.discard()


def write_tokens(files: LocalFiles, unit: int, attempt: str) -> FileRecord:
    pending = files.begin(tokens_path(unit, attempt))
    pending.write(TOKENS)
    return pending.publish()


def write_unit(
    files: LocalFiles, unit: int = 0, *, n_rows: int = N_ROWS, hooks: tuple[Hook, ...] = HOOKS
) -> bool:
    """Write a unit as the writer does, in a new attempt; False if it was committed already."""
    attempt = new_attempt()
    tokens = write_tokens(files, unit, attempt)
    commit = Commit(SPEC, unit, GROUP, n_rows, tokens.xxh3, {}, attempt, {"model": 0.0})
    is_ours = False
    try:
        for hook in hooks:
            values = hook.values(unit, n_rows)
            shard, moments = write_shard(files, hook, values, unit=unit, attempt=attempt)
            commit.hooks[hook.name] = HookCommit.of(shard, moments, 0.0)
        is_ours = write_commit(files, commit)
    finally:
        if not is_ours:
            withdraw(files, commit)
    return is_ours


def shard_paths(files: LocalFiles, unit: int = 0) -> list[str]:
    """The shards of a committed unit."""
    commit = read_commit(files, unit, GROUP)
    assert commit is not None
    return [hook.shard.path for hook in commit.hooks.values()]


def open_shards(
    files: LocalFiles, unit: int = 0, *, verify: Verify = "rows"
) -> Mapping[str, Shard]:
    commit = read_commit(files, unit, GROUP)
    assert commit is not None
    return {
        name: Shard(files.local(hook.shard.path), hook.shard, verify=verify)
        for name, hook in commit.hooks.items()
    }


def check_unit(files: LocalFiles, unit: int = 0, *, n_rows: int = N_ROWS) -> None:
    """Every row of a committed unit is what it should be, by each way of reading."""
    shards = open_shards(files, unit)
    assert set(shards) == {hook.name for hook in HOOKS}
    for hook in HOOKS:
        shard = shards[hook.name]
        shard.verify()
        assert np.array_equal(shard.rows(np.arange(n_rows)), hook.bits(unit, n_rows))
