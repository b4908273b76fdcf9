"""What tests of whole stores look at."""

from pathlib import Path

from interp.store.commits import committed, read_commit
from interp.store.durable import LocalFiles
from interp.store.planned import PlannedStore


def opened(path: Path) -> PlannedStore:
    return PlannedStore.read(LocalFiles(path))


def contents(path: Path) -> dict[str, str]:
    """Hash of every committed shard, by hook and unit."""
    store = opened(path)
    found = {}
    for unit, group in committed(store.files):
        commit = read_commit(store.files, unit, group)
        assert commit is not None
        found |= {f"{name} {unit}": hook.shard.xxh3 for name, hook in commit.hooks.items()}
    return found
