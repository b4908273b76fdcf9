"""Commits: the records that make a unit exist.

A unit of a group exists once `commits/<unit>+<group>.json` does. It is written last, when every
file it names is on disk, and only once: of several attempts the first to commit has made the unit,
and the others withdraw. A reader believes nothing else, and never lists the shards.
"""

from dataclasses import asdict, dataclass

from interp.store.files import StoreFiles
from interp.store.moments import Moments
from interp.store.naming import COMMITS, checked_path, commit_path, shard_path, unit_and_group
from interp.store.records import built, damaged
from interp.store.sealed import seal, unseal
from interp.store.shard_layout import ShardRecord


@dataclass(frozen=True)
class HookCommit:
    """What a unit holds of one hook."""

    shard: ShardRecord
    absmax: float
    """Largest absolute value."""
    max_rounding_error: float
    """Largest change of a value by the shard's type."""
    norm_min: float
    norm_mean: float
    norm_max: float
    """Euclidean norms of whole rows."""

    @classmethod
    def of(cls, shard: ShardRecord, moments: Moments, max_rounding_error: float) -> "HookCommit":
        """From the moments of the rows before rounding."""
        return cls(
            shard,
            moments.absmax,
            max_rounding_error,
            moments.norm_min,
            moments.norm_mean,
            moments.norm_max,
        )


@dataclass(frozen=True)
class Commit:
    """A unit of a group: its shards, and whose work they are."""

    spec_sha: str
    unit: int
    group: str
    n_rows: int
    tokens_xxh3: str
    """Of the file of the tokens that the model was given."""
    hooks: dict[str, HookCommit]
    attempt: str
    """Name of the attempt whose files these are."""
    seconds: dict[str, float]
    """What took how long."""


def write_commit(files: StoreFiles, commit: Commit) -> bool:
    """Make a unit exist; False if another attempt already did.

    The shards must be published. Whoever gets False, or an error, calls `withdraw`.
    """
    return files.write_once(commit_path(commit.unit, commit.group), seal(asdict(commit)))


def withdraw(files: StoreFiles, commit: Commit) -> None:
    """Remove the shards of a commit, unless it is the one that made the unit."""
    existing = read_commit(files, commit.unit, commit.group)
    if existing is None or existing.attempt != commit.attempt:
        for hook in commit.hooks.values():
            files.remove(hook.shard.path)


def read_commit(files: StoreFiles, unit: int, group: str) -> Commit | None:
    """What a unit holds; None while it does not exist.

    Raises:
        DamagedStoreError: the record was altered; names it.
    """
    path = commit_path(unit, group)
    try:
        data = files.read(path)
    except FileNotFoundError:
        return None
    commit = built(Commit, unseal(data, path), path)
    if (commit.unit, commit.group) != (unit, group):
        raise damaged(path, f"it is the record of {commit_path(commit.unit, commit.group)}")
    for name, hook in commit.hooks.items():
        _check_shard(path, commit, name, hook.shard)
    return commit


def _check_shard(path: str, commit: Commit, hook: str, shard: ShardRecord) -> None:
    checked_path(shard.path)
    if shard.path != shard_path(hook, commit.unit, commit.attempt):
        raise damaged(path, f"it gives {hook!r:.80} the file {shard.path}")
    if shard.shape[:1] != (commit.n_rows,):
        raise damaged(path, f"{shard.path} has the shape {shard.shape} for {commit.n_rows} rows")


def committed(files: StoreFiles) -> set[tuple[int, str]]:
    """Unit and group of every commit, by the names of the records alone."""
    found = (unit_and_group(name) for name in files.names(COMMITS))
    return {(unit, group) for unit, group, rest in filter(None, found) if not rest}
