"""Damaged shards: the file is named, and no wrong row is ever given out."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.errors import DamagedStoreError
from interp.store.durable import LocalFiles
from interp.store.shard_layout import ShardRecord
from interp.store.shards import Shard
from tests.store.unit import (
    HOOKS,
    N_ROWS,
    Hook,
    open_shards,
    shard_paths,
    write_shard,
    write_unit,
)

HOOK = Hook("blocks.0.hook_resid_post", (24,), torch.float16)
LARGE = Hook("blocks.0.hook_resid_post", (512,), torch.float16)


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path)


@pytest.fixture
def small(files: LocalFiles) -> ShardRecord:
    """50 rows that share a checksum."""
    return write_shard(files, HOOK, HOOK.values(0, 50))[0]


@pytest.fixture
def large(files: LocalFiles) -> ShardRecord:
    """200 rows in chunks of 64."""
    return write_shard(files, LARGE, LARGE.values(0, 200))[0]


def read_all(path: Path, record: ShardRecord) -> np.ndarray:
    shard = Shard(path, record)
    return shard.rows(np.arange(record.shape[0]))


def assert_noticed(path: Path, record: ShardRecord) -> None:
    """Each way to read everything names the file."""
    for read in (read_all, lambda path, record: Shard(path, record).slice(0, record.shape[0])):
        with pytest.raises(DamagedStoreError, match=f"{path} is damaged: "):
            read(path, record)
    with pytest.raises(DamagedStoreError, match=f"{path} is damaged: "):
        Shard(path, record, verify="none").verify()


def test_a_flipped_bit_anywhere_is_noticed(small: ShardRecord, files: LocalFiles) -> None:
    path = files.local(small.path)
    with path.open("r+b", buffering=0) as file:
        for place in range(small.n_bytes):
            original = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([original[0] ^ (1 << place % 8)]), place)
            with pytest.raises(DamagedStoreError, match=path.name):
                read_all(path, small)
            os.pwrite(file.fileno(), original, place)
    assert np.array_equal(read_all(path, small), HOOK.bits(0, 50))


def test_only_the_rows_beside_a_flipped_bit_are_refused(
    large: ShardRecord, files: LocalFiles
) -> None:
    path = files.local(large.path)
    flip(path, large.data_offset + 100 * 1024)
    shard, bits = Shard(path, large), LARGE.bits(0, 200)
    assert np.array_equal(shard.rows(np.array([0, 63, 128, 199])), bits[[0, 63, 128, 199]])
    assert np.array_equal(shard.slice(128, 200), bits[128:])
    for row in (64, 100, 127):
        with pytest.raises(DamagedStoreError, match=f"{path} is damaged: rows 64 to 127 were"):
            shard.rows(np.array([row]))
        with pytest.raises(DamagedStoreError, match="rows 64 to 127 were altered"):
            shard.slice(row, row + 1)
    with pytest.raises(DamagedStoreError, match="rows 64 to 127 were altered"):
        shard.slice(0, 200)


def test_a_damaged_last_chunk_is_named_with_its_own_rows(
    large: ShardRecord, files: LocalFiles
) -> None:
    path = files.local(large.path)
    flip(path, large.data_offset + 199 * 1024)
    with pytest.raises(DamagedStoreError, match="rows 192 to 199 were altered"):
        read_all(path, large)


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("verify", ["size", "none"])
def test_rows_are_not_checked_where_that_was_declined(
    verify: str, large: ShardRecord, files: LocalFiles
) -> None:
    path = files.local(large.path)
    flip(path, large.data_offset)
    shard = Shard(path, large, verify=verify)
    assert (shard.rows(np.arange(200)) != LARGE.bits(0, 200)).sum() == 1


def test_a_zeroed_page_anywhere_is_noticed(large: ShardRecord, files: LocalFiles) -> None:
    path = files.local(large.path)
    data = path.read_bytes()
    for start in range(0, len(data), 4096):
        page = data[start : start + 4096]
        path.write_bytes(data[:start] + b"\0" * len(page) + data[start + len(page) :])
        assert_noticed(path, large)


def test_rows_of_zeros_are_still_checked(files: LocalFiles) -> None:
    """A checksum of zeros must not fit a table of zeros."""
    record, _ = write_shard(files, HOOK, torch.zeros(50, 24))
    path = files.local(record.path)
    assert not read_all(path, record).any()
    data = path.read_bytes()
    path.write_bytes(data[:4096].ljust(len(data), b"\0"))
    assert_noticed(path, record)


@pytest.mark.parametrize("n_zeros", [1, 8, 100, 4000, 8000])
def test_a_zeroed_tail_is_noticed(n_zeros: int, small: ShardRecord, files: LocalFiles) -> None:
    path = files.local(small.path)
    data = path.read_bytes()
    n_zeros = min(n_zeros, len(data))
    path.write_bytes(data[:-n_zeros] + b"\0" * n_zeros)
    assert_noticed(path, small)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 4095, 4096, 5000, -400, -9, -1])
def test_a_file_that_was_cut_off_is_noticed(
    length: int, small: ShardRecord, files: LocalFiles
) -> None:
    path = files.local(small.path)
    path.write_bytes(path.read_bytes()[:length])
    assert_noticed(path, small)
    if length < 4096 + 2400 and length >= 0:
        with pytest.raises(DamagedStoreError, match=f"{path} is damaged: it is cut off"):
            Shard(path, small, verify="none")


def test_bytes_after_the_end_are_noticed(small: ShardRecord, files: LocalFiles) -> None:
    path = files.local(small.path)
    path.write_bytes(path.read_bytes() + b"\0")
    assert_noticed(path, small)


def test_a_missing_file_is_noticed(small: ShardRecord, files: LocalFiles) -> None:
    path = files.local(small.path)
    path.unlink()
    assert_noticed(path, small)
    with pytest.raises(DamagedStoreError, match=f"{path} is damaged: it is missing"):
        Shard(path, small, verify="none")


def rename_hook(header: bytes) -> bytes:
    return header.replace(b"blocks.0.", b"blocks.1.")


def transpose(header: bytes) -> bytes:
    return header.replace(b"[50,24]", b"[24,50]")


def retype(header: bytes) -> bytes:
    return header.replace(b'"F16"', b'"I16"')


def shift(header: bytes) -> bytes:
    assert header.endswith(b"  ")
    return header.replace(b"[0,2400]", b"[2,2402]")


def break_json(header: bytes) -> bytes:
    return header.replace(b"{", b"[", 1)


def nest(header: bytes) -> bytes:
    return header[:8] + b"[" * (len(header) - 8)


def enlarge(header: bytes) -> bytes:
    return (2**63).to_bytes(8, "little") + header[8:]


@pytest.mark.parametrize("edit", [rename_hook, transpose, retype, shift, break_json, nest, enlarge])
def test_an_edited_header_is_noticed(
    edit: Callable[[bytes], bytes], small: ShardRecord, files: LocalFiles
) -> None:
    path = files.local(small.path)
    data = path.read_bytes()
    header = edit(data[:4096])
    assert len(header) == 4096
    assert header != data[:4096]
    path.write_bytes(header + data[4096:])
    assert_noticed(path, small)


def test_files_of_two_hooks_cannot_be_swapped(files: LocalFiles) -> None:
    twins = (HOOK, Hook("blocks.1.hook_resid_post", (24,), torch.float16))
    write_unit(files, hooks=twins)
    swap(files, *shard_paths(files))
    with pytest.raises(DamagedStoreError, match="its header, moments or checksums are not those"):
        open_shards(files)


def test_files_of_two_units_cannot_be_swapped(files: LocalFiles) -> None:
    for unit in (0, 1):
        write_unit(files, unit)
    for first, second in zip(shard_paths(files, 0), shard_paths(files, 1), strict=True):
        swap(files, first, second)
    for unit in (0, 1):
        with pytest.raises(DamagedStoreError, match="its header, moments or checksums are not"):
            open_shards(files, unit)


def swap(files: LocalFiles, first: str, second: str) -> None:
    one, other = files.local(first), files.local(second)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)


def test_equal_rows_of_another_unit_are_told_apart(files: LocalFiles) -> None:
    """Units of equal values differ in their headers."""
    x = HOOK.values(0, 50)
    (record, _), (other, _) = (write_shard(files, HOOK, x, unit=unit) for unit in (0, 1))
    assert record.xxh3 != other.xxh3
    with pytest.raises(DamagedStoreError, match="its header"):
        Shard(files.local(other.path), record)


def test_files_that_no_commit_names_do_not_exist(files: LocalFiles) -> None:
    write_unit(files)
    extra = files.root / "data" / HOOKS[0].name / "u000000-00000000.safetensors"
    extra.write_bytes(b"rubbish")
    shards = open_shards(files)
    assert extra not in [shard.path for shard in shards.values()]
    assert np.array_equal(shards[HOOKS[0].name].slice(0, N_ROWS), HOOKS[0].bits(0, N_ROWS))


def test_a_row_is_checked_once_and_then_trusted(large: ShardRecord, files: LocalFiles) -> None:
    """What is checked is the memory that is read; a file is never altered in place by us."""
    path = files.local(large.path)
    shard = Shard(path, large)
    shard.rows(np.array([0]))
    flip(path, large.data_offset)
    shard.rows(np.array([0]))
    with pytest.raises(DamagedStoreError, match="rows 0 to 63 were altered"):
        Shard(path, large).rows(np.array([0]))
