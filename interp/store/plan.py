"""The plan of a store: which tokens the model is given, in which units, and which rows are stored.

The corpus is read once. Each unit's tokens become a Parquet file in the store, from which workers
and readers take them; nobody needs the corpus again. In a unit the sequences stand in the order of
their length, so that a batch holds hardly any padding.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash
from jaxtyping import Bool

from interp.errors import ResourceError, StoreError
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

RISING = ("row", "document", "sequence")
"""Columns that are stored as differences: the file is a third as large."""

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

    @property
    def tokens(self) -> FileRecord:
        """The file of its tokens."""
        return FileRecord(self.tokens_path, self.tokens_bytes, self.tokens_xxh3)


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
        return read_table(files, self.units[unit].tokens, TOKEN_SCHEMA)


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
    thinning = Thinning(checked_positions(positions, ctx), Subsample.parse(subsample), seed)
    reader = SequenceReader(documents, tokenizer, ctx, packing, prepend_bos)
    writer = PlanWriter(files, thinning)

    def progress() -> None:
        if watch:
            watch(reader.fingerprint.n_documents, writer.n_tokens)

    try:
        for sequences in units_of(limited(reader, max_tokens), unit_tokens):
            writer.add(sequences)
            progress()
        writer.settle(progress)
        if not writer.units:
            raise StoreError(
                "There is nothing to read: no text gave a token."
                if max_tokens is None
                else f"max_tokens is {max_tokens}, less than the first sequence has."
            )
        if not writer.n_rows:
            raise StoreError(f"positions={positions!r}, subsample={subsample!r} leave no row.")
        table = pa.Table.from_pylist([vars(unit) for unit in writer.units], PLAN_SCHEMA)
        return PlanRecord(
            file=write_table(files, f"plan-{writer.attempt}.parquet", table),
            fingerprint=reader.fingerprint.digest,
            n_documents=reader.fingerprint.n_documents,
            n_sequences=writer.n_sequences,
            n_tokens=writer.n_tokens,
            n_rows=writer.n_rows,
            n_units=len(writer.units),
        )
    except BaseException:
        writer.discard()
        raise


def checked_positions(positions: str, ctx: int) -> tuple[int, ...] | None:
    """Positions that some sequence can have; None for all.

    Raises:
        StoreError: one of them lies outside every sequence.
    """
    chosen = parse_positions(positions)
    outside = [position for position in chosen or () if not -ctx <= position < ctx]
    if outside:
        raise StoreError(f"positions holds {outside[0]}; sequences have at most {ctx} tokens.")
    return chosen


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
        self.n_sequences = self.n_tokens = self.n_rows = 0
        self._provisional: list[PlannedUnit] = []

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
        self.n_sequences += len(sequences)
        self.n_tokens += len(pos)

    def settle(self, progress: Callable[[], None]) -> None:
        """Write the files of all units again if only now their rows can be chosen."""
        if not self.thinning.sees_all_first:
            return
        self._provisional, self.attempt = self.units, new_attempt()
        self.units, self.n_rows = [], 0
        for unit in self._provisional:
            table = read_table(self.files, unit.tokens, TOKEN_SCHEMA).drop_columns("row")
            document_pos = pc.fill_null(table["document_pos"], ADDED)
            columns = {name: table[name].to_numpy() for name in table.column_names}
            columns["document_pos"] = document_pos.to_numpy()
            self._write(columns, self.thinning.stored(_for_thinning(columns)))
            self.files.remove(unit.tokens_path)
            progress()

    def discard(self) -> None:
        """Remove what was written; what cannot be removed belongs to no store."""
        with suppress(OSError, ResourceError):
            for unit in (*self._provisional, *self.units):
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
                first_row=self.n_rows,
                n_rows=int(stored.sum()),
                n_tokens=len(stored),
                first_sequence=int(sequences[0]),
                n_sequences=int(sequences[-1] - sequences[0]) + 1,
                tokens_path=file.path,
                tokens_bytes=file.n_bytes,
                tokens_xxh3=file.xxh3,
            )
        )
        self.n_rows += int(stored.sum())


def _for_thinning(columns: Columns) -> Tokens:
    length = np.bincount(columns["sequence"] - columns["sequence"][0])
    place = columns["document_pos"].copy()
    # A long document has a BOS in each of its pieces: they differ by the token that follows.
    (bos,) = np.nonzero(columns["bos"])
    place[bos] = -2 - place[bos + 1]
    return Tokens(
        columns["token_id"],
        columns["document"],
        place,
        columns["pos"],
        np.repeat(length, length),
    )


def write_vocabulary(files: StoreFiles, tokenizer: Tokenizer) -> FileRecord:
    """Write the text of every token id, so that readers need no tokenizer."""
    ids = sorted(set(tokenizer.backend.get_vocab().values()))  # added tokens may leave gaps
    table = pa.table({"token_id": ids, "token": map(tokenizer.piece, ids)}, VOCABULARY_SCHEMA)
    return write_table(files, f"vocabulary-{new_attempt()}.parquet", table)


def write_table(files: StoreFiles, path: str, table: pa.Table) -> FileRecord:
    """Write a Parquet file; equal tables give equal bytes."""
    rising = [name for name in table.column_names if name in RISING]
    others = [name for name in table.column_names if name not in RISING]
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        compression="zstd",
        use_dictionary=others,
        column_encoding=dict.fromkeys(rising, "DELTA_BINARY_PACKED"),
    )
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
    # Not pq.read_table: its threads may outlive the interpreter, which then aborts.
    table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    if table.schema.remove_metadata() != schema:
        raise damaged(file.path, f"it has the columns {', '.join(table.column_names)}")
    return table
