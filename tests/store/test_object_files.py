"""Object storage: the same promises as a folder, with a conditional put in the place of a link."""

import errno
import os
import pickle
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Barrier

import fsspec
import pytest
import xxhash
from fsspec.implementations.memory import MemoryFileSystem

from interp.errors import DamagedStoreError, ResourceError, StoreError
from interp.store import object_files
from interp.store.files import PendingFile, StoreFiles, store_files
from interp.store.object_files import ObjectFiles
from interp.store.records import FileRecord
from tests.store.object_servers import S3Server, copies
from tests.store.processes import run


@pytest.fixture
def files(url: str) -> ObjectFiles:
    return ObjectFiles(url)


def everything(files: StoreFiles) -> list[str]:
    return files.names("", recursive=True)


# One file


def test_a_url_gives_object_storage(url: str) -> None:
    files = store_files(f"{url}/")
    assert isinstance(files, ObjectFiles)
    assert isinstance(files, StoreFiles)
    assert isinstance(files.begin("data/x"), PendingFile)
    assert str(files) == url
    assert files.free_bytes() is None


def test_a_pending_file_is_invisible_until_it_is_published(files: ObjectFiles, cache: Path) -> None:
    pending = files.begin("data/x")
    pending.write(b"one ")
    pending.write(memoryview(b"two"))
    assert everything(files) == []
    assert pending.n_bytes == 7
    assert pending.publish() == FileRecord("data/x", 7, xxhash.xxh3_128_hexdigest(b"one two"))
    pending.discard()
    assert files.read("data/x") == b"one two"
    assert files.size("data/x") == 7
    assert everything(files) == ["data/x"]
    assert copies(cache) == []


def test_a_discarded_file_leaves_nothing(files: ObjectFiles, cache: Path) -> None:
    pending = files.begin("data/x")
    pending.write(b"one")
    pending.discard()
    pending.discard()
    assert everything(files) == []
    assert copies(cache) == []
    with pytest.raises(ValueError, match="data/x is published or discarded already"):
        pending.publish()


def test_a_file_without_bytes_is_a_file(files: ObjectFiles) -> None:
    files.begin("data/x").publish()
    assert files.size("data/x") == 0
    assert files.local("data/x").read_bytes() == b""


def test_a_file_is_written_once(files: ObjectFiles) -> None:
    assert files.write_once("commits/x", b"one")
    assert not files.write_once("commits/x", b"two")
    assert files.read("commits/x") == b"one"
    assert everything(files) == ["commits/x"]


def test_what_another_process_does_is_seen_at_once(s3: str) -> None:
    files = ObjectFiles(s3)
    files.write_once("commits/x", b"one")
    assert files.names("commits") == ["x"]
    another = fsspec.filesystem("s3", skip_instance_cache=True)
    another.pipe_file(f"{s3}/commits/y", b"two")
    assert files.names("commits") == ["x", "y"]
    another.rm_file(f"{s3}/commits/x")
    assert files.names("commits") == ["y"]
    assert files.size("commits/x") is None


def test_names_are_those_of_one_folder(files: ObjectFiles) -> None:
    for path in ("data/b", "data/a", "data/a.b/c", "database/d", "e"):
        files.begin(path).publish()
    assert files.names("data") == ["a", "b"]
    assert files.names("data", recursive=True) == ["a", "a.b/c", "b"]
    assert files.names("") == ["e"]
    assert everything(files) == ["data/a", "data/a.b/c", "data/b", "database/d", "e"]
    assert files.names("data/a") == []
    assert files.names("nothing") == []
    assert files.names("nothing", recursive=True) == []
    assert files.size("data") is None


def test_a_file_that_is_not_there(files: ObjectFiles) -> None:
    for ask in (files.read, files.local, files.seconds_since_change, files.touch):
        with pytest.raises(FileNotFoundError):
            ask("data/x")
    files.remove("data/x")
    assert everything(files) == []


def test_a_touch_makes_a_file_young(memory: str) -> None:
    files = ObjectFiles(memory)
    files.write_once("attempts/x", b"one")
    assert 0 <= files.seconds_since_change("attempts/x") < 60
    (stored,) = MemoryFileSystem.store.values()
    stored.modified -= timedelta(hours=1)
    assert 3600 <= files.seconds_since_change("attempts/x") < 3660
    files.touch("attempts/x")
    assert 0 <= files.seconds_since_change("attempts/x") < 60
    assert files.read("attempts/x") == b"one"


def test_only_paths_of_a_store_are_asked_for(files: ObjectFiles) -> None:
    for path in ("../other", "/etc/passwd", "data//x", "a?versionId=1", "x#y", ""):
        with pytest.raises(DamagedStoreError, match="Not a path inside a store"):
            files.read(path)


# What cannot hold a store


@pytest.mark.parametrize("url", ["ftp://bucket/x", "http://bucket/x", "file+unknown://bucket/x"])
def test_other_schemes_are_refused(url: str) -> None:
    scheme = re.escape(url.partition(":")[0])
    message = rf"Stores in {scheme}:// are not supported; expected a folder, or s3://"
    with pytest.raises(StoreError, match=message):
        store_files(url)


