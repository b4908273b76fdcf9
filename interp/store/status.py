"""How far a store is. Only commit records count: never what an engine or a process reports."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from interp.store.attempts import Work, failures, open_work
from interp.store.commits import committed
from interp.store.planned import PlannedStore


@dataclass(frozen=True)
class Status:
    """Units of every group of hooks, planned and committed."""

    path: str
    hooks: Sequence[str]
    n_planned: int
    n_committed: int
    n_under_way: int
    """Somebody works on them."""
    n_tokens: int
    """Of all planned units, counted once for each group of hooks."""
    n_tokens_committed: int
    failed: Mapping[Work, Sequence[str]]
    """Units that were given up, and why."""

    @property
    def n_missing(self) -> int:
        """Units that nobody works on and that were not given up."""
        return self.n_planned - self.n_committed - self.n_under_way - len(self.failed)

    @property
    def is_complete(self) -> bool:
        """Whether every planned unit is committed."""
        return self.n_committed == self.n_planned


def status(store: PlannedStore) -> Status:
    """Read the records of a store.

    Raises:
        DamagedStoreError: one of them was altered.
    """
    work = store.work
    done = committed(store.files).intersection(work)
    failed = {place: why for place, why in failures(store.files).items() if place not in done}
    tokens = [unit.n_tokens for unit in store.plan.units]
    return Status(
        path=str(store.files),
        hooks=list(store.hooks),
        n_planned=len(work),
        n_committed=len(done),
        n_under_way=len(open_work(store.files, work).taken),
        n_tokens=sum(tokens[unit] for unit, _ in work),
        n_tokens_committed=sum(tokens[unit] for unit, _ in done),
        failed=failed,
    )
