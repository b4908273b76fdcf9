"""A disk that forgets: which files there may be after power is lost in the middle of a trace.

What was flushed is there. Of everything else any part may be there, in any order:
- each page of 4 KiB that was written since the file's last flush is old, new, or zeros, and the
  file has any length between its flushed and its written one;
- each change of a name (made, removed; a rename is one of each) since the folder's last flush
  happened or did not, by itself.
Real file systems keep more than that. No test of ours may need it.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from tests.store.system_calls import Event

PAGE = 4096


@dataclass
class File:
    """Contents of an inode."""

    written: bytearray = field(default_factory=bytearray)
    flushed: bytes = b""

    def survivor(self, chance: random.Random, share: float) -> bytes:
        """Contents after the cut; every unflushed page is new with a probability of `share`."""
        if self.flushed == self.written:
            return self.flushed
        length = len(self.written)
        if chance.random() > share:
            length = chance.choice((len(self.flushed), chance.randint(len(self.flushed), length)))
        content = bytearray(self.flushed.ljust(length, b"\0"))
        for start in range(0, length, PAGE):
            if chance.random() < share:
                new = self.written[start : min(start + PAGE, length)]
                content[start : start + len(new)] = new
        return bytes(content)


@dataclass
class Folder:
    """Names in a folder: those flushed, and the changes since."""

    flushed: dict[str, int] = field(default_factory=dict)
    changes: list[tuple[str, int | None]] = field(default_factory=list)
    """A name and its new inode; None when it is removed."""

    def survivor(self, chance: random.Random, share: float) -> dict[str, int]:
        names = dict(self.flushed)
        for name, inode in self.changes:
            if chance.random() < share:
                if inode is None:
                    names.pop(name, None)
                else:
                    names[name] = inode
        return names

    def flush(self) -> None:
        self.flushed = self.survivor(random.Random(0), share=2.0)
        self.changes.clear()


class Disk:
    """State of a disk after some events."""

    def __init__(self) -> None:
        self.root = Folder()
        self.files: dict[int, File] = {}
        self.folders: dict[int, Folder] = {}
        self._by_path: dict[str, Folder] = {".": self.root}

    def apply(self, event: Event) -> None:
        if event.call == "create":
            self.files[event.inode] = File()
            self._name(event.path, event.inode)
        elif event.call == "mkdir":
            self.folders[event.inode] = self._by_path[event.path] = Folder()
            self._name(event.path, event.inode)
        elif event.call == "write":
            self.files[event.inode].written += event.data
        elif event.call == "fsync" and event.inode in self.files:
            self.files[event.inode].flushed = bytes(self.files[event.inode].written)
        elif event.call == "fsync" and event.path in self._by_path:
            self._by_path[event.path].flush()
        elif event.call in ("rename", "link"):
            self._name(event.target, event.inode)
        if event.call in ("rename", "unlink"):
            self._name(event.path, None)

    def _name(self, path: str, inode: int | None) -> None:
        place = PurePosixPath(path)
        self._by_path[str(place.parent)].changes.append((place.name, inode))

    def survivors(self, chance: random.Random, share: float) -> dict[str, bytes]:
        """Files by path after the cut."""
        return dict(self._below(self.root, "", chance, share))

    def _below(
        self, folder: Folder, path: str, chance: random.Random, share: float
    ) -> Iterator[tuple[str, bytes]]:
        for name, inode in folder.survivor(chance, share).items():
            if inode in self.folders:
                yield from self._below(self.folders[inode], f"{path}{name}/", chance, share)
            else:
                yield f"{path}{name}", self.files[inode].survivor(chance, share)


def cuts(
    events: Sequence[Event], *, samples: int, seed: int = 0
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """States after a cut behind each prefix of a trace: the number of events, files by path.

    Nothing unflushed survives, everything does, and `samples` mixtures.
    """
    disk = Disk()
    for n_events in range(len(events) + 1):
        if n_events:
            disk.apply(events[n_events - 1])
        for sample in range(samples + 2):
            chance = random.Random(f"{seed} {n_events} {sample}")
            share = (0.0, 2.0)[sample] if sample < 2 else chance.choice((0.1, 0.5, 0.9))
            yield n_events, disk.survivors(chance, share)


def restore(survivors: dict[str, bytes], root: Path) -> None:
    """Make a folder with these files."""
    for path, data in survivors.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
