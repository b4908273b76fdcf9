"""Kill the processes that collect, at any moment: nothing wrong is readable, and all completes.

A store that was collected under fire has the same bytes as one that was left alone.
"""

import multiprocessing as mp
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest

from interp.model.gpt2 import HookedGPT2
from interp.store.attempts import open_work
from interp.store.collecting import collect
from interp.store.commits import committed
from interp.store.durable import LocalFiles
from interp.store.status import status
from interp.store.upkeep import garbage, verify
from tests.store import crash_child
from tests.store.whole_stores import contents, opened

# Children are forked from a server that has one thread and everything imported.
SERVER = mp.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.store.crash_child"])


@dataclass(frozen=True)
class LeftAlone:
    """A run that nobody interrupted."""

    contents: dict[str, str]
    seconds: float


@pytest.fixture(scope="module")
def left_alone(random_gpt2: HookedGPT2, tmp_path_factory: pytest.TempPathFactory) -> LeftAlone:
    path = tmp_path_factory.mktemp("alone")
    begun = SERVER.Event()
    process = started(crash_child.work, random_gpt2, path, begun)
    begun.wait()
    start = time.monotonic()
    process.join()
    return LeftAlone(contents(path), time.monotonic() - start)


def started(target: Callable, *arguments: object) -> BaseProcess:
    process = SERVER.Process(target=target, args=arguments)
    process.start()
    return process


def kill(process: BaseProcess) -> None:
    process.kill()
    process.join()


def wait_for_commits(path: Path, n_commits: int, process: BaseProcess) -> None:
    """Until there are so many, or the process has done all it had to do."""
    while process.is_alive():
        if len(LocalFiles(path).names("commits")) >= n_commits:
            return
        time.sleep(0.001)


def collect_under_fire(
    model: HookedGPT2, path: Path, alone: LeftAlone, n_processes: int, n_kills: int
) -> int:
    """Kill processes at random moments, and look at the store after each.

    Returns:
        How many kills came in the middle of a run.
    """
    chance = random.Random(f"{n_processes} {n_kills}")
    n_begun = 0
    for number in range(n_kills):
        begun = [SERVER.Event() for _ in range(n_processes)]
        processes = [started(crash_child.work, model, path, each) for each in begun]
        begun[-1].wait()
        if number % 2:
            wait_for_commits(path, chance.randrange(1, len(alone.contents) // 2), processes[0])
        else:
            time.sleep(chance.uniform(0, alone.seconds * n_processes))
        for process in processes:
            kill(process)
        if (path / "store.json").exists():
            store = opened(path)
            assert verify(store, full=True) == []
            assert contents(path).items() <= alone.contents.items()
            n_begun += 0 < len(committed(store.files)) < len(store.work)
            if status(store).is_complete:
                shutil.rmtree(path)
    assert collect(model, crash_child.TEXTS, path=path, **crash_child.OPTIONS).is_complete
    assert contents(path) == alone.contents
    garbage_paths = {file.path for file in garbage(opened(path), grace_seconds=0)}
    on_disk = {str(file.relative_to(path)) for file in path.rglob("data/*/*")}
    assert len(on_disk - garbage_paths) == len(alone.contents)
    return n_begun


@pytest.mark.parametrize(("n_processes", "n_kills"), [(1, 20), (2, 10), (4, 5)])
def test_kills_at_random_moments_lose_nothing(
    random_gpt2: HookedGPT2,
    tmp_path: Path,
    left_alone: LeftAlone,
    n_processes: int,
    n_kills: int,
):
    n_begun = collect_under_fire(random_gpt2, tmp_path / "store", left_alone, n_processes, n_kills)
    assert n_begun > 0 or n_kills < 20, "no kill came in the middle of a run"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n_processes", [1, 2, 4])
def test_two_hundred_kills_lose_nothing(
    random_gpt2: HookedGPT2, tmp_path: Path, left_alone: LeftAlone, n_processes: int
):
    assert collect_under_fire(random_gpt2, tmp_path / "store", left_alone, n_processes, 200) > 20


def test_a_run_beside_an_orphan_commits_every_unit_once(
    random_gpt2: HookedGPT2, tmp_path: Path, left_alone: LeftAlone
):
    begun = SERVER.Event()
    processes = [started(crash_child.work, random_gpt2, tmp_path, begun) for _ in range(3)]
    assert collect(random_gpt2, crash_child.TEXTS, path=tmp_path, **crash_child.OPTIONS).is_complete
    for process in processes:
        process.join()
        assert process.exitcode == 0
    store = opened(tmp_path)
    assert contents(tmp_path) == left_alone.contents
    assert sorted(committed(store.files)) == sorted(store.work)
    assert verify(store, full=True) == []
    assert garbage(store, grace_seconds=0) == []


def test_workers_whose_driver_was_killed_end_and_lose_nothing(
    random_gpt2: HookedGPT2, tmp_path: Path, left_alone: LeftAlone
):
    driver = started(crash_child.work_with_two_processes, random_gpt2, tmp_path)
    commits = tmp_path / "commits"
    while not (commits.exists() and any(commits.iterdir())):
        assert driver.is_alive() or any(commits.iterdir())
        time.sleep(0.005)
    workers = psutil.Process(driver.pid).children(recursive=True) if driver.is_alive() else []
    kill(driver)
    assert collect(random_gpt2, crash_child.TEXTS, path=tmp_path, **crash_child.OPTIONS).is_complete
    assert contents(tmp_path) == left_alone.contents
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def test_a_unit_whose_worker_was_killed_is_tried_last(random_gpt2: HookedGPT2, tmp_path: Path):
    process = started(crash_child.work_and_die_at_a_unit, random_gpt2, tmp_path, 2)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    store = opened(tmp_path)
    left = open_work(store.files, store.work)
    assert left.taken == []
    assert len(left.free) == len(store.work) - len(committed(store.files))
    suspects = [attempt for attempt in left.free if attempt.number == 2]
    assert suspects
    assert left.free[-len(suspects) :] == suspects
    assert status(store).failed == {}
