"""Processes of their own that write into a store: killed at each call, or racing each other.

Run as `python -m tests.store.processes NAME ARGUMENTS`. The process forks its children itself: it
has one thread, and what a child needs is imported already.
"""

import ctypes
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from interp.errors import InterpError
from interp.store.durable import LocalFiles
from interp.store.files import store_files
from tests.store.system_calls import Around, Nth, around_each_call
from tests.store.unit import shard_paths, write_unit

ROOT = Path(__file__).resolve().parents[2]
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000


def run(name: str, *arguments: object, under: Sequence[str] = ()) -> list[str]:
    """Run a function of this file in a process of its own; the lines that it printed.

    Args:
        under: A command that runs the process.
    """
    result = subprocess.run(
        [*under, sys.executable, "-m", "tests.store.processes", name, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


def say(*words: object) -> None:
    """A line of output."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def in_child(work: Callable[[], object]) -> int:
    """Process id of a child that does this and ends."""
    process = os.fork()
    if process == 0:
        work()
        os._exit(0)
    return process


def die(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """The call is done, and the process killed."""
    call(*args)
    os.kill(os.getpid(), signal.SIGKILL)


def die_within(name: str, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Half of a write is done, and the process killed."""
    call(args[0], args[1][: len(args[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_each_call(folder: str) -> None:
    """For each n, a store whose writer was killed at its n-th call; prints their names."""
    deaths: list[tuple[str, Around, tuple[str, ...]]] = [
        ("after", die, ("open", "write", "fsync", "close", "rename", "link", "unlink", "mkdir")),
        ("within", die_within, ("write",)),
    ]
    os.fsync = lambda descriptor: None  # a kill loses nothing that was written
    for when, death, calls in deaths:
        for n in count():
            name = f"{when}-{n}"

            fault = Nth(n, death, calls)
            child = in_child(lambda name=name, fault=fault: _write_with(fault, Path(folder, name)))
            _, status = os.waitpid(child, 0)
            if status == 0:
                break
            assert os.WTERMSIG(status) == signal.SIGKILL
            say(name)


def _write_with(fault: Nth, folder: Path) -> None:
    with around_each_call(fault):
        write_unit(LocalFiles(folder))


def race_for_names(folder: str, n_processes: str, n_names: str) -> None:
    """Each process tries to write each file once; prints which process won which name."""
    read_end, write_end = os.pipe()

    def work(me: int) -> None:
        os.close(write_end)
        os.read(read_end, 1)  # returns when the parent closes its end: all start together
        files = LocalFiles(folder)
        for name in range(int(n_names)):
            if files.write_once(f"attempts/{name}", str(me).encode()):
                say(name, me)

    children = [in_child(lambda me=me: work(me)) for me in range(int(n_processes))]
    os.close(write_end)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def race_for_each_name(url: str, n_processes: str, n_names: str) -> None:
    """As `race_for_names` where a write takes long: all processes try a name at one moment."""
    together = get_context("fork").Barrier(int(n_processes))
    store_files(url)  # imports what it needs

    def work(me: int) -> None:
        files = store_files(url)
        files.write_once(f"failed/{me}", b"")  # connects
        for name in range(int(n_names)):
            together.wait()
            if files.write_once(f"attempts/{name}", str(me).encode()):
                say(name, me)

    children = [in_child(lambda me=me: work(me)) for me in range(int(n_processes))]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def race_for_units(folder: str, n_processes: str, n_units: str) -> None:
    """Each process tries to commit each unit; prints which process won which unit."""

    def work(me: int) -> None:
        for unit in range(int(n_units)):
            if write_unit(LocalFiles(folder), unit):
                say(unit, me)

    children = [in_child(lambda me=me: work(me)) for me in range(int(n_processes))]
    for child in children:
        assert os.waitpid(child, 0)[1] == 0


def limit_files(folder: str, n_bytes: str) -> None:
    """Write a unit where no file may be larger; prints the error."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(n_bytes), int(n_bytes)))
    try:
        write_unit(LocalFiles(folder))
    except InterpError as error:
        say(type(error).__name__, error)


def write_one(folder: str) -> None:
    """Write a unit into a new store."""
    write_unit(LocalFiles(folder))


def fill_disk(folder: str) -> None:
    """Write units to a file system of 64 KiB until it is full; prints the error, what is left.

    The mount is seen by this process alone and ends with it.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    made_private = (
        libc.unshare(CLONE_NEWNS) == 0
        and libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) == 0
    )
    options = b"size=64k"
    if not made_private or libc.mount(b"none", folder.encode(), b"tmpfs", 0, options) != 0:
        say("cannot mount a small file system:", os.strerror(ctypes.get_errno()))
        return
    files = LocalFiles(folder)
    try:
        for unit in count():
            write_unit(files, unit)
    except InterpError as error:
        shards = {path for done in range(unit) for path in shard_paths(files, done)}
        data = [f"data/{name}" for name in files.names("data", recursive=True)]
        left = files.names("_tmp") + [path for path in data if path not in shards]
        say(type(error).__name__, error, "left:", left)


if __name__ == "__main__":
    functions = (
        kill_at_each_call,
        race_for_names,
        race_for_each_name,
        race_for_units,
        limit_files,
        fill_disk,
        write_one,
    )
    {function.__name__: function for function in functions}[sys.argv[1]](*sys.argv[2:])
