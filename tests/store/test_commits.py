"""Commits: a unit exists once its record does, and no altered record is believed."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch

from interp.errors import DamagedStoreError, ResourceError, StoreError
from interp.store.commits import HookCommit, committed, read_commit, withdraw, write_commit
from interp.store.durable import LocalFiles
from interp.store.naming import commit_path, shard_path
from interp.store.sealed import seal, unseal
from tests.store.unit import GROUP, HOOKS, N_ROWS, SPEC, check_unit, write_shard, write_unit

COMMIT = commit_path(0, GROUP)


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    files = LocalFiles(tmp_path)
    assert write_unit(files)
    return files


def test_a_unit_comes_back_as_it_was_written(files: LocalFiles) -> None:
    commit = read_commit(files, 0, GROUP)
    assert commit is not None
    assert (commit.spec_sha, commit.n_rows, set(commit.hooks)) == (
        SPEC,
        N_ROWS,
        {hook.name for hook in HOOKS},
    )
    check_unit(files)


def test_a_commit_tells_how_large_the_values_are(files: LocalFiles) -> None:
    x = torch.tensor([[3.0, -4.0], [0.0, 1.0]])
    shard, moments = write_shard(files, HOOKS[0].__class__("h", (2,), torch.float16), x)
    hook = HookCommit.of(shard, moments, 0.25)
    assert (hook.absmax, hook.norm_min, hook.norm_mean, hook.norm_max) == (4, 1, 3, 5)
    assert hook.max_rounding_error == 0.25


def test_units_are_found_by_the_names_of_their_commits(files: LocalFiles) -> None:
    write_unit(files, 5)
    files.write_once("commits/u000007+89abcdef.2.json", b"")
    files.write_once("commits/notes.txt", b"")
    assert committed(files) == {(0, GROUP), (5, GROUP)}
    assert committed(LocalFiles(files.root / "empty")) == set()


def test_a_unit_that_is_not_committed_does_not_exist(files: LocalFiles) -> None:
    assert read_commit(files, 1, GROUP) is None
    assert read_commit(files, 0, "00000000") is None


def test_the_second_attempt_at_a_unit_withdraws(files: LocalFiles) -> None:
    before = files.names("", recursive=True)
    first = files.read(COMMIT)
    assert not write_unit(files)
    after = files.names("", recursive=True)
    # Tokens are the plan's, not the commit's: only their file is left of the second attempt.
    assert [path for path in after if path not in before and "tokens/" not in path] == []
    assert files.read(COMMIT) == first
    check_unit(files)


def test_the_commit_that_made_the_unit_is_not_withdrawn(files: LocalFiles) -> None:
    commit = read_commit(files, 0, GROUP)
    assert commit is not None
    withdraw(files, commit)
    check_unit(files)


def test_a_commit_says_the_same_bytes_for_the_same_unit(files: LocalFiles) -> None:
    commit = read_commit(files, 0, GROUP)
    assert commit is not None
    other = LocalFiles(files.root / "other")
    assert write_commit(other, commit)
    assert other.read(COMMIT) == files.read(COMMIT)


def test_a_moved_store_holds_the_same_units(files: LocalFiles) -> None:
    assert str(files.root).encode() not in files.read(COMMIT)
    moved = LocalFiles(files.root.with_name("elsewhere"))
    files.root.rename(moved.root)
    check_unit(moved)
    assert write_unit(moved, 1)
    check_unit(moved, 1)


@pytest.fixture
def as_somebody_else() -> Iterator[Callable[[], None]]:
    """Makes this process another user, who has no rights of his own; until the end of the test."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    yield lambda: os.seteuid(65534)
    os.seteuid(0)


@pytest.fixture
def common_folder() -> Iterator[Path]:
    """A folder that others may enter, unlike pytest's."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_another_user_reads_a_store_and_cannot_write(
    common_folder: Path, as_somebody_else: Callable[[], None]
) -> None:
    before = os.umask(0o022)
    assert write_unit(LocalFiles(common_folder / "store"))
    os.umask(before)
    as_somebody_else()
    files = LocalFiles(common_folder / "store")
    check_unit(files)
    assert committed(files) == {(0, GROUP)}
    with pytest.raises(ResourceError, match=r"Permission denied\. Choose a folder that you may"):
        write_unit(files, 1)


def test_a_store_that_was_kept_private_says_so(
    common_folder: Path, as_somebody_else: Callable[[], None]
) -> None:
    before = os.umask(0o077)
    assert write_unit(LocalFiles(common_folder / "store"))
    os.umask(before)
    as_somebody_else()
    files = LocalFiles(common_folder / "store")
    for look in (committed, lambda files: read_commit(files, 0, GROUP)):
        with pytest.raises(StoreError, match=r"may not be read by you\. Ask its owner"):
            look(files)


# Altered records


def rewrite(files: LocalFiles, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the content of the commit and give it a matching checksum."""
    content = unseal(files.read(COMMIT), COMMIT)
    change(content)
    files.local(COMMIT).write_bytes(seal(content))


