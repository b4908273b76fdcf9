"""What has been collected of a planned store: units that commits vouch for, and their shards."""

import resource
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Literal

from interp.errors import StoreError
from interp.store.commits import Commit, committed, read_commit
from interp.store.naming import commit_path
from interp.store.plan import PlannedUnit
from interp.store.planned import PlannedStore
from interp.store.recent import Recent
from interp.store.records import damaged
from interp.store.shards import Shard
from interp.store.shards import Verify as ShardVerify
from interp.store.spec import HookLayout

Verify = Literal["rows", "size", "full", "none"]
KEPT_COMMITS = 1024
MAX_OPEN_SHARDS = 512


class Collected:
    """The committed units of a store, as they were when it was opened.

    Args:
        verify: `rows` checks every row before it is given out, once; `full` all of them now;
            `size` only sizes, headers and moments; `none` nothing.
    """

    def __init__(self, store: PlannedStore, *, verify: Verify) -> None:
        self.store = store
        self.hooks = store.hooks
        """Group and layout of each hook."""
        self._verify: ShardVerify = "size" if verify == "full" else verify
        self._done = committed(store.files).intersection(store.work)
        self._commits: Recent[tuple[int, str], Commit] = Recent(capacity=KEPT_COMMITS)
        self._shards: Recent[tuple[str, int], Shard] = Recent(capacity=most_open())
        if verify == "full":
            self._check_everything()

    @property
    def is_complete(self) -> bool:
        """Whether every planned unit was committed for all hooks."""
        return len(self._done) == len(self.store.work)

    def layout(self, hook: str) -> HookLayout:
        """How a hook is stored.

        Raises:
            StoreError: it is not in the store.
        """
        return self._owner(hook)[1]

    def units(self, hooks: Iterable[str]) -> list[PlannedUnit]:
        """The units that hold all of these hooks."""
        groups = {self._owner(hook)[0] for hook in hooks}
        return [
            unit
            for unit in self.store.plan.units
            if all((unit.unit, group) in self._done for group in groups)
        ]

    def commit(self, hook: str, unit: int) -> Commit:
        """The record of a unit that holds a hook.

        Raises:
            DamagedStoreError: the record was altered, or is of another store.
        """
        return self._commits.get((unit, self._owner(hook)[0]), self._read)

    def shard(self, hook: str, unit: int) -> Shard:
        """The values of a hook in a unit.

        Raises:
            DamagedStoreError: the file is missing or was altered.
        """
        return self._shards.get((hook, unit), self._open)

    def _owner(self, hook: str) -> tuple[str, HookLayout]:
        if hook in self.hooks:
            return self.hooks[hook]
        close = get_close_matches(hook, self.hooks, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise StoreError(f"{hook!r} is not in this store.{hint} It has {', '.join(self.hooks)}.")

    def _read(self, key: tuple[int, str]) -> Commit:
        unit, group = key
        path = commit_path(unit, group)
        commit = read_commit(self.store.files, unit, group)
        if commit is None:
            raise damaged(path, "it has been removed")
        planned = self.store.plan.units[unit]
        is_ours = commit.spec_sha == self.store.spec.sha
        if not is_ours or commit.tokens_xxh3 != planned.tokens_xxh3:
            raise damaged(path, "it belongs to another store")
        for hook in self.store.groups[group].hooks:
            stored = commit.hooks.get(hook.name)
            shape = (planned.n_rows, *hook.feature)
            if not stored or (stored.shard.dtype, stored.shard.shape) != (hook.dtype, shape):
                raise damaged(path, f"it does not hold {hook.name!r} as planned")
        return commit

    def _open(self, key: tuple[str, int]) -> Shard:
        hook, unit = key
        record = self.commit(hook, unit).hooks[hook].shard
        try:
            place = self.store.files.local(record.path)
        except FileNotFoundError as error:
            raise damaged(record.path, "it is missing") from error
        return Shard(place, record, verify=self._verify)

    def _check_everything(self) -> None:
        for hook in self.hooks:
            for unit in self.units([hook]):
                self.shard(hook, unit.unit).verify()
        for unit in self.store.plan.units:
            self.store.tokens(unit.unit)


def most_open() -> int:
    """Shards that are open at once: each has a file descriptor, of which others need some too."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(1, min(MAX_OPEN_SHARDS, allowed // 4))
