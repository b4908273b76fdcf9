"""Copies of a view for other tools: a safetensors file, a Hugging Face dataset, a Zarr group.

Rows are streamed in the view's order, with their tokens; a copy appears under its name when it is
whole. Of one hook the values are called `x`, of aligned views by the hook's name. bfloat16 is kept
by safetensors alone and becomes float32 elsewhere, which loses nothing.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from secrets import token_hex

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from einops import rearrange
from jaxtyping import Shaped

from interp.errors import StoreError
from interp.store.index import COLUMNS
from interp.store.shard_layout import SAFETENSORS_NAMES
from interp.store.views import AlignedViews, View

HEADER_ALIGNMENT = 8
PIECES_PER_FILE = 16
"""Pieces of a view in each Arrow file of a dataset."""
NO_POSITION = -1
"""In Zarr, which has no null: the position in its document of a token that the store added."""


def to_safetensors(view: View | AlignedViews, path: str | Path) -> None:
    """Write a file that `safetensors.safe_open` reads, and a Parquet file of its tokens beside it.

    Row i of the tokens, in the file with the same stem, stands at row i of the values.

    Raises:
        StoreError: a file has one of the two names.
    """
    path = Path(path)
    with _new(path) as place, _new(path.with_suffix(".parquet")) as tokens:
        with place.open("xb") as file:
            file.write(_safetensors_header(view))
            for part in _parts(view).values():
                for piece in part.pieces():
                    file.write(part.rows(piece).view(torch.uint8).numpy().data)
        with pq.ParquetWriter(tokens, _token_table(view, slice(0)).schema) as writer:
            for piece in view.pieces():
                writer.write_table(_token_table(view, piece))


def to_datasets(view: View | AlignedViews, path: str | Path) -> None:
    """Write a folder that `datasets.load_from_disk` reads: values and tokens as columns.

    float16 stays float16; formatted as numpy or torch, `datasets` gives float32 unless it is told
    `with_format("numpy", dtype=np.float16)`.

    Raises:
        StoreError: the path exists, or the extra `export` is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise _missing("datasets") from error

    features = datasets.Features.from_arrow_schema(_table(view, slice(0)).schema)
    pieces = list(view.pieces())
    files = [pieces[i : i + PIECES_PER_FILE] for i in range(0, len(pieces), PIECES_PER_FILE)]
    files = files or [[]]
    names = [f"data-{number:05d}-of-{len(files):05d}.arrow" for number in range(len(files))]
    state = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": token_hex(8),
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    with _new(Path(path)) as folder:
        folder.mkdir()
        for name, rows in zip(names, files, strict=True):
            with pa.ipc.new_stream(str(folder / name), features.arrow_schema) as stream:
                for piece in rows:
                    stream.write_table(_table(view, piece).cast(features.arrow_schema))
        description = json.dumps(_source(view))
        info = datasets.DatasetInfo(description=description, features=features)
        info.write_to_directory(str(folder))
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def to_zarr(view: View | AlignedViews, path: str | Path) -> None:
    """Write a Zarr v3 group: values and tokens as arrays, without the tokens' text.

    Raises:
        StoreError: the path exists, or the extra `export` is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise _missing("zarr") from error

    axes = {name: part.layout.axes for name, part in _parts(view).items()}
    arrays: dict[str, zarr.Array] = {}
    with _new(Path(path)) as folder:
        group = zarr.create_group(str(folder), zarr_format=3, attributes=_source(view))
        for piece in view.pieces() if len(view) else [slice(0, 0)]:
            for name, values in _arrays(view, piece).items():
                if name not in arrays:
                    arrays[name] = group.create_array(
                        name,
                        shape=(len(view), *values.shape[1:]),
                        chunks=tuple(max(1, size) for size in values.shape),
                        dtype=values.dtype,
                        dimension_names=("row", *axes.get(name, ())),
                        compressors=None,  # activations hardly shrink
                    )
                arrays[name][piece] = values


def _parts(view: View | AlignedViews) -> dict[str, View]:
    """The values that are written, by their names."""
    return {"x": view} if isinstance(view, View) else view.views


def _source(view: View | AlignedViews) -> dict[str, str]:
    """Where the numbers are from."""
    spec = view.spec
    return {
        "hooks": ", ".join(view.hooks),
        "model": spec.model,
        "model_hash": spec.model_hash,
        "store": spec.sha,
        "versions": ", ".join(f"{name} {version}" for name, version in spec.versions.items()),
    }


def _safetensors_header(view: View | AlignedViews) -> bytes:
    entries, start = {}, 0
    for name, part in _parts(view).items():
        end = start + prod(part.shape) * part.dtype.itemsize
        dtype = SAFETENSORS_NAMES[part.layout.dtype]
        entries[name] = {"dtype": dtype, "shape": part.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps({"__metadata__": _source(view), **entries}).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _numbers(part: View, rows: slice) -> Shaped[np.ndarray, "row ..."]:
    """Values as numpy has them."""
    return part.rows(rows, torch.float32 if part.dtype == torch.bfloat16 else None).numpy()


def _arrays(view: View | AlignedViews, rows: slice) -> dict[str, np.ndarray]:
    """Values and tokens as numpy has them, without the tokens' text."""
    tokens = _token_table(view, rows)
    columns = {name: tokens[name] for name in COLUMNS if name != "token"}
    columns["document_pos"] = columns["document_pos"].fill_null(NO_POSITION)
    values = {name: _numbers(part, rows) for name, part in _parts(view).items()}
    return values | {name: column.to_numpy() for name, column in columns.items()}


def _token_table(view: View | AlignedViews, rows: slice) -> pa.Table:
    table = view.token_table(np.arange(*rows.indices(len(view))))
    place = table.column_names.index("token")
    return table.set_column(place, "token", table["token"].cast(pa.string()))


def _table(view: View | AlignedViews, rows: slice) -> pa.Table:
    """Values, each row a nested list, and tokens."""
    table = _token_table(view, rows)
    for name, part in _parts(view).items():
        values = _numbers(part, rows)
        column = pa.array(rearrange(values, "... -> (...)"))
        for size in reversed(part.feature):
            column = pa.FixedSizeListArray.from_arrays(column, size)
        table = table.append_column(name, column)
    return table


@contextmanager
def _new(path: Path) -> Iterator[Path]:
    """A place to write to, which gets the name of `path` once all is written."""
    if path.exists():
        raise StoreError(f"{path} exists already. Choose another name, or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{token_hex(4)}.partial")
    try:
        yield partial
        partial.rename(path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)


def _missing(library: str) -> StoreError:
    return StoreError(f'This needs the library {library}: pip install "interp[export]"')