def on_shard(**values: object) -> Callable[[dict[str, Any]], object]:
    def change(content: dict[str, Any]) -> None:
        content["hooks"][HOOKS[0].name]["shard"].update(values)

    return change


def swap_hooks(content: dict[str, Any]) -> None:
    first, second = (hook.name for hook in HOOKS)
    hooks = content["hooks"]
    hooks[first], hooks[second] = hooks[second], hooks[first]


def climb_out(content: dict[str, Any]) -> None:
    hook = content["hooks"].pop(HOOKS[0].name)
    hook["shard"]["path"] = shard_path("..", 0, content["attempt"])
    content["hooks"][".."] = hook


@pytest.mark.parametrize(
    "change",
    [
        on_shard(path="/etc/passwd"),
        on_shard(path="../../etc/passwd"),
        on_shard(path="data/../../../etc/passwd"),
        on_shard(path="data/blocks.0.hook_resid_post/u000000-00000000.safetensors"),
        on_shard(path="C:\\windows"),
        on_shard(path=""),
        on_shard(path=["data"]),
        on_shard(shape=[99, 24]),
        on_shard(shape=[]),
        on_shard(shape=[100, -24]),
        on_shard(shape=[100, 2**70]),
        on_shard(shape="100"),
        on_shard(n_bytes=1.5),
        on_shard(n_bytes=True),
        on_shard(more=1),
        swap_hooks,
        lambda content: content.update(unit=1),
        lambda content: content.update(unit=None),
        lambda content: content.update(group="00000000"),
        lambda content: content.update(n_rows=99),
        lambda content: content.update(n_rows=-1),
        lambda content: content.update(attempt="../../x"),
        lambda content: content.update(hooks=[]),
        climb_out,
        lambda content: content.update(extra={}),
        lambda content: content.pop("attempt"),
        lambda content: content["hooks"][HOOKS[0].name].update(absmax="nan"),
    ],
)
def test_a_hostile_commit_with_a_valid_checksum_is_refused(
    change: Callable[[dict[str, Any]], object], files: LocalFiles
) -> None:
    rewrite(files, change)
    with pytest.raises(DamagedStoreError, match=r"u000000\+89abcdef\.json|inside a store"):
        read_commit(files, 0, GROUP)


HOSTILE = [
    b"",
    b"\0" * 4096,
    b"null",
    b"[]",
    b"{}",
    b"{",
    b'{"checksum": 1}',
    b"[" * 100_000,
    b'{"a":' * 990 + b"1" + b"}" * 990,
    b'{"checksum":' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
    b'{"unit": NaN}',
    b'{"unit": Infinity}',
    b'{"unit": ' + b"9" * 5000 + b"}",
    b'{"unit": 1e999}',
    b"\xff\xfe",
    b'{"unit": "\\ud800"}',
    b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.",
    b"\x80\x04\x95",
]


@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:24]))
def test_what_is_no_record_is_refused(data: bytes, files: LocalFiles) -> None:
    files.local(COMMIT).write_bytes(data)
    with pytest.raises(DamagedStoreError, match=r"commits/u000000\+89abcdef\.json"):
        read_commit(files, 0, GROUP)


def test_every_flipped_byte_of_a_commit_is_noticed(files: LocalFiles) -> None:
    data = files.read(COMMIT)
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1
        files.local(COMMIT).write_bytes(altered)
        with pytest.raises(DamagedStoreError, match=r"commits/u000000\+89abcdef\.json"):
            read_commit(files, 0, GROUP)


@pytest.mark.parametrize("keep", [0, 1, 100, -1])
def test_a_commit_that_was_cut_off_is_refused(keep: int, files: LocalFiles) -> None:
    data = files.read(COMMIT)
    files.local(COMMIT).write_bytes(data[:keep])
    with pytest.raises(DamagedStoreError, match=r"commits/u000000\+89abcdef\.json"):
        read_commit(files, 0, GROUP)


def test_commits_of_two_units_cannot_be_swapped(files: LocalFiles) -> None:
    write_unit(files, 1)
    other = files.read(commit_path(1, GROUP))
    files.local(commit_path(1, GROUP)).write_bytes(files.read(COMMIT))
    files.local(COMMIT).write_bytes(other)
    for unit in (0, 1):
        with pytest.raises(DamagedStoreError, match="it is the record of commits/u00000"):
            read_commit(files, unit, GROUP)


def test_a_commit_is_plain_json(files: LocalFiles) -> None:
    assert json.loads(files.read(COMMIT))["unit"] == 0
