"""The documents of a corpus, one at a time: text files, JSON Lines, Parquet, datasets, Python.

Files are read as a stream: no more than one document, or one small Parquet batch, is in memory. A
file that cannot be read to its end is an error that names it; nothing is skipped but blank lines.
Compressed text files (`.gz`, `.zst`) are read as they are.
"""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from interp.errors import StoreError

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
"""Endings of compressed text files."""
JSON_ENDINGS = (".jsonl", ".ndjson")
TEXT_ENDINGS = (".txt", *JSON_ENDINGS)
ENDINGS = (*TEXT_ENDINGS, ".parquet")
"""Endings that are read; those of texts also with an ending of `COMPRESSIONS` behind."""
MAX_DOCUMENT_CHARACTERS = 10_000_000
"""Longest document; longer ones must be split (War and Peace has 3 million characters)."""
MAX_LINE_BYTES = 12 * MAX_DOCUMENT_CHARACTERS
"""Longest line: in JSON a character outside the basic plane can take 12 bytes."""
MAX_NAME_CHARACTERS = 255
"""Longest name of a file that is looked for in a list of str."""
ROWS_PER_BATCH = 256
"""Rows of a Parquet file that are in memory together."""
BUFFER_BYTES = 1 << 20
"""Read at once from a Parquet file."""


@dataclass(frozen=True)
class TextFiles:
    """Documents of files; reading them again gives them again."""

    paths: tuple[Path, ...]
    column: str
    """Column of a table, or key of a JSON object, that holds the text."""
    document: Literal["line", "file"]
    """What a document of a `.txt` file is."""

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            yield from self._documents(path)

    def _documents(self, path: Path) -> Iterator[str]:
        kind = _kind(path)
        if kind == ".parquet":
            return _parquet_texts(path, self.column)
        if kind == ".arrow":
            return _arrow_texts(path, self.column)
        if kind in JSON_ENDINGS:
            return (_json_text(line, at, self.column) for at, line in _lines(path))
        if self.document == "file":
            return iter([_whole_text(path)])
        return (line for _, line in _lines(path))


def open_texts(
    texts: str | Path | Sequence[Path] | Iterable[str],
    *,
    column: str = "text",
    document: Literal["line", "file"] = "line",
) -> Iterable[str]:
    """The documents of files, of a folder of files, of a dataset, or of Python itself.

    Args:
        texts: A file (`.txt`, `.jsonl`, `.ndjson`, `.parquet`; texts also `.gz` and `.zst`); a
            folder that holds such files, read in the order of their names; a folder written by
            Hugging Face's `save_to_disk`; a list of these as `Path` objects; or documents as str.
        column: Column or key that holds the text.
        document: Of a `.txt` file, each line that is not blank is a document, or the whole file.

    Returns:
        Documents in order. Of files, they can be read any number of times.

    Raises:
        StoreError: there is no such file, or it is of a kind that is not read. While the documents
            are read: a file is damaged, is not UTF-8, or has no text in that column.
    """
    if document not in ("line", "file"):
        raise StoreError(f"A document is a 'line' or a 'file', not {document!r}.")
    if isinstance(texts, str | Path):
        return TextFiles(tuple(_files(Path(texts))), column, document)
    if not isinstance(texts, Sequence):
        return texts
    if not texts:
        raise StoreError("The list of texts is empty. Pass documents, or Path objects of files.")
    if all(isinstance(path, Path) for path in texts):
        paths = [file for path in texts for file in _files(Path(path))]
        return TextFiles(tuple(paths), column, document)
    if any(isinstance(text, Path) or _names_a_file(text) for text in texts[:1]):
        raise StoreError(
            f"The list begins with {str(texts[0])!r}, a file, and holds str, which are documents. "
            "Pass files as Path objects, all of them."
        )
    return cast("Sequence[str]", texts)


def _names_a_file(text: object) -> bool:
    if not isinstance(text, str) or len(text) > MAX_NAME_CHARACTERS:
        return False
    return text.endswith(_readable_endings()) and Path(text).is_file()


def _readable_endings() -> tuple[str, ...]:
    return (*ENDINGS, *(text + packed for text in TEXT_ENDINGS for packed in COMPRESSIONS))


