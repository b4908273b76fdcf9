"""Disks that fail, fill up or interrupt: a clear error, nothing half written, space given back."""

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from interp.errors import ResourceError
from interp.store.commits import committed
from interp.store.durable import LocalFiles
from tests.store.processes import run
from tests.store.system_calls import Nth, around_each_call, fail_with
from tests.store.unit import GROUP, check_unit, write_unit

ADVICE = {
    errno.ENOSPC: r"The disk is full\. Free some space, and run again",
    errno.EDQUOT: r"Your quota is used up\. Free some space or ask for more, and run again",
    errno.EIO: r"The disk failed\. Choose another disk",
}
ADVANCING = ("open", "write", "fsync", "close", "rename", "link", "mkdir")


def left_behind(files: LocalFiles) -> list[str]:
    """All files but those of the tokens, which are the plan's."""
    names = files.names("", recursive=True)
    return [name for name in names if not name.startswith("tokens/")]


def error_of(work: Callable[[], object]) -> ResourceError | None:
    try:
        work()
    except ResourceError as error:
        return error
    return None


@pytest.fixture
def no_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flushes are counted and may fail, but take no time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.parametrize("number", ADVICE, ids=lambda number: errno.errorcode[number])
def test_a_fault_at_any_call_leaves_nothing(number: int, tmp_path: Path, no_flushes: None) -> None:
    hit = set()
    for n in count():
        files = LocalFiles(tmp_path / str(n))
        fault = Nth(n, fail_with(number), ADVANCING)
        with around_each_call(fault):
            error = error_of(lambda files=files: write_unit(files))
        if not fault.fired:
            assert error is None
            break
        hit.add(fault.fired)
        assert re.search(f"{files.root}.* could not be written.*{ADVICE[number]}", str(error))
        assert left_behind(files) == [], f"call {n}, {fault.fired}"
        assert write_unit(files)  # the disk has recovered
        check_unit(files)
    assert hit == set(ADVANCING)


def test_a_flush_that_failed_is_not_tried_again(tmp_path: Path) -> None:
    """The system drops the pages of a failed flush: the next one would succeed, and lie."""
    flushed = []

    def around(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if name == "fsync" and Path(f"/proc/self/fd/{args[0]}").is_file():
            flushed.append(args[0])
            raise OSError(errno.EIO, "Input/output error")
        return call(*args)

    with around_each_call(around), pytest.raises(ResourceError, match="The disk failed"):
        LocalFiles(tmp_path).write_once("commits/x", b"one")
    assert len(flushed) == 1
    assert LocalFiles(tmp_path).names("", recursive=True) == []


def test_a_descriptor_whose_close_failed_is_not_closed_again(tmp_path: Path) -> None:
    """It is free already, and may be somebody else's by then."""
    closed = []

    def around(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if name == "close":
            closed.append(args[0])
        result = call(*args)
        if name == "close" and len(closed) == n_before:
            raise OSError(errno.EIO, "Input/output error")
        return result

    files, n_before = LocalFiles(tmp_path), 0
    with around_each_call(around):
        pending = files.begin("data/x")
        n_before = len(closed) + 1
        with pytest.raises(ResourceError, match="The disk failed"):
            pending.publish()
    assert len(closed) == n_before


def test_a_commit_that_cannot_be_taken_back_keeps_its_shards(tmp_path: Path) -> None:
    """The folder's flush fails after the link, and the link cannot be removed either."""
    files = LocalFiles(tmp_path)
    has_linked = False

    def around(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        nonlocal has_linked
        has_linked = has_linked or name == "link"
        if has_linked and name in ("fsync", "unlink"):
            raise OSError(errno.EIO, "Input/output error")
        return call(*args)

    with around_each_call(around), pytest.raises(ResourceError, match="commits/u000000"):
        write_unit(files)
    assert committed(files) == {(0, GROUP)}
    check_unit(files)


@pytest.mark.parametrize("n_bytes", [1, 100, 4096])
def test_short_writes_are_continued(n_bytes: int, tmp_path: Path) -> None:
    def around(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return call(args[0], args[1][:n_bytes]) if name == "write" else call(*args)

    files = LocalFiles(tmp_path)
    with around_each_call(around):
        assert write_unit(files)
    check_unit(files)


def test_a_disk_that_takes_no_bytes_is_an_error(tmp_path: Path) -> None:
    with (
        around_each_call(Nth(0, lambda name, call, args: 0, ("write",))),
        pytest.raises(ResourceError, match="the disk takes no bytes"),
    ):
        LocalFiles(tmp_path).write_once("x", b"one")
    assert LocalFiles(tmp_path).names("", recursive=True) == []


def test_signals_do_not_disturb_a_writer(tmp_path: Path) -> None:
    received = 0

    def receive(number: int, frame: object) -> None:
        nonlocal received
        received += 1

    before = signal.signal(signal.SIGUSR1, receive)
    stopping, me = threading.Event(), threading.main_thread().ident
    assert me is not None

    def disturb() -> None:
        while not stopping.is_set():
            signal.pthread_kill(me, signal.SIGUSR1)
            time.sleep(0.0005)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        files = LocalFiles(tmp_path)
        for unit in range(5):
            assert write_unit(files, unit)
            check_unit(files, unit)
    finally:
        stopping.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert received > 20


def test_a_user_who_interrupts_leaves_a_whole_unit_or_none(
    tmp_path: Path, no_flushes: None
) -> None:
    def interrupt(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        call(*args)
        raise KeyboardInterrupt

    n_committed = 0
    for n in count():
        files = LocalFiles(tmp_path / str(n))
        fault = Nth(n, interrupt, ("write", "fsync", "rename", "link"))
        with around_each_call(fault), suppress(KeyboardInterrupt):
            write_unit(files)
        if committed(files):
            check_unit(files)
            n_committed += 1
        else:
            assert left_behind(files) == [], f"call {n}, {fault.fired}"
        if not fault.fired:
            break
    assert n > 30
    assert n_committed < 3


@pytest.mark.parametrize("n_bytes", [3000, 9000])
def test_a_real_limit_on_the_size_of_files_is_told(n_bytes: int, tmp_path: Path) -> None:
    (line,) = run("limit_files", tmp_path, n_bytes)
    assert line.startswith("ResourceError")
    assert "File too large. Files may not be that large here (see `ulimit -f`)" in line
    assert left_behind(LocalFiles(tmp_path)) == []


def test_a_full_disk_in_reality_is_told(tmp_path: Path) -> None:
    """On a file system of 64 KiB, where this user may mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    (line,) = run("fill_disk", tmp_path)
    if line.startswith("cannot mount"):
        pytest.skip(line)
    assert line.startswith("ResourceError")
    assert "The disk is full. Free some space" in line
    assert line.endswith("left: []")
