"""The stores below one folder of this machine: which there are, how far they are, and their end.

Names are paths relative to that folder, and nothing outside it is ever reached: parts that climb,
begin with a dot or are links are refused. A folder that cannot be read as a store is listed with
the reason, and is never removed.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import pandas as pd
import pyarrow as pa

from interp.errors import InterpError, StoreError
from interp.store.attempts import open_work
from interp.store.durable import LocalFiles, disk_errors
from interp.store.naming import (
    ATTEMPTS,
    COMMITS,
    DATA,
    FAILED,
    GROUPS,
    STORE,
    TOKENS,
    UNPUBLISHED,
    is_of_a_store,
    is_of_an_attempt,
    is_store_name,
)
from interp.store.planned import PlannedStore
from interp.store.spec import read_store
from interp.store.status import status

MAX_DEPTH = 4
"""Parts of a store's name."""
MAX_FOLDERS = 10_000
"""Looked into at most."""
FOLDERS = (COMMITS, DATA, TOKENS, GROUPS, ATTEMPTS, FAILED, UNPUBLISHED)
"""Of a store; commits first, so that what is removed is never served."""

State = Literal["complete", "partial", "under way", "given up", "unplanned", "unreadable"]
"""`partial`: units are missing; `under way`: somebody works on it; `given up`: units failed too
often; `unplanned`: it was stopped while the texts were read."""


@dataclass(frozen=True)
class Entry:
    """One store of a folder."""

    name: str
    """Path relative to the folder."""
    state: State
    n_documents: int
    n_tokens: int
    n_rows: int
    """Of a complete store."""
    hooks: tuple[str, ...]
    n_units: int
    """Of all groups of hooks."""
    n_committed: int
    """Of the units."""
    n_bytes: int
    """On disk, of all files."""
    model: str
    model_hash: str
    written: str
    """When it was planned, in UTC."""
    problem: str
    """Why it cannot be read, or why units were given up."""


def entries(root: Path) -> list[Entry]:
    """Every store below a folder, by name."""
    return [entry(root, name) for name in sorted(_names(root))]


def stores(root: str | Path) -> pd.DataFrame:
    """Every store below a folder, by name: the fields of `Entry`, hooks joined by commas."""
    rows = [asdict(each) | {"hooks": ", ".join(each.hooks)} for each in entries(Path(root))]
    return pd.DataFrame(rows, columns=list(Entry.__annotations__))


def entry(root: Path, name: str) -> Entry:
    """One store, whatever its state; what cannot be read is told in `problem`.

    Raises:
        StoreError: this is no name of a store, or there is none.
    """
    place = folder(root, name)
    if not place.is_dir():
        raise StoreError(f"There is no store {name!r} in {root}.")
    try:
        if (place / STORE).exists():
            return _planned(name, place)
        return _unread(name, place, "unplanned", "It was stopped while the texts were read.")
    except (InterpError, pa.ArrowException, OSError) as error:
        return _unread(name, place, "unreadable", str(error))


def folder(root: Path, name: str) -> Path:
    """Where the store of a name lies, or would lie.

    Raises:
        StoreError: the name climbs out, has other characters than letters, digits and `_.~%+-`,
            leads through a link, or lies inside another store.
    """
    parts = name.split("/")
    if len(parts) > MAX_DEPTH or not all(map(is_store_name, parts)):
        raise StoreError(
            f"{name[:100]!r} is no name of a store. A name has letters, digits and _.~%+-, begins "
            f"with a letter or digit, and may lie in up to {MAX_DEPTH - 1} folders, as in "
            "study/run-1."
        )
    place = root
    for number, part in enumerate(parts, 1):
        place = place / part
        if place.is_symlink():
            raise StoreError(f"{place} is a link. Give the folder itself a place in {root}.")
        if number < len(parts) and (place / STORE).exists():
            raise StoreError(f"{place} is a store itself; choose a name outside it.")
    return place


