"""Records of files, and dataclasses from JSON that may hold anything."""

import sys
from dataclasses import dataclass, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from interp.errors import DamagedStoreError

MAX_INTEGER = 2**63 - 1

Built = TypeVar("Built")


@dataclass(frozen=True)
class FileRecord:
    """What a record says about another file."""

    path: str
    """Relative to the store."""
    n_bytes: int
    xxh3: str
    """xxh3_128 of the whole file, 32 hexadecimal digits."""


def damaged(path: object, why: str) -> DamagedStoreError:
    """The error for a file that is not what it was."""
    return DamagedStoreError(f"{path} is damaged: {why}.")


def built(cls: type[Built], content: object, path: str) -> Built:
    """A dataclass from plain JSON, with every field checked against its annotation.

    Understands `str`, `int` (0 or more), `float` (finite), `bool`, `None`, unions of these,
    `tuple[X, ...]`, `dict[str, X]` and dataclasses.

    Raises:
        DamagedStoreError: something does not fit; names the file and the field.
    """
    return _fitted(cls, content, path, "it")


def _fitted(kind: Any, content: Any, path: str, place: str) -> Any:
    arguments = get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind) and isinstance(content, dict):
        hints, expected = get_type_hints(kind), {field.name for field in fields(kind)}
        if set(content) != expected:
            unlike = sorted(map(repr, set(content) ^ expected))[:5]
            raise damaged(path, f"{place} lacks or should not have the fields {', '.join(unlike)}")
        return kind(**{n: _fitted(hints[n], x, path, f"its {n!r}") for n, x in content.items()})
    if get_origin(kind) is tuple and isinstance(content, list | tuple):
        return tuple(_fitted(arguments[0], x, path, place) for x in content)
    if get_origin(kind) is dict and isinstance(content, dict):
        return {n: _fitted(arguments[1], x, path, f"its {n!r:.80}") for n, x in content.items()}
    if not any(_is_plain(option, content) for option in _options(kind)):
        raise damaged(path, f"{place} is {content!r:.80}")
    return float(content) if kind is float else content


def _options(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _is_plain(kind: Any, content: Any) -> bool:
    """Whether a number, text or truth value is of this kind."""
    if kind is int:
        return type(content) is int and 0 <= content <= MAX_INTEGER
    if kind is float:
        return type(content) in (int, float) and abs(content) <= sys.float_info.max
    return type(content) is kind
