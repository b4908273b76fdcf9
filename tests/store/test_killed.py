"""Writers killed at every call, and writers that race: each unit is there once, or not at all."""

from collections import Counter
from pathlib import Path

import pytest

from interp.store.commits import committed, read_commit
from interp.store.durable import LocalFiles
from tests.store.processes import run
from tests.store.unit import GROUP, check_unit, write_unit


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[LocalFiles]:
    """Stores whose writer was killed at its n-th call, for each n there is."""
    folder = tmp_path_factory.mktemp("killed")
    names = run("kill_at_each_call", folder)
    assert sum(name.startswith("within") for name in names) > 8
    assert len(names) > 80
    return [LocalFiles(folder / name) for name in names]


def test_a_killed_writer_leaves_a_whole_unit_or_none(killed: list[LocalFiles]) -> None:
    n_committed = 0
    for files in killed:
        if committed(files):
            check_unit(files)
            n_committed += 1
        else:
            assert read_commit(files, 0, GROUP) is None
    assert 0 < n_committed < 10


def test_the_next_attempt_completes_what_a_killed_one_began(
    killed: list[LocalFiles], tmp_path: Path
) -> None:
    undisturbed = LocalFiles(tmp_path)
    write_unit(undisturbed)
    expected = hashes(undisturbed)
    for files in killed:
        was_there = bool(committed(files))
        assert write_unit(files) is not was_there
        check_unit(files)
        assert hashes(files) == expected


def hashes(files: LocalFiles) -> dict[str, str]:
    """Hash of each file of the unit."""
    commit = read_commit(files, 0, GROUP)
    assert commit is not None
    return {name: hook.shard.xxh3 for name, hook in commit.hooks.items()}


def test_of_many_processes_exactly_one_writes_each_name(tmp_path: Path) -> None:
    lines = run("race_for_names", tmp_path, 8, 40)
    assert Counter(line.split()[0] for line in lines) == {str(name): 1 for name in range(40)}
    assert len({line.split()[1] for line in lines}) > 1, "one process won everything: no race"
    files = LocalFiles(tmp_path)
    for line in lines:
        name, winner = line.split()
        assert files.read(f"attempts/{name}") == winner.encode()
    assert files.names("_tmp") == []


def test_of_many_processes_exactly_one_commits_each_unit(tmp_path: Path) -> None:
    lines = run("race_for_units", tmp_path, 4, 5)
    assert sorted(line.split()[0] for line in lines) == list("01234")
    files = LocalFiles(tmp_path)
    shards = []
    for unit in range(5):
        check_unit(files, unit)
        commit = read_commit(files, unit, GROUP)
        assert commit is not None
        shards += [hook.shard.path for hook in commit.hooks.values()]
    data = [f"data/{name}" for name in files.names("data", recursive=True)]
    assert data == sorted(shards), "the losers' shards are gone"
    assert files.names("_tmp") == []
