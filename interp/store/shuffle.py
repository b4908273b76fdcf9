"""Every row once, in an order that is close to random, at the speed of reading in sequence.

A disk reads single rows forty times slower than runs of them. So blocks of neighbours are read in
random order into a window in memory, and batches are drawn from the window (`interp.store.order`).
To go on with a stopped epoch its order is replayed, which needs no reading.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from math import ceil
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
import xxhash
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from interp.errors import StoreError
from interp.store.index import Labels, Rows
from interp.store.order import Numbers, Order, deal, meeting_probability


class Batch(NamedTuple):
    """Rows in random order."""

    x: Tensor | dict[str, Tensor]
    """Activations `[batch, *feature]` as they are stored; of aligned views a tensor per hook."""
    row: Int[Tensor, " batch"]
    """Number of each row in the whole store."""
    token_id: Int[Tensor, " batch"]
    document: Int[Tensor, " batch"]


READ_AHEAD = 2
"""Blocks that are read while earlier ones are drawn from."""
RESTORED_ROWS = 8192
"""Rows that are read at once to go on with a stopped epoch."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class Source(Protocol):
    """What rows are shuffled from."""

    @property
    def row_set(self) -> Rows:
        """Which rows there are."""
        ...

    def empty(self, n_rows: int) -> list[np.ndarray]:
        """Room for the stored numbers of rows, an array per hook."""
        ...

    def stored(self, index: Numbers) -> list[np.ndarray]:
        """The stored numbers of ascending rows, an array per hook; perhaps a view of the file."""
        ...

    def labels(self, index: Numbers) -> Labels:
        """`row`, `token_id` and `document` of ascending rows."""
        ...

    def tensors(self, values: Sequence[np.ndarray]) -> Tensor | dict[str, Tensor]:
        """Stored numbers, an array per hook, as `Batch.x`."""
        ...


@dataclass(frozen=True)
class Settings:
    """What decides the order. Equal settings on equal rows give an equal order.

    Raises:
        StoreError: a number is out of its range.
    """

    batch: int
    seed: int
    epoch: int
    rank: int
    world: int
    block_rows: int
    blocks_in_flight: int

    def __post_init__(self) -> None:
        for name in ("batch", "world", "block_rows", "blocks_in_flight"):
            if getattr(self, name) < 1:
                raise StoreError(f"{name} is at least 1, got {getattr(self, name)}.")
        for name in ("seed", "epoch"):
            if getattr(self, name) < 0:
                raise StoreError(f"{name} is 0 or more, got {getattr(self, name)}.")
        if not 0 <= self.rank < self.world:
            raise StoreError(f"rank is 0 to {self.world - 1} (world - 1), got {self.rank}.")