@pytest.mark.parametrize("url", ["memory://", "memory:///x", "memory://x//y", "memory://x/../y"])
def test_a_url_names_a_place(url: str) -> None:
    with pytest.raises(StoreError, match=r"names no place; expected memory://bucket/folder"):
        store_files(url)


def test_a_url_that_went_through_a_path_is_not_taken_for_a_folder() -> None:
    with pytest.raises(StoreError, match="give it as text, not as Path"):
        store_files(Path("s3://bucket/store"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(protocol: str) -> type:
        raise ImportError(f"Install something to access {protocol}")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    for url, package in {"s3://b/x": "s3fs", "gs://b/x": "gcsfs", "abfs://b/x": "adlfs"}.items():
        with pytest.raises(StoreError, match=f"not installed: pip install {package}$"):
            store_files(url)


def test_memory_stays_in_its_process(memory: str) -> None:
    with pytest.raises(StoreError, match="memory:// exists in one process only"):
        pickle.dumps(ObjectFiles(memory))


# Copies on this machine


def test_a_file_is_copied_once(files: ObjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_files, "BLOCK_BYTES", 4)
    files.write_once("data/x", b"ten bytes!")
    copy = files.local("data/x")
    assert copy.read_bytes() == b"ten bytes!"
    monkeypatch.setattr(files, "_download", None)
    assert files.local("data/x") == copy
    assert ObjectFiles(str(files)).local("data/x") == copy


def test_a_copy_of_another_size_is_not_used(files: ObjectFiles) -> None:
    files.write_once("data/x", b"ten bytes!")
    files.local("data/x").write_bytes(b"ten")
    assert files.local("data/x").read_bytes() == b"ten bytes!"


def test_a_copy_of_what_is_gone_is_not_used(files: ObjectFiles) -> None:
    files.write_once("data/x", b"one")
    files.local("data/x")
    files.remove("data/x")
    with pytest.raises(FileNotFoundError):
        files.local("data/x")


def test_urls_do_not_share_copies(memory: str, cache: Path) -> None:
    ours, theirs = ObjectFiles(memory), ObjectFiles(f"{memory}2")
    ours.write_once("data/x", b"one")
    theirs.write_once("data/x", b"two")
    assert ours.local("data/x").read_bytes() == b"one"
    assert theirs.local("data/x").read_bytes() == b"two"
    assert all(cache / "interp" / "store" in copy.parents for copy in copies(cache))


def test_copies_are_kept_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        folder = object_files.cache_folder("s3://bucket/store")
        assert folder.parent == tmp_path / ".cache" / "interp" / "store"


@pytest.mark.parametrize("given", [b"ten", b""])
def test_a_copy_that_is_cut_short_is_an_error(
    memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch, given: bytes
) -> None:
    files = ObjectFiles(memory)
    files.write_once("data/x", b"ten bytes!")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: given)
    with pytest.raises(ResourceError, match=f"data/x gave {len(given)} of 10 bytes"):
        files.local("data/x")
    assert copies(cache) == []


def test_a_connection_that_breaks_leaves_no_copy(
    memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ObjectFiles(memory)
    files.write_once("data/x", b"ten bytes!")
    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing(OSError("reset by peer")))
    with pytest.raises(ResourceError, match=r"data/x could not be reached: OSError: reset by peer"):
        files.local("data/x")
    assert copies(cache) == []


def test_an_upload_that_is_cut_short_is_an_error(
    memory: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_file = MemoryFileSystem.put_file

    def put_less(self: MemoryFileSystem, source: str, place: str) -> None:
        os.truncate(source, 3)
        put_file(self, source, place)

    monkeypatch.setattr(MemoryFileSystem, "put_file", put_less)
    files = ObjectFiles(memory)
    pending = files.begin("data/x")
    pending.write(b"ten bytes!")
    with pytest.raises(ResourceError, match="data/x has 3 of 10 bytes after its upload"):
        pending.publish()
    assert everything(files) == []
    assert copies(cache) == []


# Agreement


def failing(error: Exception) -> Callable:
    """A function that only raises."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("restless")
def test_of_many_threads_exactly_one_writes_each_name(url: str) -> None:
    n_threads = 8
    n_names = 300 if url.startswith("memory") else 12
    together = Barrier(n_threads)

    def work(me: int) -> list[int]:
        files = ObjectFiles(url)
        won = []
        for name in range(n_names):
            together.wait()
            if files.write_once(f"commits/{name}", b"%d" % me):
                won.append(name)
        return won

    with ThreadPoolExecutor(n_threads) as pool:
        won = list(pool.map(work, range(n_threads)))
    assert Counter(name for names in won for name in names) == dict.fromkeys(range(n_names), 1)
    assert sum(map(bool, won)) > 1, "one thread won everything: no race"
    files = ObjectFiles(url)
    for me, names in enumerate(won):
        for name in names:
            assert files.read(f"commits/{name}") == b"%d" % me
    assert files.names("_tmp") == []


def test_of_many_processes_exactly_one_writes_each_name(s3: str) -> None:
    lines = run("race_for_each_name", s3, 4, 15)
    assert Counter(line.split()[0] for line in lines) == {str(name): 1 for name in range(15)}
    assert len({line.split()[1] for line in lines}) > 1, "one process won everything: no race"
    for line in lines:
        name, winner = line.split()
        assert ObjectFiles(s3).read(f"attempts/{name}") == winner.encode()


def test_s3_is_told_the_condition(s3: str, s3_emulator: S3Server) -> None:
    files = ObjectFiles(s3)
    files.write_once("commits/first", b"")
    s3_emulator.requests.clear()
    files.write_once("commits/x", b"one")
    path = f"/{s3.removeprefix('s3://')}/commits/x"
    assert s3_emulator.requests == [("PUT", path, "*")]


def test_a_server_that_ignores_the_condition_is_refused(
    s3: str, s3_emulator: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_emulator, "ignores_conditions", True)
    files = ObjectFiles(s3)
    for write in (files.begin, partial(files.write_once, data=b"one")):
        with pytest.raises(StoreError, match=r"replaces files even if it is told not to.*Amazon"):
            write("commits/x")
    assert everything(files) == []


def test_a_server_that_knows_no_condition_is_refused(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = OSError(errno.ENOSYS, "A header you provided implies functionality we have not")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", failing(unknown))
    with pytest.raises(StoreError, match="replaces files even if it is told not to"):
        ObjectFiles(memory).write_once("commits/x", b"one")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other at once."""
    monkeypatch.setattr(object_files.time, "sleep", lambda _: None)


class Unreliable:
    """A conditional put that fails some times, before or after it is done."""

    def __init__(self, *, done: bool, error: Exception, n_times: int = 1) -> None:
        self.done, self.error, self.left = done, error, n_times
        self.put = MemoryFileSystem.pipe_file

    def __get__(self, system: MemoryFileSystem, _: type) -> Callable[..., None]:
        def pipe_file(path: str, value: bytes, **options: str) -> None:
            if "_tmp" in path or not self.left:
                return self.put(system, path, value, **options)
            self.left -= 1
            if self.done:
                self.put(system, path, value, **options)
            raise self.error

        return pipe_file


@pytest.mark.parametrize("error", [OSError(5, "connection lost"), FileExistsError("as we know")])
def test_a_put_whose_answer_was_lost_is_ours(
    memory: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", Unreliable(done=True, error=error))
    files = ObjectFiles(memory)
    assert files.write_once("commits/x", b"one")
    assert not files.write_once("commits/x", b"two")


def test_an_error_over_a_name_that_is_taken_means_that_it_is_taken(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ObjectFiles(memory)
    files.write_once("commits/x", b"one")
    unnamed = OSError(errno.EINVAL, "At least one of the pre-conditions did not hold")
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", Unreliable(done=False, error=unnamed))
    assert not files.write_once("commits/x", b"two")
    assert files.read("commits/x") == b"one"


@pytest.mark.usefixtures("patient")
def test_a_put_that_meets_another_is_tried_again(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    conflict = OSError(errno.EIO, "The conditional request cannot succeed due to a conflict")
    fault = Unreliable(done=False, error=conflict, n_times=2)
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fault)
    assert ObjectFiles(memory).write_once("commits/x", b"one")
    assert fault.left == 0


@pytest.mark.usefixtures("patient")
def test_a_put_that_never_succeeds_is_an_error(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = Unreliable(done=False, error=OSError(5, "no route"), n_times=99)
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", fault)
    files = ObjectFiles(memory)
    with pytest.raises(ResourceError, match=r"commits/x could not be written: .*no route"):
        files.write_once("commits/x", b"one")
    assert everything(files) == []


# Whose storage it is


def test_a_bucket_that_is_not_there_is_an_error(s3_emulator: S3Server) -> None:
    files = ObjectFiles("s3://nowhere/store")
    assert files.names("commits") == []
    with pytest.raises(StoreError, match=r"s3://nowhere/store/.*Make the bucket first"):
        files.write_once("commits/x", b"one")
    with pytest.raises(StoreError, match=r"s3://nowhere/store/.*Make the bucket first"):
        files.begin("data/x")


def test_what_is_not_allowed_is_an_error(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "cat_file", failing(PermissionError("Access Denied")))
    with pytest.raises(StoreError, match=r"x is not allowed to you: Access Denied. Check your"):
        ObjectFiles(memory).read("x")


def test_a_server_that_cannot_be_reached_is_an_error(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ResourceError, match=r"store.json could not be reached: .*127.0.0.1:9"):
        ObjectFiles(s3).read("store.json")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


def test_files_go_to_other_processes(s3: str) -> None:
    files = ObjectFiles(s3)
    files.write_once("commits/x", b"one")
    copy = pickle.loads(pickle.dumps(files))
    assert copy.read("commits/x") == b"one"
    assert str(copy) == s3
