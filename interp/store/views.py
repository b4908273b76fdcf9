"""Views: some rows of a store, of one hook or of several, as tensors and as tables of tokens.

A view's rows are numbered from 0 in the store's order: unit by unit, in each the sequences by their
length. Values come back as they are stored, bit for bit, unless another type is asked for.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import get_worker_info

from interp.errors import StoreError
from interp.store.collected import Collected
from interp.store.index import (
    Labels,
    Part,
    RowIndex,
    RowNumbers,
    Rows,
    TokenIndex,
    is_one_row,
    row_numbers,
)
from interp.store.moments import Moments
from interp.store.shards import STORED_AS
from interp.store.shuffle import Settings, Shuffled
from interp.store.spec import DTYPES, Spec

if TYPE_CHECKING:
    import pandas as pd

SCANNED_ROWS = 8192
"""Rows that are held at once when all of them are read."""


class TokenRows(ABC):
    """Which rows a view has, and their tokens: what views of one hook and of several share.

    Args:
        hooks: What every row has.
    """

    def __init__(
        self, collected: Collected, index: TokenIndex, row_set: Rows, hooks: Sequence[str]
    ) -> None:
        self.hooks = list(hooks)
        self.row_set = row_set
        self._collected = collected
        self._index = index

    def __len__(self) -> int:
        return len(self.row_set)

    @property
    def spec(self) -> Spec:
        """What decides the numbers."""
        return self._collected.store.spec

    def tokens(self, index: RowIndex | None = None) -> "pd.DataFrame":
        """What stands at rows: the columns of `interp.store.index.COLUMNS`, in the order asked for.

        Raises:
            StoreError: a row that is not there.
        """
        numbers = row_numbers(slice(None) if index is None else index, len(self))
        order = np.argsort(numbers, kind="stable")
        frame = self.token_table(numbers[order]).take(np.argsort(order)).to_pandas()
        frame["document_pos"] = frame["document_pos"].astype("Int32")
        return frame

    def token_table(self, index: RowNumbers) -> pa.Table:
        """What stands at ascending rows, with the columns of `interp.store.index.COLUMNS`."""
        parts = [self._index.table(part.unit).take(part.rows) for part in self.row_set.parts(index)]
        return pa.concat_tables(parts) if parts else self._index.table(0).slice(0, 0)

    def document_rows(self, document: int) -> RowNumbers:
        """Rows of a document's own tokens in the order of the text, also where it was cut.

        Tokens that the store added (BOS, separators) are left out.

        Raises:
            StoreError: there is no such document, or a part of it has not been collected yet.
        """
        n_documents = self._collected.store.record.plan.n_documents
        if not 0 <= document < n_documents:
            raise StoreError(f"Document {document}: documents are 0 to {n_documents - 1}.")
        places = {unit.unit: place for place, unit in enumerate(self.row_set.units)}
        found, positions = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
        collected = {unit.unit for unit in self._collected.units(self.hooks)}
        for unit in self._index.units_of_document(document):
            if unit not in collected:
                raise StoreError(
                    f"Document {document} is in unit {unit}, which is not collected yet. Run the "
                    "same `collect` again to go on."
                )
            if unit in places:
                rows, document_pos = self._index.rows_of_document(unit, document)
                numbers, kept = self.row_set.numbers(places[unit], rows)
                found.append(numbers)
                positions.append(document_pos[kept])
        return np.concatenate(found)[np.argsort(np.concatenate(positions), kind="stable")]

    def shuffled(
        self,
        *,
        batch: int = 4096,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        block_rows: int = 8192,
        blocks_in_flight: int = 64,
    ) -> Shuffled:
        """All rows once, in random order, as batches `x`, `row`, `token_id`, `document`.

        Args:
            batch: Rows of a batch; the last may be smaller.
            seed, epoch: Decide the order.
            rank, world: Which process this is, of how many that share the rows. All have equally
                many batches.
            block_rows: Neighbouring rows that are read at once.
            blocks_in_flight: Blocks in memory, from which batches are drawn; see `mixing`.

        Raises:
            StoreError: a number is out of its range.
        """
        settings = Settings(batch, seed, epoch, rank, world, block_rows, blocks_in_flight)
        return Shuffled(self, settings)

    def pieces(self, n_rows: int = SCANNED_ROWS) -> Iterator[slice]:
        """All rows in their order, so many at once."""
        for start in range(0, len(self), n_rows):
            yield slice(start, min(start + n_rows, len(self)))

    def labels(self, index: RowNumbers) -> Labels:
        """`row`, `token_id` and `document` of ascending rows."""
        found = np.empty((len(index), 3), dtype=np.int64)
        for unit, rows, places in self.row_set.parts(index):
            found[places] = self._index.labels(unit)[rows]
        return found

    @abstractmethod
    def empty(self, n_rows: int) -> list[np.ndarray]:
        """Room for the stored numbers of rows, an array per hook; float16 and bfloat16 as bits."""

    @abstractmethod
    def stored(self, index: RowNumbers) -> list[np.ndarray]:
        """The stored numbers of ascending rows, an array per hook; perhaps a view of the file."""

    @abstractmethod
    def tensors(self, values: Sequence[np.ndarray]) -> Tensor | dict[str, Tensor]:
        """Stored numbers, an array per hook, as tensors of their types."""


class View(TokenRows):
    """Rows of one hook."""

    def __init__(self, collected: Collected, index: TokenIndex, row_set: Rows, hook: str) -> None:
        super().__init__(collected, index, row_set, [hook])
        self.hook = hook
        self.layout = collected.layout(hook)

    @property
    def feature(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.layout.feature

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, *feature)."""
        return (len(self), *self.feature)

    @property
    def dtype(self) -> torch.dtype:
        """As the values are stored."""
        return DTYPES[self.layout.dtype]

    def __repr__(self) -> str:
        axes = ", ".join(
            f"{axis} {size}" for axis, size in zip(self.layout.axes, self.feature, strict=True)
        )
        return f"View of {self.hook}: {len(self):,} rows of [{axes}], {self.layout.dtype}"

    def rows(self, index: RowIndex, dtype: torch.dtype | None = None) -> Float[Tensor, "..."]:
        """Rows in the order asked for: `[row, *feature]`; a single number gives one row.

        Args:
            dtype: Convert to this type.

        Raises:
            StoreError: a row that is not there.
            DamagedStoreError: a file was altered; names it.
        """
        numbers = row_numbers(index, len(self))
        if (numbers[1:] >= numbers[:-1]).all():
            (values,) = self.stored(numbers)
            values = values if values.flags.writeable else values.copy()
        else:
            order = np.argsort(numbers, kind="stable")
            (values,) = self.empty(len(numbers))
            for part in self.row_set.parts(numbers[order]):
                values[order[part.places]] = self._part(part)
        x = self.tensors([values])
        x = x if dtype is None else x.to(dtype)
        return x[0] if is_one_row(index) else x

    def __getitem__(self, index: RowIndex) -> Float[Tensor, "..."]:
        return self.rows(index)

    def slice(self, start: int, stop: int) -> Float[Tensor, "..."]:
        """Rows from `start` to before `stop`."""
        return self.rows(slice(start, stop))

    def document(self, document: int, dtype: torch.dtype | None = None) -> Float[Tensor, "..."]:
        """Rows of a document's own tokens in the order of the text; see `document_rows`."""
        return self.rows(self.document_rows(document), dtype)

    def statistics(self) -> Moments:
        """Mean, variance, largest value and norms over all rows.

        A view of whole units merges what their shards say, of values before they were rounded;
        under a condition the stored rows are read.
        """
        total = Moments(self.feature)
        if self.row_set.kept is None:
            for unit in self.row_set.units:
                total.merge(self._moments(unit.unit))
        else:
            for piece in self.pieces():
                total.add(self.rows(piece, torch.float32))
        return total

    def _moments(self, unit: int) -> Moments:
        shard = self._collected.shard(self.hook, unit)
        stored = self._collected.commit(self.hook, unit).hooks[self.hook]
        moments = Moments(self.feature)
        moments.count = shard.n_rows
        moments.mean, moments.m2 = (torch.tensor(part) for part in (shard.mean, shard.m2))
        moments.absmax = stored.absmax
        moments.norm_min, moments.norm_max = stored.norm_min, stored.norm_max
        moments.norm_mean = stored.norm_mean
        return moments

    def empty(self, n_rows: int) -> list[np.ndarray]:
        """Room for rows, as bits."""
        return [np.empty((n_rows, *self.feature), STORED_AS[self.layout.dtype])]

    def stored(self, index: RowNumbers) -> list[np.ndarray]:
        """The bits of ascending rows; of neighbours in one unit a view of the file."""
        parts = list(self.row_set.parts(index))
        if len(parts) == 1:
            return [self._part(parts[0])]
        (out,) = self.empty(len(index))
        for part in parts:
            self._part(part, out[part.places])
        return [out]

    def _part(self, part: Part, out: np.ndarray | None = None) -> np.ndarray:
        """Bits of rows of one unit, in `out` if given; else of neighbours a view of the file."""
        shard = self._collected.shard(self.hook, part.unit)
        first, last = int(part.rows[0]), int(part.rows[-1])
        if last - first != len(part.rows) - 1 or (np.diff(part.rows) != 1).any():
            return shard.rows(part.rows, out)
        values = shard.slice(first, last + 1)
        if out is not None:
            out[:] = values
        return values

    def tensors(self, values: Sequence[np.ndarray]) -> Tensor:
        """Bits as a tensor, in pinned memory where there is a GPU to send it to."""
        x = torch.from_numpy(values[0]).view(self.dtype)
        # A worker of a DataLoader leaves CUDA alone.
        is_pinned = torch.cuda.is_available() and get_worker_info() is None
        return x.pin_memory() if is_pinned else x