class Shuffled(IterableDataset):
    """One epoch of a view in random order, as `Batch`es; iterating again repeats it.

    It is a PyTorch dataset: `DataLoader(shuffled, batch_size=None, num_workers=2)` lets worker
    processes share the rows, and the window, between them.
    """

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source = source
        self.settings = settings
        self._state = self._state_after(0, "", 0, 1)
        self._resume: Mapping[str, Any] | None = None
        self._workers_began = torch.zeros(1, dtype=torch.uint8).share_memory_()

    @property
    def n_batches(self) -> int:
        """Batches of this rank, equally many in each; with one process for each rank."""
        return self._order(0, 1).n_batches

    @property
    def mixing(self) -> float:
        """How many times as often as after a full shuffle two rows of a block share a batch.

        1 is a full shuffle; about half the view's rows over the window's for a large view. Larger
        `blocks_in_flight` (memory) or smaller `block_rows` (speed of a disk) bring it down.
        """
        order, n_rows = self._order(0, 1), len(self.source.row_set)
        sizes = np.array([step.size for step in order.steps()], dtype=float)
        in_one_batch = (sizes * (sizes - 1)).sum() / max(n_rows * (n_rows - 1), 1)
        if not in_one_batch:
            return 1.0
        return meeting_probability(order) / float(in_one_batch * self.settings.world)

    def _order(self, worker: int, workers: int) -> Order:
        now = self.settings
        parts, part = now.world * workers, now.rank * workers + worker
        shared = [now.seed, now.epoch]
        blocks = self.source.row_set.blocks(now.block_rows)
        return Order(
            deal(blocks, seed=shared, part=part, parts=parts),
            batch=now.batch,
            n_batches=ceil(ceil(len(self.source.row_set) / parts) / now.batch),
            window=ceil(now.blocks_in_flight / workers) * now.block_rows,
            seed=[*shared, parts, part],
        )

    def __iter__(self) -> Iterator[Batch]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info else (0, 1)
        if info:
            self._workers_began[0] = 1
        order = self._order(worker, workers)
        window = Window(self.source, order)
        drawn = xxhash.xxh3_128()
        steps = enumerate(order.steps(), start=1)
        resume, self._resume = self._resume, None
        n_read = 0
        if resume:
            for _, step in islice(steps, self._checked(resume, worker, workers)):
                order.take_in(step)
                drawn.update(order.held[order.draw(step)].tobytes())
                n_read = step.read.stop
            self._check_drawn(resume, drawn.hexdigest())
            window.restore()
        blocks = read_ahead(window.read, order.rows(n_read))
        for number, step in steps:
            for slots in order.take_in(step):
                window.place(slots, next(blocks))
            slots = order.draw(step)
            drawn.update(order.held[slots].tobytes())
            if step.size:
                self._state = self._state_after(number, drawn.hexdigest(), worker, workers)
                yield window.batch(slots)

    def state_dict(self) -> dict[str, Any]:
        """How far the last iteration is. With it, an equal `Shuffled` goes on exactly there.

        Raises:
            StoreError: workers of a DataLoader iterate, and know how far they are. (The
                StatefulDataLoader of torchdata asks them.)
        """
        if self._workers_began[0] and get_worker_info() is None:
            raise StoreError(
                "The batches are drawn in the workers of a DataLoader; only they know how far they "
                "are. Use torchdata's StatefulDataLoader, or num_workers=0."
            )
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration begin after the batches of a state.

        Raises:
            StoreError: the state is from other settings; the message names them.
        """
        ours, theirs = asdict(self.settings), dict(state.get("settings", {}))
        different = [
            f"{name} {theirs.get(name)} (here {ours[name]})"
            for name in ours
            if theirs.get(name) != ours[name]
        ]
        if different:
            raise StoreError(f"The state is of another shuffle: {', '.join(different)}.")
        self._state = self._resume = dict(state)

    def _state_after(self, n_batches: int, drawn: str, worker: int, workers: int) -> dict[str, Any]:
        return {
            "settings": asdict(self.settings),
            "batches": n_batches,
            "drawn": drawn,
            "worker": [worker, workers],
        }

    def _checked(self, state: Mapping[str, Any], worker: int, workers: int) -> int:
        if state["batches"] and state["worker"] != [worker, workers]:
            raise StoreError(
                f"The state is of worker {state['worker'][0]} of {state['worker'][1]}; this is "
                f"worker {worker} of {workers}."
            )
        return state["batches"]

    def _check_drawn(self, state: Mapping[str, Any], drawn: str) -> None:
        if state["batches"] and state["drawn"] != drawn:
            raise StoreError(
                "The rows are not those of the state: other units have been collected since, or "
                "another version of NumPy draws other numbers. Begin the epoch again."
            )


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What is read, in order; some of it before it is asked for, in a thread of its own."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(max_workers=1) as pool:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > READ_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class Window:
    """The rows in memory that batches are drawn from."""

    def __init__(self, source: Source, order: Order) -> None:
        self.source, self.order = source, order
        self.values = source.empty(order.capacity)
        self.labels = np.empty((order.capacity, 3), dtype=np.int64)

    def read(self, rows: Numbers) -> list[np.ndarray]:
        """Ascending rows: their labels, and their values of each hook."""
        return [self.source.labels(rows), *self.source.stored(rows)]

    def place(self, slots: Numbers, read: Sequence[np.ndarray]) -> None:
        """Put rows that were read into slots."""
        for held, new in zip([self.labels, *self.values], read, strict=True):
            held[slots] = new

    def restore(self) -> None:
        """Read all rows that are held after a replay."""
        slots = self.order.in_use
        slots = slots[np.argsort(self.order.held[slots])]
        for first in range(0, len(slots), RESTORED_ROWS):
            piece = slots[first : first + RESTORED_ROWS]
            self.place(piece, self.read(self.order.held[piece]))

    def batch(self, slots: Numbers) -> Batch:
        """The rows in these slots."""
        x = self.source.tensors([np.take(held, slots, axis=0) for held in self.values])
        return Batch(x, *torch.from_numpy(self.labels[slots]).unbind(dim=1))
