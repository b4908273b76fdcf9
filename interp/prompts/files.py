"""Your own prompts: a CSV or JSON Lines file with one clean and corrupted pair in each row."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.prompts.drawing import last_position
from interp.prompts.prompt_pairs import PromptPair, PromptPairs, check

COLUMNS = ("clean", "corrupted", "answer", "wrong")
"""Required; `group` may be given, and other columns are ignored."""


def from_file(model: HookedGPT2, path: str | Path) -> PromptPairs:
    """Read pairs from a `.csv` with a header or a `.jsonl` with an object a line, in UTF-8.

    Columns: clean, corrupted, answer, wrong, and optionally group. Answers keep their leading
    space, as in " Mary".

    Returns:
        Pairs with the role END, named after the file.

    Raises:
        PromptError: the file cannot be read, a column is missing or a cell empty (with its line),
            or the pairs do not pass `check`.
    """
    path = Path(path)
    readers = {".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix.lower() not in readers:
        raise PromptError(f"{path.name}: prompts are read from .csv and .jsonl files only.")
    if not path.is_file():
        raise PromptError(f"There is no file {path}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PromptError(
            f"{path.name}, line {line}: not UTF-8. Save the file as UTF-8."
        ) from error
    rows = readers[path.suffix.lower()](path.name, text)
    examples = tuple(_pair(model, f"{path.name}, line {line}", row) for line, row in rows)
    if not examples:
        raise PromptError(f"{path.name} holds no prompts.")
    pairs = PromptPairs(path.stem, examples)
    check(model, pairs)
    return pairs


def _csv_rows(name: str, text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        line = reader.reader.line_num
        raise PromptError(f"{name}, line {line}: not CSV: {error}.") from error


def _json_rows(name: str, text: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise PromptError(f"{name}, line {line}: not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise PromptError(f"{name}, line {line}: expected an object, got {content.strip():.40}")
        yield line, row


def _pair(model: HookedGPT2, place: str, row: Mapping[str, object]) -> PromptPair:
    missing = [column for column in COLUMNS if column not in row]
    if missing:
        raise PromptError(
            f"{place}: {', '.join(missing)} is missing. Needed are {', '.join(COLUMNS)}; "
            f"there are {', '.join(map(str, row))}."
        )
    if None in row:
        raise PromptError(f"{place}: more cells than columns. Put texts with commas in quotes.")
    cells = {column: row[column] for column in COLUMNS}
    texts = {column: cell for column, cell in cells.items() if isinstance(cell, str)}
    empty = [column for column in COLUMNS if not texts.get(column, "").strip()]
    if empty:
        raise PromptError(f"{place}: {', '.join(empty)} must be text that is not empty.")
    try:
        end = last_position(model, texts["clean"])
    except PromptError as error:
        raise PromptError(f"{place}: {error}") from error
    return PromptPair(**texts, roles={"END": end}, group=str(row.get("group") or ""))