class AlignedViews(TokenRows):
    """The same rows of several hooks, for crosscoders and transcoders; a `View` of each by name."""

    def __init__(
        self, collected: Collected, index: TokenIndex, row_set: Rows, hooks: Sequence[str]
    ) -> None:
        super().__init__(collected, index, row_set, hooks)
        self.views = {hook: View(collected, index, row_set, hook) for hook in hooks}

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.views.values()))

    def __getitem__(self, hook: str) -> View:
        return self.views[hook]

    def rows(self, index: RowIndex, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Rows of every hook in the order asked for; see `View.rows`."""
        return {hook: view.rows(index, dtype) for hook, view in self.views.items()}

    def document(self, document: int, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Rows of a document's own tokens in the order of the text; see `document_rows`."""
        return self.rows(self.document_rows(document), dtype)

    def empty(self, n_rows: int) -> list[np.ndarray]:
        """Room for rows, as bits: an array per hook."""
        return [array for view in self.views.values() for array in view.empty(n_rows)]

    def stored(self, index: RowNumbers) -> list[np.ndarray]:
        """The bits of ascending rows, an array per hook."""
        return [array for view in self.views.values() for array in view.stored(index)]

    def tensors(self, values: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Bits of each hook as a tensor."""
        pairs = zip(self.views.items(), values, strict=True)
        return {hook: view.tensors([array]) for (hook, view), array in pairs}