def delete(root: Path, name: str) -> list[str]:
    """Remove a store: every file that a store writes, and the folders that are then empty.

    Files of other kinds stay, and so do the folders they are in. Stopped on the way, it leaves an
    incomplete store, which can be removed again.

    Returns:
        Names of the files that were left, at most one for each of its folders.

    Raises:
        StoreError: this is no store, or somebody works on it.
        ResourceError: a file may not be removed.
    """
    place = folder(root, name)
    files = LocalFiles(place)
    _check_removable(files, name)
    for part in (*FOLDERS, ""):
        for found in files.names(part, recursive=bool(part)):
            path = f"{part}/{found}" if part else found
            if path != STORE and is_of_a_store(path):
                files.remove(path)
    files.remove(STORE)
    inner = [place / DATA / each for each in _folders(place / DATA)]
    kept = []
    for each in (*inner, *(place / part for part in FOLDERS), place):
        with disk_errors(each), suppress(FileNotFoundError):
            left = sorted(os.listdir(each))  # noqa: PTH208
            if left:
                kept.append((each / left[0]).relative_to(place).as_posix())
            else:
                each.rmdir()
    return kept


def _check_removable(files: LocalFiles, name: str) -> None:
    if read_store(files) is None:
        others = [each for each in files.names("") if not is_of_an_attempt(each)]
        if others or not _looks_begun(files.root):
            raise StoreError(f"{name!r} is no store, so nothing of it is removed.")
        return
    taken = []
    with suppress(InterpError, pa.ArrowException):  # damaged, so nobody can work on it
        taken = open_work(files, PlannedStore.read(files).work).taken
    if taken:
        raise StoreError(f"Somebody works on {name!r}. Stop that first, then remove it.")


def _planned(name: str, place: Path) -> Entry:
    store = PlannedStore.read(LocalFiles(place))
    found = status(store)
    state: State = "complete" if found.is_complete else "partial"
    if found.n_under_way:
        state = "under way"
    elif found.failed:
        state = "given up"
    reasons = [reason for why in found.failed.values() for reason in why]
    return Entry(
        name=name,
        state=state,
        n_documents=store.record.plan.n_documents,
        n_tokens=store.record.plan.n_tokens,
        n_rows=store.record.plan.n_rows,
        hooks=tuple(found.hooks),
        n_units=found.n_planned,
        n_committed=found.n_committed,
        n_bytes=_n_bytes(place),
        model=store.spec.model,
        model_hash=store.spec.model_hash,
        written=_written(place / STORE),
        problem=reasons[0] if reasons else "",
    )


def _unread(name: str, place: Path, state: State, problem: str) -> Entry:
    return Entry(
        name, state, n_documents=0, n_tokens=0, n_rows=0, hooks=(), n_units=0, n_committed=0,
        n_bytes=_n_bytes(place), model="", model_hash="", written=_written(place), problem=problem,
    )  # fmt: skip


def _names(root: Path) -> Iterator[str]:
    """Names of all folders that hold a store, or the beginning of one."""
    waiting, n_seen = [""], 0
    while waiting and n_seen < MAX_FOLDERS:
        name = waiting.pop(0)
        place = root / name
        n_seen += 1
        if name and ((place / STORE).is_file() or _looks_begun(place)):
            yield name
        elif name.count("/") + bool(name) < MAX_DEPTH:
            inner = filter(is_store_name, _folders(place))
            waiting += [f"{name}/{each}" if name else each for each in inner]


def _looks_begun(place: Path) -> bool:
    """Whether tokens were written, and nothing names them yet."""
    inside = LocalFiles(place)
    with suppress(InterpError):
        names = [f"{TOKENS}/{each}" for each in inside.names(TOKENS)]
        return bool(names) and all(map(is_of_an_attempt, names))
    return False


def _folders(place: Path) -> list[str]:
    """Folders in a folder that are no links; none of one that may not be read."""
    with suppress(OSError), os.scandir(place) as found:
        return sorted(each.name for each in found if each.is_dir(follow_symlinks=False))
    return []


def _n_bytes(place: Path) -> int:
    total = 0
    for inside, _, names in os.walk(place):
        for each in names:
            with suppress(OSError):
                found = os.lstat(Path(inside, each))
                total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def _written(place: Path) -> str:
    with suppress(OSError):
        return datetime.fromtimestamp(place.stat().st_mtime, UTC).isoformat(" ", "seconds")[:16]
    return ""
