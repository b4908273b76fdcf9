"""How a shard lies in its file: a safetensors file of four tensors.

In this order: `x` [rows, *feature]; `mean` and `m2` [feature] in float64, its moments; and
`checksums` [chunk], xxh3_64 of each run of `rows_per_chunk` rows (about 64 KiB). The header is
padded with spaces to a whole page.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

import numpy as np
import torch

CHUNK_BYTES = 64 * 1024
PAGE = 4096
MAX_HEADER_BYTES = 2**20

SAFETENSORS_NAMES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}
STORED_AS = {"float16": np.uint16, "bfloat16": np.uint16, "float32": np.float32}
"""numpy has no bfloat16: 16-bit values are handled as plain bits."""


@dataclass(frozen=True)
class ShardRecord:
    """What a commit says about a shard."""

    path: str
    n_bytes: int
    xxh3: str
    """xxh3_128 of the whole file."""
    frame_xxh3: str
    """xxh3_128 of everything but `x`: header, moments and checksums."""
    dtype: str
    """`float16`, `bfloat16` or `float32`."""
    shape: tuple[int, ...]
    """(rows, *feature)."""
    data_offset: int
    """Where `x` begins."""


@dataclass(frozen=True)
class Layout:
    """Where everything lies after the header."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return prod(self.shape[1:]) * np.dtype(STORED_AS[self.dtype]).itemsize

    @property
    def rows_per_chunk(self) -> int:
        """Rows that share a checksum."""
        return max(1, CHUNK_BYTES // max(1, self.row_bytes))

    @property
    def n_chunks(self) -> int:
        """Checksums there are."""
        return ceil(self.shape[0] / self.rows_per_chunk)

    @property
    def x_bytes(self) -> int:
        """Size of all rows."""
        return self.shape[0] * self.row_bytes

    @property
    def moment_bytes(self) -> int:
        """Size of `mean`, and of `m2`."""
        return 8 * prod(self.shape[1:])

    @property
    def n_bytes(self) -> int:
        """Size of everything."""
        return self.x_bytes + 2 * self.moment_bytes + 8 * self.n_chunks

    @property
    def entries(self) -> bytes:
        """The end of the header's JSON, which says where each tensor lies."""
        name, rows, feature = SAFETENSORS_NAMES[self.dtype], self.shape[0], list(self.shape[1:])
        parts = {
            "x": (name, [rows, *feature], self.x_bytes),
            "mean": ("F64", feature, self.moment_bytes),
            "m2": ("F64", feature, self.moment_bytes),
            "checksums": ("U64", [self.n_chunks], 8 * self.n_chunks),
        }
        entries, start = {}, 0
        for part, (dtype, shape, n_bytes) in parts.items():
            offsets = [start, start + n_bytes]
            entries[part] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
            start += n_bytes
        return _compact(entries)[1:]


def shard_bytes(feature: tuple[int, ...], dtype: torch.dtype, n_rows: int) -> int:
    """Size of a shard on disk; exact while its header fits a page."""
    return PAGE + Layout(dtype_name(dtype), (n_rows, *feature)).n_bytes


def dtype_name(dtype: torch.dtype) -> str:
    """`float16` for `torch.float16`.

    Raises:
        ValueError: shards do not hold this type.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in STORED_AS:
        raise ValueError(f"Shards hold {', '.join(STORED_AS)}, not {name}.")
    return name


def header(layout: Layout, metadata: Mapping[str, str]) -> bytes:
    """Length and JSON of a safetensors header, padded with spaces to a whole page."""
    about = {**metadata, "rows_per_chunk": str(layout.rows_per_chunk)}
    text = _compact({"__metadata__": about})[:-1] + b"," + layout.entries
    text += b" " * (-(8 + len(text)) % PAGE)
    return len(text).to_bytes(8, "little") + text


def _compact(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
