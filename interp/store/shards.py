"""Shards: the values of one hook in one unit, as one safetensors file.

Whoever reads a few rows checks just their runs of 64 KiB, against checksums in the file. The rest
of the file, the frame, has a checksum in the record that the commit keeps. Anyone can read
`x` with the `safetensors` library; here it is memory-mapped.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import xxhash
from einops import rearrange
from jaxtyping import Float64, Int, Shaped
from torch import Tensor

from interp.store.durable import reading_errors
from interp.store.files import PendingFile
from interp.store.moments import Moments
from interp.store.naming import FORMAT
from interp.store.records import damaged
from interp.store.shard_layout import (
    MAX_HEADER_BYTES,
    STORED_AS,
    Layout,
    ShardRecord,
    dtype_name,
    header,
)

READ_BYTES = 8 * 2**20

Verify = Literal["rows", "size", "none"]


class ShardWriter:
    """A shard in the making, written row by row; nothing is held but one chunk's checksum.

    Args:
        pending: Where it is written.
        n_rows: How many rows there will be.
        metadata: More than hook and unit to say in the header.
    """

    def __init__(
        self,
        pending: PendingFile,
        *,
        hook: str,
        unit: int,
        n_rows: int,
        feature: tuple[int, ...],
        dtype: torch.dtype,
        metadata: Mapping[str, str],
    ) -> None:
        self.layout = Layout(dtype_name(dtype), (n_rows, *feature))
        self._pending = pending
        self._dtype = dtype
        self._n_appended = 0
        self._checksums: list[int] = []
        self._chunk = xxhash.xxh3_64()
        head = header(
            self.layout,
            {**metadata, "hook": hook, "unit": str(unit), "format": str(FORMAT)},
        )
        self._data_offset = len(head)
        self._frame = xxhash.xxh3_128(head)
        pending.write(head)

    def append(self, rows: Shaped[Tensor, "rows ..."]) -> None:
        """Write the next rows; on the CPU, and in the shard's type."""
        if rows.shape[1:] != self.layout.shape[1:] or rows.dtype != self._dtype:
            raise ValueError(
                f"Expected rows {self.layout.shape[1:]} of {self._dtype}, got "
                f"{tuple(rows.shape[1:])} of {rows.dtype}."
            )
        if self._n_appended + len(rows) > self.layout.shape[0]:
            raise ValueError(f"More rows than the {self.layout.shape[0]} announced.")
        if rows.numel() == 0:
            return
        data = rearrange(rows, "... -> (...)").contiguous().view(torch.uint8).numpy().data
        start = 0
        while start < len(rows):
            room = self.layout.rows_per_chunk - self._n_appended % self.layout.rows_per_chunk
            stop = min(len(rows), start + room)
            self._chunk.update(data[start * self.layout.row_bytes : stop * self.layout.row_bytes])
            self._n_appended += stop - start
            start = stop
            if self._n_appended % self.layout.rows_per_chunk == 0:
                self._end_chunk()
        self._pending.write(data)

    def finish(self, moments: Moments) -> ShardRecord:
        """Write the rest and publish the shard.

        Args:
            moments: Of the rows before they were rounded to the shard's type.
        """
        n_rows = self.layout.shape[0]
        if not self._n_appended == moments.count == n_rows:
            raise ValueError(
                f"{n_rows} rows announced, {self._n_appended} written, moments of {moments.count}."
            )
        if len(self._checksums) < self.layout.n_chunks:
            self._end_chunk()
        checksums = np.array(self._checksums, dtype="<u8")
        rest = moments.mean.numpy().tobytes() + moments.m2.numpy().tobytes() + checksums.tobytes()
        self._frame.update(rest)
        self._pending.write(rest)
        file = self._pending.publish()
        return ShardRecord(
            path=file.path,
            n_bytes=file.n_bytes,
            xxh3=file.xxh3,
            frame_xxh3=self._frame.hexdigest(),
            dtype=self.layout.dtype,
            shape=self.layout.shape,
            data_offset=self._data_offset,
        )

    def discard(self) -> None:
        """Forget the shard; harmless when it is finished."""
        self._pending.discard()

    def _end_chunk(self) -> None:
        self._checksums.append(self._chunk.intdigest())
        self._chunk.reset()


