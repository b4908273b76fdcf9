"""A power cut at any moment: what is committed verifies, and what was reported stays."""

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from interp.store.commits import committed
from interp.store.durable import LocalFiles
from interp.store.naming import hook_folder
from tests.store.power_cut import Disk, cuts, restore
from tests.store.processes import run
from tests.store.system_calls import Event, recorded
from tests.store.unit import GROUP, HOOKS, check_unit, write_unit


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Event]:
    """Two units are committed in a new store, and a second attempt at the first withdraws."""
    folder = tmp_path_factory.mktemp("recorded")
    with recorded(folder) as events:
        files = LocalFiles(folder / "store")
        assert write_unit(files, 0)
        assert write_unit(files, 1)
        assert not write_unit(files, 0)
    return events


def units_with_a_commit(survivors: dict[str, bytes]) -> set[int]:
    names = (path.removeprefix("store/commits/") for path in survivors)
    return {int(name[1:7]) for name in names if name.startswith("u")}


def test_every_commit_that_survives_a_cut_verifies(trace: Sequence[Event], tmp_path: Path) -> None:
    n_checked = n_with_both = 0
    for number, (_, survivors) in enumerate(cuts(trace, samples=8)):
        units = units_with_a_commit(survivors)
        if not units:
            continue
        root = tmp_path / str(number)
        restore(survivors, root)
        files = LocalFiles(root / "store")
        assert committed(files) == {(unit, GROUP) for unit in units}
        for unit in units:
            check_unit(files, unit)
        n_checked += 1
        n_with_both += len(units) == 2
        shutil.rmtree(root)
    assert n_checked > 200
    assert n_with_both > 100


def test_a_unit_that_was_reported_survives_every_cut(trace: Sequence[Event]) -> None:
    links = [n for n, event in enumerate(trace) if event.call == "link"]
    assert len(links) == 2
    for n_events, survivors in cuts(trace, samples=8):
        # Reported once the folder of commits is flushed, which is the event after the link.
        reported = {unit for unit, link in enumerate(links) if n_events >= link + 2}
        assert units_with_a_commit(survivors) >= reported


def test_folders_that_a_killed_process_made_survive_with_the_unit(tmp_path: Path) -> None:
    with recorded(tmp_path) as events:
        for folder in (
            "store",
            "store/commits",
            "store/data",
            f"store/{hook_folder(HOOKS[0].name)}",
        ):
            os.mkdir(tmp_path / folder)  # noqa: PTH102  the recorded call
        assert write_unit(LocalFiles(tmp_path / "store"))
    *_, (_, nothing_unflushed), _ = cuts(events, samples=0)
    assert units_with_a_commit(nothing_unflushed) == {0}
    restore(nothing_unflushed, tmp_path / "restored")
    check_unit(LocalFiles(tmp_path / "restored" / "store"))


def test_a_rerun_after_any_cut_completes_the_store(trace: Sequence[Event], tmp_path: Path) -> None:
    for number, (_, survivors) in enumerate(itertools.islice(cuts(trace, samples=1), 0, None, 7)):
        root = tmp_path / str(number)
        restore(survivors, root)
        files = LocalFiles(root / "store")
        missing = {0, 1} - {unit for unit, _ in committed(files)}
        for unit in missing:
            assert write_unit(files, unit)
        for unit in (0, 1):
            check_unit(files, unit)


def test_each_file_is_flushed_before_it_is_named_and_its_folder_after(
    trace: Sequence[Event],
) -> None:
    assert_flushed([(event.call, event.path, event.target) for event in trace])


def assert_flushed(calls: Sequence[tuple[str, str, str]]) -> None:
    """Calls, the path of each and the new path of a rename or link: the protocol itself."""
    calls = [call for call in calls if call[0] in ("write", "fsync", "rename", "link")]
    names = [place for place, call in enumerate(calls) if call[0] in ("rename", "link")]
    assert names
    for place in names:
        _, path, target = calls[place]
        on_file = [name for name, other, _ in calls[:place] if other == path]
        assert on_file[-1] == "fsync", f"{target} was named before it was flushed"
        folder = str(Path(target).parent)
        assert calls[place + 1][:2] == ("fsync", folder), f"{folder} was not flushed"


STRACE_LINE = re.compile(r'(write|fsync|rename|link)\w*\((?:\d+<(.*?)>|"(.*?)", "(.*?)").* = (\d+)')


def test_the_system_sees_the_same_flushes(tmp_path: Path) -> None:
    """By strace, whatever a library may do."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    log, root = tmp_path / "log", tmp_path / "store"
    calls = "trace=write,fsync,fdatasync,rename,renameat,renameat2,link,linkat"
    run("write_one", root, under=["strace", "-f", "-y", "-e", calls, "-o", str(log)])
    found = [STRACE_LINE.search(line) for line in log.read_text().splitlines()]
    seen = [(m[1], m[2] or m[3], m[4] or "") for m in found if m and f"{root}/" in m[0]]
    assert [name for name, _, _ in seen].count("rename") == 3
    assert [name for name, _, _ in seen].count("link") == 1
    assert_flushed(seen)


def test_the_disk_of_the_model_forgets() -> None:
    """The model itself: without a flush, a name, contents and order may all be lost."""
    events = [
        Event("create", "a", 1),
        Event("write", "a", 1, data=b"x" * 5000),
        Event("rename", "a", 1, "b"),
        Event("create", "c", 2),
        Event("fsync", "c", 2),
    ]
    states = [survivors for n, survivors in cuts(events, samples=200) if n == 5]
    assert {} in states
    assert {"b": b"x" * 5000, "c": b""} in states
    assert {"c": b""} in states
    assert {"a": b"x" * 5000} in states
    contents = {state["b"] for state in states if "b" in state}
    assert b"" in contents
    assert b"\0" * 4096 + b"x" * 904 in contents
    assert b"x" * 4096 + b"\0" * 904 in contents
    disk = Disk()
    for event in (*events, Event("fsync", "a", 1), Event("fsync", ".", 0)):
        disk.apply(event)
    for _, survivors in cuts([*events, Event("fsync", "a", 1), Event("fsync", ".", 0)], samples=20):
        last = survivors
    assert last == {"b": b"x" * 5000, "c": b""}
