"""Reading a store against a plain memory map of the same rows."""

import gc
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import GPT2Config

from benchmarks import made_stores
from benchmarks.measure import interleaved
from benchmarks.rows import Row, equal_rows
from benchmarks.sweeps import GPT2_SMALL, Runs
from interp.store.collected import Verify
from interp.store.preparing import DEFAULT_CTX
from interp.store.reader import open as open_store
from interp.store.spec import HookLayout
from interp.store.views import View

N_ROWS = 2**18
"""0.4 GB in float16."""
N_GATHERED, N_GATHERS = 4096, 20
BLOCK, WINDOW = 8192, 8
"""Rows read at once, and blocks held at once when rows are shuffled."""
MEGA = 1e6


def reading(repeats: int, config: GPT2Config = GPT2_SMALL, n_rows: int = N_ROWS) -> Iterator[Row]:
    """Rows of one hook against `np.memmap` of the same rows in one file without anything else."""
    with tempfile.TemporaryDirectory() as folder:
        both = Both(Path(folder), config, n_rows)
        yield from _gathers(both, repeats)
        yield from _scans(both, repeats)
        yield from _epochs(both, repeats)


class Both:
    """The same random rows, in a residual stream's shape, as a store and as a plain file."""

    def __init__(self, folder: Path, config: GPT2Config, n_rows: int) -> None:
        hook = HookLayout("blocks.0.hook_resid_post", ("d_model",), (config.n_embd,), "float16")
        self.hook, self.shape = hook, (n_rows, *hook.feature)
        self.folder, self.plain = folder / "store", folder / "rows.bin"
        store = made_stores.plan(self.folder, hook, n_sequences=n_rows // DEFAULT_CTX)
        made_stores.fill(store, self.plain)
        self.n_bytes = n_rows * hook.row_bytes

    def view(self, verify: Verify = "rows") -> View:
        """Of the store, freshly opened."""
        return open_store(self.folder, verify=verify).view(self.hook.name)

    def memmap(self) -> np.memmap:
        """Of the plain file."""
        return np.memmap(self.plain, np.float16, "r", shape=self.shape)

    def blocks(self) -> Iterator[slice]:
        """All rows, block by block."""
        for start in range(0, self.shape[0], BLOCK):
            yield slice(start, min(start + BLOCK, self.shape[0]))

    def forget(self) -> None:
        """Leave nothing of the files in memory, where the folder is on a disk."""
        gc.collect()  # what is still mapped stays
        for path in (self.plain, *self.folder.rglob("*.safetensors")):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _gathers(both: Both, repeats: int) -> Iterator[Row]:
    """Warm: every row has been read, and by us checked, before."""
    lot = np.random.default_rng(0)
    n_rows = both.shape[0]
    index = [lot.permutation(n_rows)[:N_GATHERED] for _ in range(N_GATHERS)]
    memmap, view, trusting = both.memmap(), both.view(), both.view("none")
    for block in both.blocks():
        view.rows(block)
    runs: Runs = {
        "interp": lambda: [view.rows(chosen) for chosen in index],
        "interp, verify none": lambda: [trusting.rows(chosen) for chosen in index],
        "memmap": lambda: [memmap[chosen] for chosen in index],
        "memmap, np.take": lambda: [np.take(memmap, chosen, axis=0) for chosen in index],
        "interp, first time": lambda: _after_opening(both, index),
    }
    seconds = {name: each / N_GATHERS for name, each in interleaved(runs, repeats).items()}
    what = f"{N_GATHERED} random rows of {n_rows}, warm"
    ratio = seconds["interp"] / seconds["memmap"]
    note = f"first time: opening, and checking what {N_GATHERS} gathers read, shared among them"
    yield Row(what, "s", seconds, ratio, 1 / 0.6, "memmap", note)
    yield equal_rows(what, view.rows(index[0]), torch.from_numpy(memmap[index[0]]))


def _after_opening(both: Both, index: Sequence[np.ndarray]) -> list[Tensor]:
    view = both.view()
    return [view.rows(chosen) for chosen in index]


def _scans(both: Both, repeats: int) -> Iterator[Row]:
    """Cold: all rows in blocks, from opening on."""

    # Into memory that is there on both sides; who only looks at the file has read nothing.
    held = np.empty((BLOCK, *both.shape[1:]), np.float16)

    def read(verify: Verify) -> None:
        view = both.view(verify)
        for block in both.blocks():
            held[: block.stop - block.start] = view.rows(block).numpy()

    def read_memmap() -> None:
        memmap = both.memmap()
        for block in both.blocks():
            held[: block.stop - block.start] = memmap[block]

    runs: Runs = {
        "interp": lambda: read("rows"),
        "interp, verify none": lambda: read("none"),
        "memmap": read_memmap,
    }
    seconds = interleaved(runs, repeats, before=both.forget)
    what = f"all {both.shape[0]} rows in blocks of {BLOCK}, cold"
    ratio = seconds["interp"] / seconds["memmap"]
    yield Row(what, "s", seconds, ratio, 1 / 0.8, "memmap", _from_disk(both, runs))
    view, memmap = both.view(), both.memmap()
    own = torch.cat([view.rows(block) for block in both.blocks()])
    yield equal_rows(what, own, torch.from_numpy(np.array(memmap)))


def _from_disk(both: Both, runs: Runs) -> str:
    """How much a cold run has the disk deliver (Linux)."""
    delivered = {}
    for name, run in runs.items():
        both.forget()
        before = _bytes_from_disk()
        run()
        delivered[name] = (_bytes_from_disk() - before) / MEGA
    megabytes = ", ".join(f"{name} {amount:.0f}" for name, amount in delivered.items())
    return f"MB that came from the disk: {megabytes}; the rows are {both.n_bytes / MEGA:.0f}"


def _bytes_from_disk() -> int:
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["read_bytes"])


