"""An order that is close to random, in which rows can be read block by block.

Blocks of neighbouring rows come in random order into a window, and batches are drawn from the
window by lot. Nothing here reads: an order depends on its settings alone and can be replayed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

Numbers = Int[np.ndarray, " _n"]
Blocks = Int[np.ndarray, "_block 2"]
"""Runs of rows: the first, and one after the last."""


def deal(blocks: Blocks, *, seed: Sequence[int], part: int, parts: int) -> Blocks:
    """A part's share of the blocks in random order; the parts' rows differ by one at most.

    A block where two parts meet is cut.
    """
    blocks = np.random.default_rng(seed).permutation(blocks)
    sizes = blocks[:, 1] - blocks[:, 0]
    ends = np.cumsum(sizes)
    n_rows = int(sizes.sum())
    first, last = n_rows * part // parts, n_rows * (part + 1) // parts
    # Clipped to the share, the blocks outside of it become empty.
    low = blocks[:, 0] + np.clip(first - (ends - sizes), 0, None)
    high = blocks[:, 1] - np.clip(ends - last, 0, None)
    return np.stack([low, high], axis=1)[low < high]


@dataclass(frozen=True)
class Step:
    """What happens before and at one batch."""

    read: slice
    """Blocks that are read first."""
    n_full: int
    """Rows in the window after reading."""
    size: int
    """Rows of the batch."""


class Order:
    """The order of one part of an epoch.

    Args:
        blocks: What is read, in this order.
        batch: Rows of a batch.
        n_batches: How many; the last ones are short where rows run out.
        window: Rows that are held at once, unless a batch needs more.
        seed: Of the drawing.
    """

    def __init__(
        self, blocks: Blocks, *, batch: int, n_batches: int, window: int, seed: Sequence[int]
    ) -> None:
        self.blocks = blocks
        self.sizes = blocks[:, 1] - blocks[:, 0]
        self.n_rows = int(self.sizes.sum())
        self.batch, self.n_batches = batch, n_batches
        # With room for another block, the window always has a whole batch while blocks are left.
        self.capacity = min(self.n_rows, max(window, batch + int(self.sizes.max(initial=0))))
        self.held = np.full(self.capacity, -1)
        """The row in each slot of the window."""
        self._slots = np.arange(self.capacity)  # the first `_n_full` are in use
        self._n_full = 0
        self._random = np.random.default_rng(seed)

    def steps(self) -> Iterator[Step]:
        """How much is read and drawn, which does not depend on the lot."""
        n_full, n_read, left = 0, 0, self.n_rows
        for batches_after in reversed(range(self.n_batches)):
            first = n_read
            while n_read < len(self.sizes) and n_full + self.sizes[n_read] <= self.capacity:
                n_full += int(self.sizes[n_read])
                n_read += 1
            # One row is left for every later batch, so that all parts have equally many.
            size = max(0, min(self.batch, left - batches_after))
            yield Step(slice(first, n_read), n_full, size)
            n_full, left = n_full - size, left - size

    def take_in(self, step: Step) -> list[Numbers]:
        """Place the rows of the blocks that a step reads; returns the slots of each block."""
        slots = []
        for start, stop in self.blocks[step.read].tolist():
            last = self._n_full + stop - start
            slots.append(self._slots[self._n_full : last].copy())
            self.held[slots[-1]] = np.arange(start, stop)
            self._n_full = last
        return slots

    def rows(self, first_block: int = 0) -> Iterator[Numbers]:
        """The rows of each block from one on."""
        for start, stop in self.blocks[first_block:].tolist():
            yield np.arange(start, stop)

    def draw(self, step: Step) -> Numbers:
        """The slots of a batch, in the order of their being drawn; they are free afterwards."""
        places = self._random.choice(self._n_full, step.size, replace=False)
        drawn = self._slots[places]
        n_left = self._n_full - step.size
        # The last slots that stay fill the gaps.
        stays = np.ones(step.size, dtype=bool)
        stays[places[places >= n_left] - n_left] = False
        self._slots[places[places < n_left]] = self._slots[n_left : self._n_full][stays]
        self._slots[n_left : self._n_full] = drawn
        self._n_full = n_left
        return drawn

    @property
    def in_use(self) -> Numbers:
        """The slots that hold rows."""
        return self._slots[: self._n_full]


def meeting_probability(order: Order) -> float:
    """How likely two rows of one block are drawn into the same batch, on average over pairs."""
    steps = list(order.steps())
    sizes = np.array([step.size for step in steps], dtype=float)
    full = np.array([step.n_full for step in steps], dtype=float)
    pairs = np.maximum(full * (full - 1), 1)
    meet = sizes * (sizes - 1) / pairs
    both_stay = (full - sizes) * (full - sizes - 1) / pairs
    later, total, n_pairs = 0.0, 0.0, 0.0
    for step, now, stay in zip(reversed(steps), meet[::-1], both_stay[::-1], strict=True):
        later = now + stay * later
        own = order.sizes[step.read].astype(float)
        own_pairs = float((own * (own - 1)).sum())
        total, n_pairs = total + own_pairs * later, n_pairs + own_pairs
    return total / max(n_pairs, 1)
