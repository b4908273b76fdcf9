"""Files of a folder that survive a kill and a power cut whole, or do not exist.

Bytes are written where no reader looks, flushed, and only then named; then the folder that holds
the name is flushed. Nothing is tried twice: after a failed flush the system may have dropped the
bytes, and would report success the next time. `write_once` names by a hard link, which of several
processes only one can make.
"""
# The system calls are written out: their order is what this file promises.
# ruff: noqa: PTH102, PTH104, PTH108, PTH116

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

import xxhash

from interp.errors import DamagedStoreError, ResourceError, StoreError
from interp.store.naming import UNPUBLISHED, checked_path
from interp.store.records import FileRecord, damaged

NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC

ADVICE = {
    errno.ENOSPC: "The disk is full. Free some space",
    errno.EDQUOT: "Your quota is used up. Free some space or ask for more",
    errno.EFBIG: "Files may not be that large here (see `ulimit -f`). Raise the limit",
    errno.EIO: "The disk failed. Choose another disk, or look at the system's log",
}
LINKLESS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


class LocalFiles:
    """The files of a store in a folder. `root` itself may be a link, but nothing inside it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().absolute()
        self._flushed_folders: set[Path] = set()

    def __str__(self) -> str:
        return str(self.root)

    def begin(self, path: str) -> "LocalPendingFile":
        """A new file that nobody can see until it is published."""
        place = self._place(path)
        temporary = self._place(f"{UNPUBLISHED}/{token_hex(8)}-{place.name}")
        with disk_errors(place):
            self._make_folder(place.parent)
            self._make_folder(temporary.parent)
            return LocalPendingFile(path, place, temporary)

    def write_once(self, path: str, data: bytes) -> bool:
        """Write a file that does not exist yet; False, and no change, if it does.

        Raises:
            ResourceError: the disk cannot take it; then it does not exist.
        """
        pending = self.begin(path)
        pending.write(data)
        return pending.publish_once()

    def read(self, path: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        place = self.local(path)
        with reading_errors(place), os.fdopen(os.open(place, OLD), "rb") as file:
            return file.read()

    def names(self, folder: str, *, recursive: bool = False) -> list[str]:
        """Names in a folder ("" for the store's own) of what is no folder, sorted.

        Args:
            recursive: Also of folders inside, as paths relative to `folder`.
        """
        place = self._place(folder) if folder else self.root
        found = []
        with reading_errors(place), suppress(FileNotFoundError), os.scandir(place) as entries:
            for entry in entries:
                if not entry.is_dir(follow_symlinks=False):
                    found.append(entry.name)
                elif recursive:
                    inner = f"{folder}/{entry.name}" if folder else entry.name
                    found += [f"{entry.name}/{n}" for n in self.names(inner, recursive=True)]
        return sorted(found)

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is none."""
        place = self._place(path)
        try:
            with reading_errors(place):
                return os.stat(place, follow_symlinks=False).st_size
        except FileNotFoundError:
            return None

    def local(self, path: str) -> Path:
        """The file itself, to be memory-mapped.

        Raises:
            FileNotFoundError: there is none.
        """
        place = self._place(path)
        with reading_errors(place):
            if not stat.S_ISREG(os.stat(place, follow_symlinks=False).st_mode):
                raise damaged(place, "it is not a regular file")
        return place

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens if there is none."""
        place = self._place(path)
        with disk_errors(place), suppress(FileNotFoundError):
            os.unlink(place)

    def seconds_since_change(self, path: str) -> float:
        """Age of a file's last write or `touch`, by this machine's clock."""
        place = self._place(path)
        with reading_errors(place):
            return max(0.0, time.time() - os.stat(place, follow_symlinks=False).st_mtime)

    def touch(self, path: str) -> None:
        """Say that a file is still in use."""
        place = self._place(path)
        with reading_errors(place):
            os.utime(place, follow_symlinks=False)

    def free_bytes(self) -> int | None:
        """What this user may still write to the disk of the store."""
        existing = next(place for place in (self.root, *self.root.parents) if place.exists())
        disk = os.statvfs(existing)
        return disk.f_bavail * disk.f_frsize

    def _place(self, path: str) -> Path:
        """Where a file lies: inside the root, and not behind a link that leads out of it."""
        place = self.root
        with reading_errors(place):
            for part in checked_path(path).split("/"):
                place = place / part
                if place.is_symlink():
                    raise damaged(place, "it is a link, which a store never contains")
        return place

    def _make_folder(self, folder: Path) -> None:
        """Make a folder, and flush its name: another process may have died before it did."""
        if folder in self._flushed_folders:
            return
        if self.root in folder.parents or not folder.is_dir():
            self._make_folder(folder.parent)
            with suppress(FileExistsError):
                os.mkdir(folder)
        with suppress(PermissionError):  # of a parent of the store that may not be read
            flush_folder(folder.parent)
        self._flushed_folders.add(folder)


class LocalPendingFile:
    """A file in the making. After an error, and after `discard`, nothing of it is left.

    What is published by `publish` has a name of its own attempt, so that nothing is replaced.
    """

    def __init__(self, path: str, place: Path, temporary: Path) -> None:
        self.n_bytes = 0
        self._path = path
        self._place = place
        self._temporary = temporary
        self._digest = xxhash.xxh3_128()
        self._made: set[Path] = set()
        self._descriptor: int | None = os.open(temporary, NEW, 0o666)  # less what the umask takes
        self._made.add(temporary)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        rest = memoryview(data).cast("B")
        self._digest.update(rest)
        self.n_bytes += len(rest)
        with self._or_nothing():
            while rest:
                n_written = os.write(self._open(), rest)
                if n_written == 0:
                    raise OSError(errno.EIO, "the disk takes no bytes")
                rest = rest[n_written:]

    def publish(self) -> FileRecord:
        """Give the file its name, for good."""
        with self._or_nothing():
            self._flush()
            self._made.add(self._place)
            os.rename(self._temporary, self._place)
            flush_folder(self._place.parent)
        self._made.clear()
        return FileRecord(self._path, self.n_bytes, self._digest.hexdigest())

    def publish_once(self) -> bool:
        """Give the file its name if nobody has it, for good; else discard it."""
        with self._or_nothing():
            self._flush()
            is_ours = self._linked()
            # A name that another process made may not be on the disk yet; its reader relies on it.
            flush_folder(self._place.parent)
        if is_ours:
            self._made.remove(self._place)
        self.discard()
        return is_ours

    def discard(self) -> None:
        """Forget the file; harmless when it is published or discarded."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            with suppress(OSError):
                os.close(descriptor)
        for place in self._made:
            # What cannot be removed stays as an unpublished file, which nobody reads.
            with suppress(OSError):
                os.unlink(place)
        self._made.clear()

    def _linked(self) -> bool:
        """Whether the name is now ours."""
        try:
            os.link(self._temporary, self._place)
        except FileExistsError:
            # A network file system may repeat a request whose answer was lost.
            if os.stat(self._temporary).st_nlink != 2:
                return False
        except OSError as problem:
            if problem.errno in LINKLESS:
                raise StoreError(
                    f"The file system of {self._place.parent} has no hard links, by which a store "
                    "commits. Choose a folder on another one."
                ) from problem
            raise
        self._made.add(self._place)
        return True

    def _flush(self) -> None:
        descriptor = self._open()
        os.fsync(descriptor)
        self._descriptor = None  # closing is not tried again either
        os.close(descriptor)

    def _open(self) -> int:
        if self._descriptor is None:
            raise ValueError(f"{self._path} is published or discarded already.")
        return self._descriptor

    @contextmanager
    def _or_nothing(self) -> Iterator[None]:
        """Whatever interrupts the block, even the user, nothing of the file is left."""
        try:
            with disk_errors(self._place):
                yield
        except BaseException:
            self.discard()
            raise


def flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """What the system says against writing, as a `ResourceError` with advice."""
    try:
        yield
    except OSError as problem:
        advice = ADVICE.get(problem.errno or 0, "Choose a folder that you may write to")
        raise ResourceError(
            f"{place} could not be written: {problem.strerror}. {advice}, and run again: "
            "what was committed is kept."
        ) from problem


@contextmanager
def reading_errors(place: Path) -> Iterator[None]:
    """What the system says against reading; that there is no such file goes through."""
    try:
        yield
    except FileNotFoundError:
        raise
    except PermissionError as problem:
        raise StoreError(
            f"{place} may not be read by you. Ask its owner for permission."
        ) from problem
    except OSError as problem:
        if problem.errno == errno.EIO:
            raise ResourceError(f"{place} could not be read: the disk failed.") from problem
        raise DamagedStoreError(f"{place} could not be read: {problem.strerror}.") from problem
