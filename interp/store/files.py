"""What a store needs of the place that holds its files, and the places there are."""

import re
from pathlib import Path
from typing import Protocol, runtime_checkable

from interp.errors import StoreError
from interp.store.durable import LocalFiles
from interp.store.object_files import ObjectFiles
from interp.store.records import FileRecord


@runtime_checkable
class PendingFile(Protocol):
    """Bytes that nobody can see until they are published; hashed on the way."""

    @property
    def n_bytes(self) -> int:
        """Bytes written so far."""
        ...

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes. After an error nothing of the file is left."""
        ...

    def publish(self) -> FileRecord:
        """Give the file its name; it then survives a power cut."""
        ...

    def discard(self) -> None:
        """Forget the file; harmless when it is published or discarded."""
        ...


@runtime_checkable
class StoreFiles(Protocol):
    """The files of one store, named by relative paths with `/`."""

    def begin(self, path: str) -> PendingFile:
        """A new file that nobody can see until it is published."""
        ...

    def write_once(self, path: str, data: bytes) -> bool:
        """Write a file that does not exist yet; False, and no change, if it does."""
        ...

    def read(self, path: str) -> bytes:
        """All bytes of a file; `FileNotFoundError` if there is none."""
        ...

    def names(self, folder: str, *, recursive: bool = False) -> list[str]:
        """Sorted names of the files in a folder ("" for the store's own), [] if there is none."""
        ...

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is none."""
        ...

    def local(self, path: str) -> Path:
        """A file on this machine with the same bytes, to be memory-mapped."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens if there is none."""
        ...

    def seconds_since_change(self, path: str) -> float:
        """Age of a file's last write or `touch`."""
        ...

    def touch(self, path: str) -> None:
        """Say that a file is still in use."""
        ...

    def free_bytes(self) -> int | None:
        """Space that is left; None where there is no limit to ask for."""
        ...


def store_files(path: str | Path) -> StoreFiles:
    """The files of the store in a folder, or under a URL such as `s3://bucket/folder`.

    Raises:
        StoreError: the URL is not one of a storage that can hold a store.
    """
    if isinstance(path, str) and "://" in path:
        return ObjectFiles(path)
    if re.match(r"[\w+]+:/", str(path)):
        raise StoreError(f"{str(path)!r} is a URL that lost a slash: give it as text, not as Path.")
    return LocalFiles(path)
