"""Is everything there, is it what was written, and what may be removed?"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from interp.errors import DamagedStoreError
from interp.store.commits import committed, read_commit
from interp.store.files import StoreFiles
from interp.store.naming import DATA, STORE, TOKENS, UNPUBLISHED, commit_path, is_of_an_attempt
from interp.store.planned import PlannedStore
from interp.store.shards import Shard

GRACE_SECONDS = 24 * 3600.0
"""Younger files may belong to a process that is still at work."""


def verify(
    store: PlannedStore, *, full: bool = False, watch: Callable[[int, int], None] | None = None
) -> list[str]:
    """Every problem of a store, each naming its file; empty if it is sound.

    Sizes, headers, token tables and records are always checked.

    Args:
        full: Read every shard and compare its checksum.
        watch: Told how many of all committed units have been checked.
    """
    problems = []
    units = sorted(committed(store.files))
    for number, (unit, group) in enumerate(units, 1):
        problems += _problems(store, unit, group, full)
        if watch:
            watch(number, len(units))
    return problems


def _problems(store: PlannedStore, unit: int, group: str, full: bool) -> Iterator[str]:
    path = commit_path(unit, group)
    if group not in store.groups or unit >= len(store.plan.units):
        yield f"{path} commits what was never planned."
        return
    try:
        commit = read_commit(store.files, unit, group)
        store.tokens(unit)
    except DamagedStoreError as error:
        yield str(error)
        return
    if commit is None or commit.spec_sha != store.spec.sha:
        yield f"{path} belongs to another store."
        return
    for hook in commit.hooks.values():
        try:
            shard = Shard(store.files.local(hook.shard.path), hook.shard, verify="size")
            if full:
                shard.verify()
        except FileNotFoundError:
            yield f"{hook.shard.path} is missing."
        except DamagedStoreError as error:
            yield str(error)


@dataclass(frozen=True)
class Garbage:
    """A file that no record of the store names."""

    path: str
    n_bytes: int


def garbage(store: PlannedStore, *, grace_seconds: float = GRACE_SECONDS) -> list[Garbage]:
    """Files left behind by attempts that ended, older than a grace period.

    A damaged record raises, since what it names could not be told from garbage.

    Raises:
        DamagedStoreError: a commit cannot be read.
    """
    named = set(_named(store))
    return [
        Garbage(path, store.files.size(path) or 0)
        for folder in (DATA, TOKENS, UNPUBLISHED, "")
        for path in _paths(store.files, folder)
        if path not in named
        and is_of_an_attempt(path)
        and store.files.seconds_since_change(path) > grace_seconds
    ]


def remove(store: PlannedStore, what: list[Garbage]) -> int:
    """Remove garbage; returns the bytes that are free again."""
    for file in what:
        store.files.remove(file.path)
    return sum(file.n_bytes for file in what)


def _named(store: PlannedStore) -> Iterator[str]:
    """Every file that the store consists of, outside its folders of records."""
    yield from (STORE, store.record.plan.file.path, store.record.vocabulary.path)
    yield from (unit.tokens_path for unit in store.plan.units)
    for unit, group in committed(store.files):
        commit = read_commit(store.files, unit, group)
        if commit is not None:
            yield from (hook.shard.path for hook in commit.hooks.values())


def _paths(files: StoreFiles, folder: str) -> list[str]:
    names = files.names(folder, recursive=bool(folder))
    return [f"{folder}/{name}" if folder else name for name in names]
