"""Files of a folder: whole or absent, named once, and never outside the folder."""

import os
import stat
from pathlib import Path

import psutil
import pytest
import xxhash

from interp.errors import DamagedStoreError, ResourceError, StoreError
from interp.store.durable import LocalFiles
from interp.store.files import FileRecord, store_files


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path / "store")


def everything(files: LocalFiles) -> list[str]:
    return files.names("", recursive=True)


def test_a_pending_file_is_invisible_until_it_is_published(files: LocalFiles) -> None:
    pending = files.begin("data/x")
    pending.write(b"one ")
    pending.write(memoryview(b"two"))
    assert files.size("data/x") is None
    record = pending.publish()
    digest = xxhash.xxh3_128(b"one two").hexdigest()
    assert record == FileRecord("data/x", 7, digest)
    assert files.read("data/x") == b"one two"
    assert everything(files) == ["data/x"]


def test_a_discarded_file_leaves_nothing(files: LocalFiles) -> None:
    pending = files.begin("data/x")
    pending.write(b"one")
    pending.discard()
    pending.discard()
    assert everything(files) == []
    with pytest.raises(ValueError, match="data/x is published or discarded already"):
        pending.write(b"two")
    with pytest.raises(ValueError, match="data/x is published or discarded already"):
        pending.publish()


def test_no_descriptor_is_left_open(files: LocalFiles) -> None:
    files.write_once("data/old", b"")
    n_open = psutil.Process().num_fds()
    for n in range(10):
        files.begin("data/x").discard()
        files.begin(f"data/{n}").publish()
        files.write_once("data/old", b"")
        files.read("data/old")
    assert psutil.Process().num_fds() == n_open


def test_discarding_a_published_file_keeps_it(files: LocalFiles) -> None:
    pending = files.begin("data/x")
    pending.publish()
    pending.discard()
    assert files.read("data/x") == b""


def test_a_file_is_written_once(files: LocalFiles) -> None:
    assert files.write_once("commits/x", b"one")
    assert not files.write_once("commits/x", b"two")
    assert files.read("commits/x") == b"one"
    assert everything(files) == ["commits/x"]


def test_a_link_whose_answer_was_lost_is_ours(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def link_and_fail(source: Path, target: Path) -> None:
        link(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", link_and_fail)
    assert files.write_once("commits/x", b"one")
    assert files.read("commits/x") == b"one"
    assert everything(files) == ["commits/x"]


def test_a_file_system_without_links_is_refused(
    files: LocalFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=r"commits has no hard links.*Choose a folder on another"):
        files.write_once("commits/x", b"one")
    assert everything(files) == []


def test_names_are_sorted_and_may_descend(files: LocalFiles) -> None:
    for path in ("b", "a", "data/y", "data/h/x"):
        files.write_once(path, b"")
    assert files.names("") == ["a", "b"]
    assert files.names("data") == ["y"]
    assert files.names("data", recursive=True) == ["h/x", "y"]
    assert files.names("absent") == []


def test_absent_files_have_no_size_and_cannot_be_read(files: LocalFiles) -> None:
    assert files.size("x") is None
    files.remove("x")
    for look in (files.read, files.local, files.seconds_since_change, files.touch):
        with pytest.raises(FileNotFoundError):
            look("x")


def test_touching_renews_a_file(files: LocalFiles) -> None:
    files.write_once("x", b"")
    os.utime(files.local("x"), (0, 0))
    assert files.seconds_since_change("x") > 1e9
    files.touch("x")
    assert files.seconds_since_change("x") < 60


def test_removed_files_are_gone(files: LocalFiles) -> None:
    files.write_once("x", b"one")
    assert files.size("x") == 3
    files.remove("x")
    assert files.size("x") is None


def test_free_space_is_that_of_the_disk_even_before_the_folder_exists(files: LocalFiles) -> None:
    disk = os.statvfs(files.root.parent)
    free = files.free_bytes()
    assert free is not None
    assert abs(free - disk.f_bavail * disk.f_frsize) < 2**30


# Names that lead elsewhere


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "data/../../x",
        "data//x",
        "data/.",
        "data/x/",
        "data\\x",
        "C:x",
        "data/x\0",
        "data/x\n",
        "data/ü",
        "x" * 256,
        "x/" * 600 + "x",
    ],
)
def test_a_path_that_a_store_never_writes_is_refused(path: str, files: LocalFiles) -> None:
    for call in (files.begin, files.read, files.size, files.local, files.remove, files.touch):
        with pytest.raises(DamagedStoreError, match="Not a path inside a store"):
            call(path)
    with pytest.raises(DamagedStoreError, match="Not a path inside a store"):
        files.write_once(path, b"")
    assert everything(files) == []


def test_links_inside_a_store_are_refused(files: LocalFiles, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    files.write_once("data/x", b"")
    (files.root / "data" / "link").symlink_to(outside / "secret")
    (files.root / "folder").symlink_to(outside)
    for path in ("data/link", "folder/secret"):
        for call in (files.read, files.local, files.size, files.begin, files.remove, files.touch):
            with pytest.raises(DamagedStoreError, match="is a link"):
                call(path)
        with pytest.raises(DamagedStoreError, match="is a link"):
            files.write_once(path, b"")
    with pytest.raises(DamagedStoreError, match="is a link"):
        files.names("folder")
    assert [place.name for place in outside.iterdir()] == ["secret"]


def test_the_store_itself_may_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files = LocalFiles(tmp_path / "link")
    files.write_once("data/x", b"one")
    assert LocalFiles(tmp_path / "real").read("data/x") == b"one"


def test_only_regular_files_are_read(files: LocalFiles) -> None:
    files.write_once("data/x", b"")
    os.mkfifo(files.root / "data" / "pipe")
    for path in ("data/pipe", "data"):
        for look in (files.read, files.local):
            with pytest.raises(DamagedStoreError, match="not a regular file"):
                look(path)


def test_object_storage_is_not_taken_for_a_folder() -> None:
    with pytest.raises(StoreError, match="Stores in ftp:// are not supported"):
        store_files("ftp://bucket/store")


def test_a_path_is_a_folder(tmp_path: Path) -> None:
    files = store_files(str(tmp_path / "new" / "store"))
    files.write_once("x", b"one")
    assert (tmp_path / "new" / "store" / "x").read_bytes() == b"one"
    assert str(files) == str(tmp_path / "new" / "store")


# Who may read and write


@pytest.mark.parametrize(
    ("umask", "mode", "folder_mode"), [(0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_modes_follow_the_umask(umask: int, mode: int, folder_mode: int, files: LocalFiles) -> None:
    before = os.umask(umask)
    try:
        files.begin("data/x").publish()
        files.write_once("commits/x", b"")
    finally:
        os.umask(before)
    for place in (files.local("data/x"), files.local("commits/x")):
        assert stat.S_IMODE(place.stat().st_mode) == mode
        assert stat.S_IMODE(place.parent.stat().st_mode) == folder_mode


def test_a_file_where_the_store_should_be_is_an_error_with_advice(tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(b"")
    with pytest.raises(ResourceError, match=r"could not be written: .*Choose a folder"):
        LocalFiles(tmp_path / "store").write_once("data/x", b"")


def test_a_moved_store_has_the_same_files(files: LocalFiles, tmp_path: Path) -> None:
    files.write_once("data/x", b"one")
    files.root.rename(tmp_path / "elsewhere")
    assert LocalFiles(tmp_path / "elsewhere").read("data/x") == b"one"
