"""Which rows a store has, and what stands at each: token tables, conditions, numbering.

The store's rows are numbered in the order of its plan, unit by unit. A view has some of them and
numbers those from 0. A condition (`where`) is SQL over the columns in `COLUMNS`; DuckDB answers it
on one unit's table at a time, with no way to any file, network or other table.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from interp.errors import StoreError
from interp.store.plan import PlannedUnit
from interp.store.planned import PlannedStore
from interp.store.recent import Recent

COLUMNS = {
    "row": "number of the row in the whole store",
    "unit": "the unit that holds it",
    "document": "number of the text",
    "sequence": "number of the sequence that the model was given",
    "pos": "position in the sequence, 0 = first",
    "document_pos": "position in the document's own tokens; null for tokens the store added",
    "token_id": "the token that was read there",
    "token": "its text, with its leading space",
    "bos": "a beginning-of-sequence token that the store added",
    "first": "the first position of a sequence, where GPT-2's activations are extreme",
    "special": "any special token",
}
"""What is known of every row."""
RowIndex = int | np.integer | slice | Sequence[object] | np.ndarray | Tensor
"""Rows of a view by number (negative: from the end), or a bool for each row."""
RowNumbers = Int[np.ndarray, " _row"]
Labels = Int[np.ndarray, "_row 3"]
"""`row`, `token_id` and `document` of rows: what a shuffled batch says of each."""

KEPT_TABLES = 4
KEPT_LABELS = 32
KEPT_RANGES = 4096
DUCKDB_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "python_enable_replacements": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "temp_directory": "",
    "threads": 1,  # no thread that a fork would lose
    "lock_configuration": True,
}


class TokenIndex:
    """What stands at every stored row, one unit at a time.

    Args:
        vocabulary: The text of each token id.
    """

    def __init__(self, store: PlannedStore, vocabulary: pa.Array) -> None:
        self.store = store
        self.vocabulary = vocabulary
        self._tables: Recent[int, pa.Table] = Recent(capacity=KEPT_TABLES)
        self._labels: Recent[int, Labels] = Recent(capacity=KEPT_LABELS)
        self._documents: Recent[int, tuple[int, int]] = Recent(capacity=KEPT_RANGES)

    def table(self, unit: int) -> pa.Table:
        """The stored rows of a unit in their order, with `COLUMNS`."""
        return self._tables.get(unit, self._read)

    def _read(self, unit: int) -> pa.Table:
        planned = self.store.plan.units[unit]
        tokens = self.store.tokens(unit)
        tokens = tokens.filter(tokens["row"].is_valid())
        columns = {name: tokens[name] for name in COLUMNS if name in tokens.column_names} | {
            "row": pa.array(planned.first_row + np.arange(planned.n_rows)),
            "unit": pa.array(np.full(planned.n_rows, unit)),
            "token": pa.DictionaryArray.from_arrays(
                tokens["token_id"].combine_chunks(), self.vocabulary
            ),
        }
        return pa.table({name: columns[name] for name in COLUMNS})

    def labels(self, unit: int) -> Labels:
        """Of the stored rows of a unit; kept longer than its table, which is larger."""
        return self._labels.get(unit, self._read_labels)

    def _read_labels(self, unit: int) -> Labels:
        table = self.table(unit)
        columns = (table[name].to_numpy() for name in ("row", "token_id", "document"))
        return np.stack([column.astype(np.int64) for column in columns], axis=1)

    def units_of_document(self, document: int) -> range:
        """The units that may hold a document, found by halving: units hold documents in order."""
        units = range(len(self.store.plan.units))
        first = bisect_left(units, document, key=lambda unit: self._first_and_last(unit)[1])
        after = bisect_right(units, document, key=lambda unit: self._first_and_last(unit)[0])
        return range(first, after)

    def rows_of_document(self, unit: int, document: int) -> tuple[RowNumbers, RowNumbers]:
        """Rows of a unit that hold a document's own tokens, and their positions in the document."""
        table = self.table(unit)
        is_own = pc.and_(pc.equal(table["document"], document), table["document_pos"].is_valid())
        (rows,) = np.nonzero(is_own.to_numpy())
        return rows, table["document_pos"].take(rows).to_numpy().astype(np.int64)

    def _first_and_last(self, unit: int) -> tuple[int, int]:
        return self._documents.get(unit, self._read_first_and_last)

    def _read_first_and_last(self, unit: int) -> tuple[int, int]:
        documents = self.store.tokens(unit)["document"].to_numpy()
        return int(documents.min()), int(documents.max())