class Shard:
    """A shard on disk, mapped into memory.

    Args:
        record: What the commit says about it.
        verify: `rows` also checks every row before it is given out, once; `size` only size,
            header, moments and checksums, now; `none` nothing.

    Raises:
        DamagedStoreError: the file is missing or not what the record says; names the file.
    """

    def __init__(self, path: Path, record: ShardRecord, *, verify: Verify = "rows") -> None:
        self.path = path
        self.record = record
        self.layout = _checked_layout(path, record)
        if verify != "none":
            self._check_frame()
        self.raw = self._mapped()
        """[rows, *feature] as bits: uint16, or float32."""
        self._is_checked = np.full(self.layout.n_chunks, verify != "rows")
        self._all_checked = verify != "rows"

    @property
    def n_rows(self) -> int:
        """Rows of the shard."""
        return self.layout.shape[0]

    @property
    def mean(self) -> Float64[np.ndarray, "..."]:
        """Mean of each feature, before rounding to the shard's type."""
        return self._moment(0)

    @property
    def m2(self) -> Float64[np.ndarray, "..."]:
        """Sum of squared differences from the mean."""
        return self._moment(1)

    def rows(
        self, index: Int[np.ndarray, " row"], out: Shaped[np.ndarray, "row ..."] | None = None
    ) -> Shaped[np.ndarray, "row ..."]:
        """Rows by number, as bits.

        Args:
            out: Where to put them.

        Raises:
            IndexError: there is no such row.
            DamagedStoreError: one of them is not what was written.
        """
        if len(index) and not 0 <= index.min() <= index.max() < self.n_rows:
            raise IndexError(f"{self.path} has rows 0 to {self.n_rows - 1}.")
        if not self._all_checked:
            self._check(index // self.layout.rows_per_chunk)
        # Clipping, which the check above makes a no-op, spares numpy a copy of its own.
        return np.take(self.raw, index, axis=0, out=out, mode="clip")

    def slice(self, start: int, stop: int) -> Shaped[np.ndarray, "row ..."]:
        """Rows from `start` to before `stop`, as bits: a view of the file.

        Raises:
            IndexError: there are no such rows.
            DamagedStoreError: one of them is not what was written.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise IndexError(f"{self.path} has rows 0 to {self.n_rows - 1}.")
        if not self._all_checked and start < stop:
            per_chunk = self.layout.rows_per_chunk
            self._check(np.arange(start // per_chunk, (stop - 1) // per_chunk + 1))
        return self.raw[start:stop]

    def verify(self) -> None:
        """Read the whole file and compare its checksum.

        Raises:
            DamagedStoreError: it is not the file that was written.
        """
        digest = xxhash.xxh3_128()
        for block in _blocks(self.path):
            digest.update(block)
        if digest.hexdigest() != self.record.xxh3:
            raise damaged(self.path, "its checksum is not that of its record")
        self._all_checked = True

    def _check(self, chunks: Int[np.ndarray, " chunk"]) -> None:
        """Compare the checksums of chunks that were not compared before."""
        per_chunk = self.layout.rows_per_chunk
        for chunk in np.unique(chunks[~self._is_checked[chunks]]).tolist():
            rows = self.raw[chunk * per_chunk : (chunk + 1) * per_chunk]
            if xxhash.xxh3_64_intdigest(rows.data) != self._checksums[chunk]:
                last = min((chunk + 1) * per_chunk, self.n_rows) - 1
                raise damaged(self.path, f"rows {chunk * per_chunk} to {last} were altered")
            self._is_checked[chunk] = True
        self._all_checked = bool(self._is_checked.all())

    def _check_frame(self) -> None:
        with _readable(self.path):
            found = self.path.stat().st_size
        if found != self.record.n_bytes:
            raise damaged(self.path, f"it has {found:,} of {self.record.n_bytes:,} bytes")
        head = _part(self.path, 0, self.record.data_offset)
        if xxhash.xxh3_128_hexdigest(head + self._rest) != self.record.frame_xxh3:
            raise damaged(self.path, "its header, moments or checksums are not those recorded")
        if not head.rstrip(b" ").endswith(self.layout.entries):
            raise damaged(self.path, f"its record says {self.record.dtype}, {self.record.shape}")

    @cached_property
    def _rest(self) -> bytes:
        """What follows the rows."""
        start = self.record.data_offset + self.layout.x_bytes
        return _part(self.path, start, self.layout.n_bytes - self.layout.x_bytes)

    @cached_property
    def _checksums(self) -> list[int]:
        start = 2 * self.layout.moment_bytes
        return np.frombuffer(self._rest[start:], dtype="<u8").tolist()

    def _moment(self, place: int) -> Float64[np.ndarray, "..."]:
        size = self.layout.moment_bytes
        part = np.frombuffer(self._rest[place * size : (place + 1) * size], dtype="<f8")
        return part.reshape(self.layout.shape[1:])

    def _mapped(self) -> Shaped[np.ndarray, "row ..."]:
        dtype, shape = STORED_AS[self.record.dtype], self.layout.shape
        with _readable(self.path):
            if self.path.stat().st_size < self.record.data_offset + self.layout.x_bytes:
                raise damaged(self.path, "it is cut off")
            mapped = np.memmap(self.path, dtype, "r", self.record.data_offset, shape)
        return mapped.view(np.ndarray)


def _checked_layout(path: Path, record: ShardRecord) -> Layout:
    """The layout that a record describes, if it is one that a `ShardWriter` writes."""
    if record.dtype not in STORED_AS or not record.shape:
        raise damaged(path, f"its record says {record.dtype!r:.40}, {record.shape}")
    layout = Layout(record.dtype, record.shape)
    n_bytes = record.data_offset + layout.n_bytes
    if n_bytes != record.n_bytes or not 0 < record.data_offset <= MAX_HEADER_BYTES:
        raise damaged(path, f"its record says {record.n_bytes:,} bytes for {n_bytes:,}")
    return layout


def _part(path: Path, start: int, n_bytes: int) -> bytes:
    with _readable(path), path.open("rb") as file:
        file.seek(start)
        return file.read(n_bytes)


def _blocks(path: Path) -> Iterator[bytes]:
    with _readable(path), path.open("rb") as file:
        while block := file.read(READ_BYTES):
            yield block


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        with reading_errors(path):
            yield
    except FileNotFoundError as problem:
        raise damaged(path, "it is missing") from problem