def _epochs(both: Both, repeats: int) -> Iterator[Row]:
    """Every row once in batches, from a window of 8 blocks; from opening on."""
    options = {"batch": N_GATHERED, "block_rows": BLOCK, "blocks_in_flight": WINDOW}

    def shuffled() -> list[int]:
        return [len(batch.row) for batch in both.view().shuffled(**options)]

    def plain() -> list[int]:
        return [len(rows) for rows in permuted_blocks(both)]

    runs: Runs = {"interp": shuffled, "memmap": plain}
    for state, before in (("cold", both.forget), ("warm", lambda: None)):
        seconds = interleaved(runs, repeats, before=before)
        what = f"shuffled epoch of {both.shape[0]} rows, {state}"
        ratio = seconds["interp"] / seconds["memmap"]
        note = f"memmap permutes {WINDOW} blocks at a time; ours draws from a moving window"
        yield Row(what, "s", seconds, ratio, 1 / 0.7, "memmap, blocks permuted", note)
    batches = list(both.view().shuffled(**options))
    rows = torch.cat([batch.row for batch in batches])
    own = torch.cat([batch.x for batch in batches])
    yield equal_rows(what, own, torch.from_numpy(both.memmap()[rows.numpy()]))
    once = int((torch.bincount(rows, minlength=both.shape[0]) != 1).sum())
    yield Row(f"{what}: every row once", "rows", {"not once": once}, once, 0, "all rows")


def permuted_blocks(both: Both) -> Iterator[Tensor]:
    """Batches as a short script would make them: fill a window with blocks, permute, hand out."""
    lot, memmap, blocks = np.random.default_rng(0), both.memmap(), list(both.blocks())
    order = lot.permutation(len(blocks))
    for first in range(0, len(blocks), WINDOW):
        held = np.concatenate([memmap[blocks[at]] for at in order[first : first + WINDOW]])
        permutation = lot.permutation(len(held))
        for start in range(0, len(held), N_GATHERED):
            yield torch.from_numpy(held[permutation[start : start + N_GATHERED]])


GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {"store_reading": reading}
