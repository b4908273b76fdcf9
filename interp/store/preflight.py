"""What collecting will cost, before it begins: bytes to the last one, rows, and measured time."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from interp.errors import ResourceError
from interp.model.gpt2 import HookedGPT2
from interp.store.commits import committed
from interp.store.files import StoreFiles
from interp.store.naming import UNPUBLISHED, new_attempt
from interp.store.planned import PlannedStore
from interp.store.recording import Batch, batches, record_rows
from interp.store.shard_layout import shard_bytes
from interp.store.spec import DTYPES, HookLayout

WARM_UP_BATCHES = 2
"""Batches of the first unit that are run to measure time and range."""
HEADROOM = 8
"""float16 is chosen only if it holds this many times the largest value of the warm-up."""
PROBE_BYTES = 32 * 2**20
"""Written and flushed once to measure the disk."""


@dataclass(frozen=True)
class WarmUp:
    """What a few batches of the first unit showed."""

    absmax: dict[str, float]
    """Largest absolute value of each hook."""
    seconds_per_token: float


@dataclass(frozen=True)
class Preflight:
    """What is about to be collected."""

    hooks: tuple[HookLayout, ...]
    n_documents: int
    n_tokens: int
    n_rows: int
    n_units: int
    n_bytes: int
    """Bytes of all shards, those that are committed already included."""
    n_bytes_left: int
    """Bytes still to be written."""
    free_bytes: int | None
    seconds_of_model: float
    """For what is left, on one worker."""
    seconds_of_disk: float
    """For what is left."""

    @property
    def seconds(self) -> float:
        """Expected time: model and disk work side by side."""
        return max(self.seconds_of_model, self.seconds_of_disk)

    @property
    def large_hooks(self) -> list[str]:
        """Hooks of which one token takes more than 64 KiB: patterns, above all."""
        return [hook.name for hook in self.hooks if hook.row_bytes > 2**16]

    def check_space(self) -> None:
        """Refuse what the disk cannot hold.

        Raises:
            ResourceError: with both numbers.
        """
        if self.free_bytes is not None and self.n_bytes_left > self.free_bytes:
            raise ResourceError(
                f"The store needs {self.n_bytes_left:,} bytes more, and the disk has "
                f"{self.free_bytes:,} free. Choose fewer hooks, a smaller --max-tokens, "
                "--subsample or --dtype fp16, or another disk."
            )


def warm_up(model: HookedGPT2, some: Sequence[Batch], layouts: Sequence[HookLayout]) -> WarmUp:
    """Run batches: the range of every hook, and the time of a token once the machine is warm."""
    absmax = {layout.name: 0.0 for layout in layouts}
    for batch in some:
        for name, rows in record_rows(model, batch, layouts).items():
            absmax[name] = max(absmax[name], rows.abs().amax().item() if len(rows) else 0.0)
    started = time.perf_counter()
    for batch in some:
        record_rows(model, batch, layouts)
    seconds = time.perf_counter() - started
    return WarmUp(absmax, seconds / sum(batch.n_tokens for batch in some))


def warm_up_batches(store: PlannedStore) -> list[Batch]:
    """The shortest and the longest sequences of the first unit."""
    first_unit = list(batches(store.tokens(0), store.spec.batch_tokens))
    return first_unit[: WARM_UP_BATCHES - 1] + first_unit[-1:]


def automatic_dtype(absmax: float) -> str:
    """float16, which is finer, where it has headroom; else bfloat16, which has float32's range."""
    return "float16" if absmax * HEADROOM <= torch.finfo(torch.float16).max else "bfloat16"


def preflight(store: PlannedStore, seconds_per_token: float) -> Preflight:
    """What collecting everything that is planned and not committed will take."""
    left = set(store.work) - committed(store.files)
    units = store.plan.units
    hooks = {name: group.hooks for name, group in store.groups.items()}
    n_bytes = {
        (unit, name): sum(
            shard_bytes(hook.feature, DTYPES[hook.dtype], units[unit].n_rows)
            for hook in hooks[name]
        )
        for unit, name in store.work
    }
    n_bytes_left = sum(n_bytes[work] for work in left)
    return Preflight(
        hooks=tuple(hook for each in hooks.values() for hook in each),
        n_documents=store.record.plan.n_documents,
        n_tokens=store.record.plan.n_tokens,
        n_rows=store.record.plan.n_rows,
        n_units=len(units),
        n_bytes=sum(n_bytes.values()),
        n_bytes_left=n_bytes_left,
        free_bytes=store.files.free_bytes(),
        seconds_of_model=sum(units[unit].n_tokens for unit, _ in left) * seconds_per_token,
        seconds_of_disk=seconds_to_write(store.files, n_bytes_left),
    )


def seconds_to_write(files: StoreFiles, n_bytes: int) -> float:
    """Expected from one durable write of at most `PROBE_BYTES`."""
    n_probe = min(PROBE_BYTES, n_bytes)
    if not n_probe:
        return 0.0
    started = time.perf_counter()
    probe = files.begin(f"{UNPUBLISHED}/probe-{new_attempt()}")
    probe.write(bytes(n_probe))
    files.remove(probe.publish().path)
    return (time.perf_counter() - started) * n_bytes / n_probe
