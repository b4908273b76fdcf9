"""Files of a store in object storage: S3, Google Cloud Storage or Azure, through fsspec.

Several processes can agree on a commit only if the storage itself refuses to write a name that is
taken. These do, and a store is refused where a first try shows that it does not (some servers that
speak S3's protocol ignore the condition). A request may be repeated when its answer was lost, so
`write_once` believes neither success nor failure more than what is stored in the end.

Bytes pass through a cache folder of this machine: what is written waits there until it is complete,
and shards that are read stay there to be memory-mapped. It may be deleted when nothing runs.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

import fsspec
import xxhash
from fsspec.core import url_to_fs

from interp.errors import InterpError, ResourceError, StoreError, UnknownOutcomeError
from interp.store.durable import LocalFiles
from interp.store.naming import UNPUBLISHED, checked_path
from interp.store.records import FileRecord

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": "fsspec",
}
"""Schemes whose storage writes a name only if it is free, and what brings them."""

BLOCK_BYTES = 32 * 2**20
"""Downloaded at once."""
SECONDS_BEFORE_TRIES = (0.0, 0.1, 0.5, 2.0)

one_at_a_time = Lock()
"""memory://, which exists for tests, looks first and then writes."""


class ObjectFiles:
    """The files of a store under a URL; memory:// ends with its process.

    Credentials are those of the backend's own configuration, such as AWS_PROFILE.

    Raises:
        StoreError: the scheme is not one of `PACKAGES`, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self._scheme, _, place = url.partition("://")
        place = place.rstrip("/")
        self.url = f"{self._scheme}://{place}"
        if self._scheme not in PACKAGES:
            raise StoreError(
                f"Stores in {self._scheme}:// are not supported; expected a folder, or s3://, "
                "gs://, az:// or abfs://, which can write a file only if nobody has it."
            )
        if {"", ".", ".."} & set(place.split("/")):
            raise StoreError(f"{url} names no place; expected {self._scheme}://bucket/folder.")
        try:
            fsspec.get_filesystem_class(self._scheme)
        except ImportError as error:
            package = PACKAGES[self._scheme]
            raise StoreError(
                f"{self._scheme}:// needs {package}, which is not installed: pip install {package}"
            ) from error
        self._cache = LocalFiles(cache_folder(self.url))
        self._is_proven = False

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        if self._scheme == "memory":
            raise StoreError("memory:// exists in one process only. For more, choose a folder.")
        return vars(self)

    def begin(self, path: str) -> "ObjectPendingFile":
        """A new file that nobody can see until it is published.

        Raises:
            StoreError: this storage cannot hold a store.
        """
        self._prove()
        return ObjectPendingFile(self, path, self._cache)

    def upload(self, path: str, source: Path, n_bytes: int) -> None:
        """Write a whole file.

        Raises:
            ResourceError: the storage cannot take it, or has not taken all of it.
        """
        with self._writing(path):
            self._system.put_file(str(source), self._place(path))
        found = self.size(path)
        if found != n_bytes:
            self.remove(path)
            raise ResourceError(
                f"{self.url}/{path} has {found} of {n_bytes} bytes after its upload. Run again: "
                "what was committed is kept."
            )

    def write_once(self, path: str, data: bytes) -> bool:
        """Write a file that does not exist yet; False, and no change, if it does.

        A file that holds these very bytes is taken for ours, whose first answer was lost.

        Raises:
            StoreError: the storage would have replaced it.
            UnknownOutcomeError: the storage cannot be reached; the file may exist, now or later.
        """
        self._prove()
        try:
            return self._put_if_absent(path, data)
        except ResourceError as error:
            raise UnknownOutcomeError(str(error)) from error

    def read(self, path: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        with self._asking(path):
            return self._system.cat_file(self._place(path))

    def names(self, folder: str, *, recursive: bool = False) -> list[str]:
        """Names of the files in a folder ("" for the store's own), sorted.

        Args:
            recursive: Also of folders inside, as paths relative to `folder`.
        """
        place = self._place(folder) if folder else self._root
        found = []
        with self._asking(folder), suppress(FileNotFoundError):
            if recursive:
                found = self._system.find(place)
            else:
                entries = self._system.ls(place, detail=True)
                found = [entry["name"] for entry in entries if entry["type"] == "file"]
        inside = (name.removeprefix(f"{place}/") for name in found if name.startswith(f"{place}/"))
        # Some tools write an empty file with a / at the end for an empty folder.
        return sorted(name for name in inside if name and not name.endswith("/"))

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if there is none."""
        with self._asking(path), suppress(FileNotFoundError):
            found = self._system.info(self._place(path))
            if found["type"] == "file":
                return int(found["size"])
        return None

    def local(self, path: str) -> Path:
        """A copy of a file in the cache folder, to be memory-mapped.

        Raises:
            FileNotFoundError: there is none.
            ResourceError: it could not be copied.
        """
        n_bytes = self.size(path)
        if n_bytes is None:
            raise FileNotFoundError(f"{self.url}/{path}")
        if self._cache.size(path) != n_bytes:  # published files never change
            self._download(path, n_bytes)
        return self._cache.local(path)

    def remove(self, path: str) -> None:
        """Remove a file; nothing happens if there is none."""
        with self._asking(path), suppress(FileNotFoundError):
            self._system.rm_file(self._place(path))

    def seconds_since_change(self, path: str) -> float:
        """Age of a file's last write or `touch`, by this machine's clock."""
        with self._asking(path):
            changed = self._system.modified(self._place(path))
        return max(0.0, (datetime.now(UTC) - changed).total_seconds())

    def touch(self, path: str) -> None:
        """Say that a file is still in use: write it again."""
        data = self.read(path)
        with self._writing(path):
            self._system.pipe_file(self._place(path), data)

    def free_bytes(self) -> None:
        """Nothing: object storage has no limit to ask for."""

    @property
    def _system(self) -> fsspec.AbstractFileSystem:
        """The file system of this process: one that was made before a fork cannot be used after."""
        return url_to_fs(self.url, use_listings_cache=False)[0]

    @property
    def _root(self) -> str:
        return url_to_fs(self.url, use_listings_cache=False)[1]

    def _place(self, path: str) -> str:
        return f"{self._root}/{checked_path(path)}"

    def _put_if_absent(self, path: str, data: bytes) -> bool:
        """Whether these bytes are what is stored in the end."""
        problem = None
        for seconds in SECONDS_BEFORE_TRIES:
            time.sleep(seconds)
            try:
                self._create(path, data)
                return True
            except (FileExistsError, ResourceError) as error:
                problem = error
            with suppress(FileNotFoundError):
                return self.read(path) == data
        raise ResourceError(f"{self.url}/{path} could not be written: {problem}") from problem

    def _create(self, path: str, data: bytes) -> None:
        turn = one_at_a_time if self._scheme == "memory" else nullcontext()
        try:
            with self._writing(path), turn:
                self._system.pipe_file(self._place(path), data, mode="create")
        except ResourceError as error:
            if getattr(error.__cause__, "errno", None) == errno.ENOSYS:
                raise self._refusal() from error
            raise

    def _prove(self) -> None:
        """Find out, once, whether the storage refuses a name that is taken."""
        if self._is_proven:
            return
        path = f"{UNPUBLISHED}/{token_hex(8)}-taken"
        try:
            if not self._put_if_absent(path, b"first") or self._put_if_absent(path, b"second"):
                raise self._refusal()
        finally:
            self.remove(path)
        self._is_proven = True

    def _refusal(self) -> StoreError:
        return StoreError(
            f"The server of {self.url} replaces files even if it is told not to, so workers cannot "
            "agree on a commit. Amazon S3, Google Cloud Storage, Azure and newer S3-compatible "
            "servers (with conditional writes, If-None-Match) can hold a store."
        )

    def _download(self, path: str, n_bytes: int) -> None:
        """Copy a file to the cache folder, whole or not at all."""
        copy = self._cache.begin(path)
        try:
            for start in range(0, n_bytes, BLOCK_BYTES):
                with self._asking(path):
                    stop = min(start + BLOCK_BYTES, n_bytes)
                    block = self._system.cat_file(self._place(path), start=start, end=stop)
                copy.write(block)
            if copy.n_bytes != n_bytes:
                raise ResourceError(f"{self.url}/{path} gave {copy.n_bytes} of {n_bytes} bytes.")
            copy.publish()
        except BaseException:
            copy.discard()
            raise

    @contextmanager
    def _asking(self, path: str) -> Iterator[None]:
        """What the storage says, as an error with advice; that a file is there or not goes through.

        Each backend has error types of its own.
        """
        try:
            yield
        except (InterpError, FileNotFoundError, FileExistsError):
            raise
        except PermissionError as problem:
            raise StoreError(
                f"{self.url}/{path} is not allowed to you: {problem}. Check your credentials, and "
                "ask the owner of the bucket for permission."
            ) from problem
        except Exception as problem:
            raise ResourceError(
                f"{self.url}/{path} could not be reached: {type(problem).__name__}: {problem}. "
                "Check the network and your credentials, and run again: what was committed is kept."
            ) from problem

    @contextmanager
    def _writing(self, path: str) -> Iterator[None]:
        """As `_asking`, where something may be missing only above the file."""
        try:
            with self._asking(path):
                yield
        except FileNotFoundError as problem:
            raise StoreError(
                f"{self.url}/{path} could not be written: {problem}. Make the bucket first."
            ) from problem


class ObjectPendingFile:
    """A file that waits in the cache folder until it is complete, and is then uploaded.

    What is published has a name of its own attempt, so that nothing is replaced.
    """

    def __init__(self, files: ObjectFiles, path: str, cache: LocalFiles) -> None:
        self._files, self._path, self._cache = files, path, cache
        self._copy = cache.begin(path)

    @property
    def n_bytes(self) -> int:
        """Bytes written so far."""
        return self._copy.n_bytes

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._copy.write(data)

    def publish(self) -> FileRecord:
        """Upload the file."""
        record = self._copy.publish()
        try:
            self._files.upload(self._path, self._cache.local(self._path), record.n_bytes)
        finally:
            self._cache.remove(self._path)
        return record

    def discard(self) -> None:
        """Forget the file; harmless when it is published or discarded."""
        self._copy.discard()


def cache_folder(url: str) -> Path:
    """Where this machine keeps copies of the files under a URL."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    home = home if home.is_absolute() else Path.home() / ".cache"
    return home / "interp" / "store" / xxhash.xxh3_64_hexdigest(url.encode())