def matching(tables: Iterable[pa.Table], where: str) -> Iterator[Bool[np.ndarray, " row"]]:
    """Which rows of each table satisfy a condition; unknown (null) counts as no.

    Raises:
        StoreError: it is not a condition over the table's columns; the message names them.
    """
    columns: list[str] = []
    try:
        with duckdb.connect(":memory:", config=DUCKDB_CONFIG) as connection:
            for table in tables:
                columns = table.column_names
                numbered = table.append_column("_place", pa.array(np.arange(len(table))))
                found = connection.from_arrow(numbered).filter(where).project("_place")
                mask = np.zeros(len(table), dtype=bool)
                mask[found.fetchnumpy()["_place"]] = True
                yield mask
    except duckdb.Error as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"where={where!r} is not a condition on the tokens: {reason.rstrip('.!')}. "
            f"The columns are {', '.join(columns)}."
        ) from error


class Part(NamedTuple):
    """The part of an index that lies in one unit."""

    unit: int
    rows: RowNumbers
    """Rows of the unit."""
    places: slice
    """Where they stand in the index."""


class Rows:
    """Rows of a store in its order, numbered from 0.

    Args:
        units: The units they are in.
        kept: For each unit, which of its rows (`np.packbits`); `None` for all.
    """

    def __init__(
        self,
        units: Sequence[PlannedUnit],
        kept: Sequence[UInt8[np.ndarray, " _byte"]] | None = None,
    ) -> None:
        self.units = units
        self.kept = kept
        counts = (
            [unit.n_rows for unit in units]
            if kept is None
            else [int(np.bitwise_count(bits).sum()) for bits in kept]
        )
        self.starts = np.cumsum([0, *counts])
        """Number of each unit's first row, and of all rows."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def parts(self, index: RowNumbers) -> Iterator[Part]:
        """An ascending index, unit by unit."""
        bounds = np.searchsorted(index, self.starts)
        for place in np.flatnonzero(np.diff(bounds)).tolist():
            places = slice(int(bounds[place]), int(bounds[place + 1]))
            rows = index[places] - self.starts[place]
            if self.kept is not None:
                rows = self._rows_of(place)[rows]
            yield Part(self.units[place].unit, rows, places)

    def numbers(self, place: int, rows: RowNumbers) -> tuple[RowNumbers, Bool[np.ndarray, " _row"]]:
        """The numbers of those of a unit's rows that are here, and which of them are.

        Args:
            place: Of the unit, among `units`.
        """
        if self.kept is None:
            return rows + self.starts[place], np.ones(len(rows), dtype=bool)
        kept = self._rows_of(place)
        is_here = np.isin(rows, kept)
        return np.searchsorted(kept, rows[is_here]) + self.starts[place], is_here

    def _rows_of(self, place: int) -> RowNumbers:
        assert self.kept is not None
        return np.flatnonzero(np.unpackbits(self.kept[place], count=self.units[place].n_rows))

    def blocks(self, block_rows: int) -> Int[np.ndarray, "block 2"]:
        """Runs of at most so many neighbouring rows of one unit: first, one after the last."""
        runs = [
            (start, min(start + block_rows, int(stop)))
            for first, stop in pairwise(self.starts)
            for start in range(int(first), int(stop), block_rows)
        ]
        return np.array(runs, dtype=np.int64).reshape(-1, 2)


def row_numbers(index: RowIndex, n_rows: int) -> RowNumbers:
    """An index as numbers from 0.

    Raises:
        StoreError: a row that is not there, or something that is no index.
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(n_rows))
    numbers = index.numpy(force=True) if isinstance(index, Tensor) else np.asarray(index)
    if numbers.size == 0:
        numbers = numbers.astype(np.int64)
    if numbers.ndim > 1 or numbers.dtype.kind not in "iub":
        raise StoreError(
            "Rows are chosen by a number, a slice, whole numbers in one dimension, or a bool for "
            f"each row; got {numbers.dtype} of shape {numbers.shape}."
        )
    if numbers.dtype.kind == "b":
        if numbers.shape != (n_rows,):
            raise StoreError(f"{numbers.size} bools for {n_rows} rows; give one for each.")
        return np.flatnonzero(numbers)
    numbers = np.atleast_1d(numbers).astype(np.int64)
    wrong = numbers[(numbers < -n_rows) | (numbers >= n_rows)]
    if len(wrong):
        there = f"rows are 0 to {n_rows - 1}" if n_rows else "there are none"
        raise StoreError(f"Row {wrong[0]} of {n_rows}: {there}.")
    return np.where(numbers < 0, numbers + n_rows, numbers)


def is_one_row(index: RowIndex) -> bool:
    """Whether an index is a single number."""
    if isinstance(index, np.ndarray | Tensor):
        return index.ndim == 0
    return isinstance(index, int | np.integer)
