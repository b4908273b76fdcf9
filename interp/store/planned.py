"""What is planned in a folder: its spec, its units, its hooks; read once, for workers and readers.

Nothing here says what is finished. That is what the commit records say.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from interp.errors import StoreError
from interp.store.files import StoreFiles
from interp.store.plan import Plan
from interp.store.spec import Group, HookLayout, Spec, StoreRecord, owners, read_groups, read_store


@dataclass(frozen=True)
class PlannedStore:
    """A store whose plan is complete."""

    files: StoreFiles
    record: StoreRecord
    plan: Plan
    groups: Mapping[str, Group]

    @classmethod
    def read(cls, files: StoreFiles) -> "PlannedStore":
        """Read the plan.

        Raises:
            StoreError: there is no store, or one of another format.
            DamagedStoreError: a file is missing or was altered.
        """
        record = read_store(files)
        if record is None:
            raise StoreError(
                f"There is no activation store at {files}: no store.json. If collecting was "
                "stopped while it read the texts, run the same command again."
            )
        return cls(files, record, Plan.read(files, record.plan), read_groups(files))

    @property
    def spec(self) -> Spec:
        """What decides the numbers."""
        return self.record.spec

    @property
    def hooks(self) -> dict[str, tuple[str, HookLayout]]:
        """Group and layout of each hook, in the order in which the groups hold them."""
        return owners(self.groups)

    def tokens(self, unit: int) -> pa.Table:
        """Every token of a unit, in the order of its rows."""
        return self.plan.tokens(self.files, unit)

    @property
    def work(self) -> list[tuple[int, str]]:
        """Every unit and group that a complete store has committed."""
        return [(unit.unit, name) for name in sorted(self.groups) for unit in self.plan.units]
