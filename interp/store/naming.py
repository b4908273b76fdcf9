"""Names and places of a store's files.

Every place is a relative path with `/`, so a store can be moved. A path that was read from a file
is foreign: `checked_path` lets through only what this module could have written.
"""

import re
import secrets
from urllib.parse import quote

from interp.errors import DamagedStoreError

FORMAT = 1
"""Version of everything on disk; a reader refuses others."""

STORE, TOKENS, DATA, COMMITS = "store.json", "tokens", "data", "commits"
GROUPS, ATTEMPTS, FAILED, UNPUBLISHED = "groups", "attempts", "failed", "_tmp"

MAX_PATH = 1000
_PART = re.compile(r"[A-Za-z0-9_.~%+-]{1,255}")
_UNIT_AND_GROUP = re.compile(r"u(\d{6,})\+([0-9a-f]{8})((?:\..+)?)\.json")


def new_attempt() -> str:
    """A name that no other attempt has: its files can never replace another's."""
    return secrets.token_hex(4)


def unit_name(unit: int) -> str:
    """`u000007` for unit 7."""
    return f"u{unit:06d}"


def hook_folder(hook: str) -> str:
    """A hook's folder; characters that no path should have are percent-encoded."""
    return f"{DATA}/{quote(hook, safe='')}"


def shard_path(hook: str, unit: int, attempt: str) -> str:
    """The values of one hook in one unit."""
    return f"{hook_folder(hook)}/{unit_name(unit)}-{attempt}.safetensors"


def tokens_path(unit: int, attempt: str) -> str:
    """The tokens of one unit."""
    return f"{TOKENS}/{unit_name(unit)}-{attempt}.parquet"


def commit_path(unit: int, group: str) -> str:
    """The record that makes a unit of a group exist."""
    return f"{COMMITS}/{unit_name(unit)}+{group}.json"


def attempt_path(unit: int, group: str, number: int) -> str:
    """The record of one attempt at a unit, counted from 1."""
    return f"{ATTEMPTS}/{unit_name(unit)}+{group}.{number}.json"


def verdict_path(unit: int, group: str, number: int) -> str:
    """Why an attempt failed."""
    return f"{ATTEMPTS}/{unit_name(unit)}+{group}.{number}.failed.json"


def failed_path(unit: int, group: str) -> str:
    """The record that a unit is not tried again."""
    return f"{FAILED}/{unit_name(unit)}+{group}.json"


def unit_and_group(name: str) -> tuple[int, str, str] | None:
    """Unit, group and what follows them in a file's name; None for another kind of name."""
    match = _UNIT_AND_GROUP.fullmatch(name)
    if match is None or unit_name(int(match[1])) != f"u{match[1]}":
        return None
    return int(match[1]), match[2], match[3].removeprefix(".")


def checked_path(path: str) -> str:
    """The path, if it stays inside the store and holds only letters, digits and `_.~%+-`.

    Raises:
        DamagedStoreError: it is absolute, climbs out, is empty or too long, or has a backslash,
            drive, control or other character that this module never writes.
    """
    parts = path.split("/")
    if len(path) > MAX_PATH or not all(
        _PART.fullmatch(part) and part not in (".", "..") for part in parts
    ):
        raise DamagedStoreError(
            f"Not a path inside a store: {path[:120]!r}. The file that names it was altered."
        )
    return path


_ATTEMPTED = re.compile(
    r"(plan|vocabulary)-[0-9a-f]{8}\.parquet|tokens/u\d{6,}-[0-9a-f]{8}\.parquet"
    r"|data/[^/]+/u\d{6,}-[0-9a-f]{8}\.safetensors|_tmp/[^/]+"
)


_RECORD = re.compile(
    r"store\.json|groups/[0-9a-f]{8}\.json"
    r"|(commits|attempts|failed)/u\d{6,}\+[0-9a-f]{8}(\.\d+(\.failed)?)?\.json"
)
_STORE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.~%+-]{0,99}")


def is_store_name(part: str) -> bool:
    """Whether a folder with this name may hold a store, or stores."""
    return _STORE_NAME.fullmatch(part) is not None


def is_of_a_store(path: str) -> bool:
    """Whether a store writes files of this name."""
    return _RECORD.fullmatch(path) is not None or is_of_an_attempt(path)


def is_of_an_attempt(path: str) -> bool:
    """Whether an attempt may have left this file behind; any other is not ours to remove."""
    return _ATTEMPTED.fullmatch(path) is not None