def _files(path: Path) -> list[Path]:
    """The files of a file, a folder or a dataset, in order."""
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise StoreError(
            f"There is no file or folder {str(path)[:MAX_NAME_CHARACTERS]!r}. A document itself "
            "goes into a list: [text]."
        ) from error
    if path.is_file():
        if not path.name.endswith(_readable_endings()):
            raise StoreError(
                f"{path} has an ending that is not read. Known are {', '.join(ENDINGS)}; texts "
                f"also with {' or '.join(COMPRESSIONS)}."
            )
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = _described(path / "dataset_dict.json", "splits")
        raise StoreError(f"{path} holds several splits: {', '.join(splits)}. Name one: {path}/...")
    if (path / "state.json").is_file():
        return [path / Path(name).name for name in _described(path / "state.json", "_data_files")]
    files = sorted(file for file in path.rglob("*") if _is_wanted(file.relative_to(path), file))
    if not files:
        raise StoreError(f"The folder {path} holds no file that is read: {', '.join(ENDINGS)}.")
    return files


def _is_wanted(name: Path, file: Path) -> bool:
    """Whether a file of a folder is read: hidden ones and other kinds are not."""
    is_hidden = any(part.startswith(".") for part in name.parts)
    return not is_hidden and name.name.endswith(_readable_endings()) and file.is_file()


def _described(path: Path, key: str) -> list[str]:
    """Names out of the description that `save_to_disk` writes."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))[key]
        return [entry["filename"] if key == "_data_files" else str(entry) for entry in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is not the description of a dataset: {error!r}.") from error


def _kind(path: Path) -> str:
    return (path.with_suffix("") if path.suffix in COMPRESSIONS else path).suffix


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of reading become one that names the file."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{path} cannot be read to its end: {error}") from error


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line that is not blank stands, and the line without its end."""
    with _naming(path), _opened(path) as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > MAX_LINE_BYTES:
                raise StoreError(f"{where}, is longer than {MAX_LINE_BYTES} bytes.")
            text = _decoded(line, where).removesuffix("\n").removesuffix("\r")
            if number == 1:
                text = text.removeprefix("\ufeff")
            if text.strip():
                yield where, text


def _whole_text(path: Path) -> str:
    with _naming(path), _opened(path) as file:
        data = file.read(4 * MAX_DOCUMENT_CHARACTERS + 1)  # UTF-8 takes up to 4 bytes
    if len(data) > 4 * MAX_DOCUMENT_CHARACTERS:
        raise StoreError(
            f"{path} is longer than {MAX_DOCUMENT_CHARACTERS} characters. Split it, or make each "
            'line a document: document="line".'
        )
    return _decoded(data, str(path)).removeprefix("\ufeff")


def _opened(path: Path) -> io.BufferedReader:
    compression = COMPRESSIONS.get(path.suffix)
    if compression and path.stat().st_size == 0:
        raise OSError("it is empty, which no compressed file is")
    return io.BufferedReader(pa.input_stream(str(path), compression=compression))


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise StoreError(
            f"{where}: not UTF-8 (byte {data[error.start]:#04x} at {error.start}). Convert it."
        ) from error


def _json_text(line: str, where: str, column: str) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise StoreError(
            f"{where}: expected an object such as {{{column!r}: ...}}, got {type(found).__name__}."
        )
    if column not in found:
        raise _missing(where, column, list(found))
    return _text(found[column], where, column)


def _text(value: object, where: str, column: str) -> str:
    if not isinstance(value, str):
        raise StoreError(f"{where}: {column!r} holds {type(value).__name__}, not a text.")
    return value


def _missing(where: str, column: str, names: Sequence[str]) -> StoreError:
    return StoreError(
        f"{where}: no column {column!r}. There are: {', '.join(sorted(names)) or 'none'}. Choose "
        "with column=."
    )


def _parquet_texts(path: Path, column: str) -> Iterator[str]:
    # Without these options a whole column of a row group is read at once.
    options = {"buffer_size": BUFFER_BYTES, "pre_buffer": False}
    with _naming(path), pq.ParquetFile(path, **options) as file:
        _check_column(path, file.schema_arrow, column)
        yield from _column_texts(path, file.iter_batches(ROWS_PER_BATCH, columns=[column]), column)


def _arrow_texts(path: Path, column: str) -> Iterator[str]:
    with _naming(path), pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as batches:
        _check_column(path, batches.schema, column)
        yield from _column_texts(path, batches, column)


def _check_column(path: Path, schema: pa.Schema, column: str) -> None:
    if column not in schema.names:
        raise _missing(str(path), column, schema.names)


def _column_texts(path: Path, batches: Iterable[pa.RecordBatch], column: str) -> Iterator[str]:
    row = 0
    for batch in batches:
        for value in batch.column(column):
            yield _text(value.as_py(), f"{path}, row {row}", column)
            row += 1
