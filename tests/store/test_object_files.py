"""Object storage: the same promises as a folder, with a conditional put in the place of a link."""

import pickle
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import fsspec
import pytest
import xxhash
from fsspec.implementations.memory import MemoryFileSystem

from interp.errors import DamagedStoreError, StoreError
from interp.store.files import PendingFile, StoreFiles, store_files
from interp.store.object_files import ObjectFiles
from interp.store.records import FileRecord
from tests.store.object_servers import S3Server, s3_server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are kept in this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory() -> Iterator[str]:
    """An empty place in memory."""
    yield "memory://bucket/store"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def s3(server: S3Server, request: pytest.FixtureRequest) -> str:
    """An empty place in an S3 bucket."""
    return f"s3://bucket/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty place in each kind of storage."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def files(url: str) -> ObjectFiles:
    return ObjectFiles(url)


def everything(files: StoreFiles) -> list[str]:
    return files.names("", recursive=True)


def copies(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


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


def test_another_opening_sees_what_is_new_and_what_is_gone(url: str) -> None:
    ours, theirs = ObjectFiles(url), ObjectFiles(url)
    assert theirs.names("commits") == []
    assert theirs.size("commits/x") is None
    ours.write_once("commits/x", b"one")
    assert theirs.names("commits") == ["x"]
    assert theirs.size("commits/x") == 3
    ours.remove("commits/x")
    assert theirs.names("commits") == []
    assert theirs.size("commits/x") is None


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
