"""What a store holds: everything that decides a number, written once and never changed.

`store.json` is the commit point of the plan: it is written last, when all tokens are on disk, and
names the plan's files with their checksums. `groups/<group>.json` names hooks that are collected
together, so that hooks can be added later over the same tokens.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import prod
from typing import Any

import torch

from interp.errors import StoreError
from interp.model.config import SIZE_LIMITS
from interp.model.hooks import HOOK_POINTS, split_name
from interp.store.files import StoreFiles
from interp.store.naming import FORMAT, GROUPS, STORE, checked_path
from interp.store.plan import PlanRecord
from interp.store.records import FileRecord, built, damaged
from interp.store.sealed import digest, seal, unseal

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
"""How values may be stored."""
TOLD_ONLY = ("model",)
"""Fields of a spec that change no number."""
PLACES = {point.name: place for place, point in enumerate(HOOK_POINTS)}


@dataclass(frozen=True)
class Spec:
    """Everything but the hooks that decides a number in the store."""

    model: str
    """Name of the model, for people."""
    model_hash: str
    """Of weights and configuration, folded LayerNorms included."""
    tokenizer_hash: str
    texts: str
    """Fingerprint of the documents."""
    ctx: int
    packing: str
    prepend_bos: bool
    positions: str
    subsample: str
    seed: int
    max_tokens: int | None
    unit_tokens: int
    batch_tokens: int
    compute_dtype: str
    versions: dict[str, str]
    """Of what computes the numbers."""

    @property
    def sha(self) -> str:
        """32 hexadecimal digits that stand for the spec."""
        return digest(asdict(self))

    def differences(self, other: "Spec") -> dict[str, tuple[Any, Any]]:
        """Fields that differ: this store's value and the other's."""
        pairs = {
            field.name: (getattr(self, field.name), getattr(other, field.name))
            for field in fields(self)
        }
        return {
            name: (ours, theirs)
            for name, (ours, theirs) in pairs.items()
            if ours != theirs and name not in TOLD_ONLY
        }


@dataclass(frozen=True)
class HookLayout:
    """How the values of one hook are stored."""

    name: str
    axes: tuple[str, ...]
    """Names of the axes of one row, such as `head d_head`."""
    feature: tuple[int, ...]
    """Their sizes."""
    dtype: str
    """`float16`, `bfloat16` or `float32`."""

    @property
    def row_bytes(self) -> int:
        """Size of one row."""
        return prod(self.feature) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Group:
    """Hooks that are collected together."""

    hooks: tuple[HookLayout, ...]

    @property
    def name(self) -> str:
        """8 hexadecimal digits that stand for the content."""
        return digest({"hooks": [asdict(hook) for hook in self.hooks]})[:8]


@dataclass(frozen=True)
class StoreRecord:
    """The content of `store.json`."""

    spec: Spec
    plan: PlanRecord
    vocabulary: FileRecord


def write_store(files: StoreFiles, record: StoreRecord) -> bool:
    """Make a planned store visible; False if there is one already."""
    return files.write_once(STORE, seal({"format": FORMAT, **asdict(record)}))


def read_store(files: StoreFiles) -> StoreRecord | None:
    """What is planned here; `None` where there is no store.

    Raises:
        DamagedStoreError: `store.json` was altered.
        StoreError: it was written by a newer version.
    """
    try:
        content = unseal(files.read(STORE), STORE)
    except FileNotFoundError:
        return None
    written = content.pop("format", None)
    if written != FORMAT:
        raise StoreError(
            f"The store has format {written!r}; this version of interp reads format {FORMAT}. "
            "Install the version that wrote it, or a newer one."
        )
    record = built(StoreRecord, content, STORE)
    for file in (record.plan.file, record.vocabulary):
        checked_path(file.path)
    return record


def write_group(files: StoreFiles, group: Group) -> None:
    """Announce hooks; doing it twice changes nothing."""
    files.write_once(f"{GROUPS}/{group.name}.json", seal(asdict(group)))


def read_groups(files: StoreFiles) -> dict[str, Group]:
    """All groups of hooks by name.

    Raises:
        DamagedStoreError: a file was altered.
    """
    groups: dict[str, Group] = {}
    for name in files.names(GROUPS):
        path = f"{GROUPS}/{name}"
        group = built(Group, unseal(files.read(path), path), path)
        if path != f"{GROUPS}/{group.name}.json":
            raise damaged(path, f"it holds the hooks of group {group.name}")
        if unknown := [hook.dtype for hook in group.hooks if hook.dtype not in DTYPES]:
            raise damaged(path, f"it stores {unknown[0]!r}; known are {', '.join(DTYPES)}")
        groups[group.name] = group
    return groups


def owners(groups: Mapping[str, Group]) -> dict[str, tuple[str, HookLayout]]:
    """The group that each hook is read from, and how it is stored there.

    Two runners that add hooks at once may both announce one; the first group by name has it.
    """
    found = {
        hook.name: (name, hook)
        for name in sorted(groups, reverse=True)
        for hook in groups[name].hooks
    }
    return {name: found[name] for name in sorted(found, key=forward_order)}


def forward_order(hook: str) -> tuple[int, int]:
    """Where a hook stands in the forward pass: its block, and its place there."""
    layer, kind = split_name(hook)
    place = PLACES.get(kind, len(PLACES))
    if layer is None:
        layer = SIZE_LIMITS["n_layers"] if place > PLACES["hook_resid_post"] else -1
    return layer, place
