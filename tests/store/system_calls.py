"""System calls of `os`, replaced: recorded, counted, failing, or followed by death."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHANGING = ("open", "write", "fsync", "close", "rename", "link", "unlink", "mkdir", "utime")
"""Every call by which a store may change a disk."""

Around = Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]
"""Given the name of a call, the call itself and its arguments; returns its result."""


@contextmanager
def around_each_call(around: Around) -> Iterator[None]:
    """Every changing call goes through a function inside the block."""

    def replaced(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: around(name, lambda *a: call(*a, **kwargs), args)

    with pytest.MonkeyPatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, replaced(name, getattr(os, name)))
        yield


@dataclass
class Nth:
    """Does something at the n-th call, counted from 0; `fired` says whether there was one."""

    n: int
    act: Around
    only: tuple[str, ...] = CHANGING
    fired: str = ""
    """Name of the call, once it came."""
    _count: int = field(default=0)

    def __call__(self, name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if name not in self.only:
            return call(*args)
        self._count += 1
        if self._count != self.n + 1:
            return call(*args)
        self.fired = name
        return self.act(name, call, args)


def fail_with(number: int) -> Around:
    """Fails with this error number, and does nothing."""

    def act(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        raise OSError(number, os.strerror(number))

    return act


@dataclass(frozen=True)
class Event:
    """A call that changed something: files and folders by inode, names by path."""

    call: str
    path: str
    inode: int
    target: str = ""
    """New path, of a rename or link."""
    data: bytes = b""


@contextmanager
def recorded(root: Path) -> Iterator[list[Event]]:
    """The changes below `root` made inside the block, in order."""
    events: list[Event] = []
    opened: dict[int, tuple[str, int]] = {}
    inodes: dict[str, int] = {".": 0}  # our own numbers: a file system uses its own again

    def around(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        result = call(*args)
        path = os.path.relpath(args[0], root) if isinstance(args[0], str | Path) else ""
        if path.startswith(".."):
            return result
        if name in ("open", "mkdir") and path not in inodes:
            inodes[path] = len(events) + 1
            events.append(Event("mkdir" if name == "mkdir" else "create", path, inodes[path]))
        if name == "open":
            opened[result] = (path, inodes[path])
        elif name == "write":
            events.append(Event("write", *opened[args[0]], data=bytes(args[1][:result])))
        elif name == "fsync" and args[0] in opened:
            events.append(Event("fsync", *opened[args[0]]))
        elif name == "close":
            opened.pop(args[0], None)
        elif name in ("rename", "link"):
            target = os.path.relpath(args[1], root)
            inodes[target] = inodes[path]
            events.append(Event(name, path, inodes[path], target))
        elif name == "unlink":
            events.append(Event(name, path, inodes[path]))
        if name in ("rename", "unlink"):
            del inodes[path]
        return result

    with around_each_call(around):
        yield events
