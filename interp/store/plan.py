"""The plan of a store: which tokens the model is given, in which units, and which rows are stored.

The corpus is read once. Each unit's tokens become a Parquet file in the store, from which workers
and readers take them; nobody needs the corpus again. In a unit the sequences stand in the order of
their length, so that a batch holds hardly any padding.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Bool

from interp.errors import StoreError
from interp.model.tokens import Tokenizer
from interp.store.files import StoreFiles
from interp.store.naming import checked_path, new_attempt, tokens_path
from interp.store.records import FileRecord, damaged
from interp.store.sequences import ADDED, Packing, SequenceReader, TokenSequence
from interp.store.thinning import Subsample, Thinning, Tokens, parse_positions

TOKEN_SCHEMA = pa.schema(
    {
        "row": pa.int64(),
        "document": pa.int64(),
        "sequence": pa.int64(),
        "pos": pa.int32(),
        "document_pos": pa.int32(),
        "token_id": pa.int32(),
        "bos": pa.bool_(),
        "first": pa.bool_(),
        "special": pa.bool_(),
    }
)
"""A row for every token that the model is given. `row` is null where the activations are not
stored, `document_pos` where the store added the token."""

VOCABULARY_SCHEMA = pa.schema({"token_id": pa.int32(), "token": pa.string()})

Columns = Mapping[str, np.ndarray]
"""The columns of a token table; positions that are null there are `ADDED`."""
WatchTexts = Callable[[int, int], None]
"""Told how many documents and tokens have been read; what it raises stops the reading."""


@dataclass(frozen=True)
class PlanRecord:
    """What `store.json` says about the plan."""

    file: FileRecord
    fingerprint: str
    """Of the documents."""
    n_documents: int
    n_sequences: int
    n_tokens: int
    """Given to the model, added ones included."""
    n_rows: int
    """Stored."""
    n_units: int


@dataclass(frozen=True)
class PlannedUnit:
    """One unit of work."""

    unit: int
    first_row: int
    """Number of its first row in the whole store."""
    n_rows: int
    n_tokens: int
    first_sequence: int
    n_sequences: int
    tokens_path: str
    tokens_bytes: int
    tokens_xxh3: str


PLAN_SCHEMA = pa.schema(
    {
        name: pa.string() if kind is str else pa.int64()
        for name, kind in PlannedUnit.__annotations__.items()
    }
)


@dataclass(frozen=True)
class Plan:
    """All units of a store."""

    units: Sequence[PlannedUnit]

    @classmethod
    def read(cls, files: StoreFiles, record: PlanRecord) -> "Plan":
        """Read a plan.

        Raises:
            DamagedStoreError: its file is missing or was altered.
        """
        table = read_table(files, record.file, PLAN_SCHEMA)
        units = tuple(PlannedUnit(**row) for row in table.to_pylist())
        if [unit.unit for unit in units] != list(range(record.n_units)):
            raise damaged(record.file.path, "its units are not those of store.json")
        return cls(units)

    def tokens(self, files: StoreFiles, unit: int) -> pa.Table:
        """The tokens of a unit, with the columns of `TOKEN_SCHEMA`.

        Raises:
            DamagedStoreError: its file is missing or was altered.
        """
        planned = self.units[unit]
        file = FileRecord(planned.tokens_path, planned.tokens_bytes, planned.tokens_xxh3)
        return read_table(files, file, TOKEN_SCHEMA)


def write_plan(
    files: StoreFiles,
    documents: Iterable[str],
    tokenizer: Tokenizer,
    *,
    ctx: int,
    packing: Packing,
    prepend_bos: bool,
    positions: str,
    subsample: str,
    seed: int,
    unit_tokens: int,
    max_tokens: int | None = None,
    watch: WatchTexts | None = None,
) -> PlanRecord:
    """Tokenize a corpus into token files and a plan, which `store.json` has to name.

    Args:
        positions, subsample: As `thinning.parse_positions` and `Subsample.parse` take.
        unit_tokens: Most tokens of a unit; a longer sequence is a unit of its own.
        max_tokens: Stop before there are more.

    Raises:
        StoreError: there is nothing to read, a document cannot be read, or no row is stored.
    """
    thinning = Thinning(parse_positions(positions), Subsample.parse(subsample), seed)
    reader = SequenceReader(documents, tokenizer, ctx, packing, prepend_bos)
    writer = PlanWriter(files, thinning)
    try:
        for sequences in units_of(limited(reader, max_tokens), unit_tokens):
            writer.add(sequences)
            if watch:
                watch(writer.n_documents, writer.n_tokens)
        units = writer.settled()
        n_rows = sum(unit.n_rows for unit in units)
        if not units:
            raise StoreError("There is nothing to read: no text gave a token, or max_tokens is 0.")
        if not n_rows:
            raise StoreError(f"positions={positions!r}, subsample={subsample!r} leave no row.")
    except BaseException:
        writer.discard()
        raise
    is_whole = max_tokens is None
    n_documents = reader.fingerprint.n_documents if is_whole else writer.n_documents
    table = pa.Table.from_pylist([vars(unit) for unit in units], PLAN_SCHEMA)
    return PlanRecord(
        file=write_table(files, f"plan-{writer.attempt}.parquet", table),
        fingerprint=reader.fingerprint.after(n_documents),
        n_documents=n_documents,
        n_sequences=writer.n_sequences,
        n_tokens=writer.n_tokens,
        n_rows=n_rows,
        n_units=len(units),
    )


def limited(sequences: Iterable[TokenSequence], max_tokens: int | None) -> Iterator[TokenSequence]:
    """Sequences as long as they have no more tokens than this together."""
    n_tokens = 0
    for sequence in sequences:
        n_tokens += len(sequence.token_id)
        if max_tokens is not None and n_tokens > max_tokens:
            return
        yield sequence


def units_of(sequences: Iterable[TokenSequence], unit_tokens: int) -> Iterator[list[TokenSequence]]:
    """Consecutive sequences of one unit each, in the order of their length."""
    unit: list[TokenSequence] = []
    n_tokens = 0
    for sequence in sequences:
        if unit and n_tokens + len(sequence.token_id) > unit_tokens:
            yield sorted(unit, key=lambda each: len(each.token_id))
            unit, n_tokens = [], 0
        unit.append(sequence)
        n_tokens += len(sequence.token_id)
    if unit:
        yield sorted(unit, key=lambda each: len(each.token_id))


class PlanWriter:
    """Writes token files, one for each unit."""

    def __init__(self, files: StoreFiles, thinning: Thinning) -> None:
        self.files, self.thinning = files, thinning
        self.attempt = new_attempt()
        self.units: list[PlannedUnit] = []
        self.n_documents = self.n_sequences = self.n_tokens = self._n_rows = 0

    def add(self, sequences: Sequence[TokenSequence]) -> None:
        """Write the tokens of the next unit."""
        lengths = np.array([len(sequence.token_id) for sequence in sequences])
        joined = TokenSequence(*(np.concatenate(x) for x in zip(*sequences, strict=True)))
        numbers = self.n_sequences + np.arange(len(sequences))
        starts = np.cumsum(lengths) - lengths
        pos = np.arange(lengths.sum()) - np.repeat(starts, lengths)
        columns = joined._asdict() | {
            "sequence": np.repeat(numbers, lengths),
            "pos": pos,
            "first": pos == 0,
        }
        if self.thinning.sees_all_first:
            self.thinning.observe(_for_thinning(columns))
            self._write(columns, np.ones(len(pos), dtype=bool))
        else:
            self._write(columns, self.thinning.stored(_for_thinning(columns)))
        self.n_documents = max(self.n_documents, int(joined.document.max()) + 1)
        self.n_sequences += len(sequences)
        self.n_tokens += len(pos)

    def settled(self) -> list[PlannedUnit]:
        """All units, their rows chosen for good."""
        if not self.thinning.sees_all_first:
            return self.units
        provisional = self.units
        self.attempt, self.units, self._n_rows = new_attempt(), [], 0
        for unit in provisional:
            file = FileRecord(unit.tokens_path, unit.tokens_bytes, unit.tokens_xxh3)
            table = read_table(self.files, file, TOKEN_SCHEMA)
            columns = {name: table[name].fill_null(ADDED).to_numpy() for name in table.column_names}
            self._write(columns, self.thinning.stored(_for_thinning(columns)))
            self.files.remove(file.path)
        return self.units

    def discard(self) -> None:
        """Remove what was written."""
        for unit in self.units:
            self.files.remove(unit.tokens_path)

    def _write(self, columns: Columns, stored: Bool[np.ndarray, " token"]) -> None:
        """Write the token file of the next unit, with numbers for the rows that are stored."""
        unit, document_pos = len(self.units), columns["document_pos"]
        arrays = dict(columns) | {
            "row": pa.array(np.cumsum(stored) - 1, mask=~stored),
            "document_pos": pa.array(document_pos, pa.int32(), mask=document_pos == ADDED),
        }
        table = pa.table({name: arrays[name] for name in TOKEN_SCHEMA.names}, TOKEN_SCHEMA)
        file = write_table(self.files, tokens_path(unit, self.attempt), table)
        sequences = columns["sequence"]
        self.units.append(
            PlannedUnit(
                unit=unit,
                first_row=self._n_rows,
                n_rows=int(stored.sum()),
                n_tokens=len(stored),
                first_sequence=int(sequences[0]),
                n_sequences=int(sequences[-1] - sequences[0]) + 1,
                tokens_path=file.path,
                tokens_bytes=file.n_bytes,
                tokens_xxh3=file.xxh3,
            )
        )
        self._n_rows += int(stored.sum())


def _for_thinning(columns: Columns) -> Tokens:
    length = np.bincount(columns["sequence"] - columns["sequence"][0])
    return Tokens(
        columns["token_id"],
        columns["document"],
        columns["document_pos"],
        columns["pos"],
        np.repeat(length, length),
    )


def write_vocabulary(files: StoreFiles, tokenizer: Tokenizer) -> FileRecord:
    """Write the text of every token id, so that readers need no tokenizer."""
    pieces = [tokenizer.piece(token_id) for token_id in range(len(tokenizer))]
    table = pa.table({"token_id": range(len(pieces)), "token": pieces}, VOCABULARY_SCHEMA)
    return write_table(files, f"vocabulary-{new_attempt()}.parquet", table)


def write_table(files: StoreFiles, path: str, table: pa.Table) -> FileRecord:
    """Write a Parquet file; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    pending = files.begin(path)
    pending.write(buffer.getbuffer())
    return pending.publish()


def read_table(files: StoreFiles, file: FileRecord, schema: pa.Schema) -> pa.Table:
    """Read a Parquet file that `write_table` wrote.

    Raises:
        DamagedStoreError: it is missing, was altered, or has other columns.
    """
    try:
        data = files.read(checked_path(file.path))
    except FileNotFoundError as error:
        raise damaged(file.path, "it is missing") from error
    if len(data) != file.n_bytes or xxhash.xxh3_128_hexdigest(data) != file.xxh3:
        raise damaged(file.path, "its checksum is not that of its record")
    table = pq.read_table(io.BytesIO(data))
    if table.schema.remove_metadata() != schema:
        raise damaged(file.path, f"it has the columns {', '.join(table.column_names)}")
    return table
