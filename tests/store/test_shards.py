"""Shards: the bits that were written come back, or an error names the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from interp.errors import DamagedStoreError
from interp.store.durable import LocalFiles
from interp.store.moments import Moments
from interp.store.shard_layout import CHUNK_BYTES, ShardRecord, shard_bytes
from interp.store.shards import Shard, ShardWriter
from tests.comparison import assert_close
from tests.store.unit import Hook, as_bits, write_shard


@pytest.fixture
def files(tmp_path: Path) -> LocalFiles:
    return LocalFiles(tmp_path)


def written(files: LocalFiles, values: torch.Tensor, dtype: torch.dtype) -> Shard:
    hook = Hook("blocks.0.hook_x", tuple(values.shape[1:]), dtype)
    record, _ = write_shard(files, hook, values)
    return Shard(files.local(record.path), record)


def every_bit_pattern(dtype: torch.dtype) -> torch.Tensor:
    """All finite 16-bit values of a type."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    return x[x.isfinite()]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_16_bit_value_comes_back_bit_for_bit(dtype: torch.dtype, files: LocalFiles) -> None:
    x = every_bit_pattern(dtype)
    assert len(x) > 60_000
    shard = written(files, x.float()[:, None], dtype)
    bits = shard.rows(np.arange(len(x)))
    assert np.array_equal(bits[:, 0], as_bits(x))
    assert torch.equal(torch.from_numpy(bits).view(dtype)[:, 0], x)


def test_float32_comes_back_bit_for_bit(files: LocalFiles) -> None:
    x = torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
    x[0] = torch.tensor([0.0, -0.0, 1e-45, 3.4e38, -1.17549435e-38])
    shard = written(files, x, torch.float32)
    assert np.array_equal(shard.rows(np.arange(300)).view(np.uint32), x.numpy().view(np.uint32))


def test_a_massive_activation_fits_float16_to_one_unit_in_the_last_place(files: LocalFiles) -> None:
    shard = written(files, torch.tensor([[3000.3, -3000.3]]), torch.float16)
    back = torch.from_numpy(shard.rows(np.array([0]))).view(torch.float16).float()
    assert (back.abs() - 3000.3).abs().max() <= 2.0  # float16 has steps of 2 from 2048 on
    assert back[0, 0] == -back[0, 1] == 3000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(100, 24), (100, 4, 6), (100,), (1, 15), (0, 24), (777, 3, 1)])
def test_plain_safetensors_reads_a_shard(
    dtype: torch.dtype, shape: tuple[int, ...], files: LocalFiles
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    shard = written(files, x, dtype)
    with safe_open(shard.path, framework="pt") as file:
        assert list(file.keys()) == ["checksums", "m2", "mean", "x"]
        assert torch.equal(file.get_tensor("x"), x.to(dtype))
        assert_close(
            file.get_tensor("mean"), x.double().mean(0) if len(x) else torch.zeros(24).double()
        )
        assert file.metadata() == {
            "hook": "blocks.0.hook_x",
            "unit": "0",
            "group": "89abcdef",
            "spec_sha": "0" * 32,
            "format": "1",
            "rows_per_chunk": str(shard.layout.rows_per_chunk),
        }
    assert np.array_equal(shard.rows(np.arange(len(x))), as_bits(x.to(dtype)))
    shard.verify()


def test_rows_and_slices_are_those_of_the_tensor(files: LocalFiles) -> None:
    x = torch.randn(1000, 48, generator=torch.Generator().manual_seed(0))
    shard, bits = written(files, x, torch.float16), as_bits(x.half())
    assert shard.layout.n_chunks == 2
    index = np.array([999, 0, 5, 5, 700, 682, 681])
    assert np.array_equal(shard.rows(index), bits[index])
    out = np.empty((7, 48), np.uint16)
    assert shard.rows(index, out=out) is out
    assert np.array_equal(out, bits[index])
    assert np.array_equal(shard.slice(600, 800), bits[600:800])
    assert shard.slice(5, 5).shape == (0, 48)
    assert shard.rows(np.array([], dtype=np.int64)).shape == (0, 48)


@pytest.mark.parametrize("index", [[-1], [100], [0, 2**62]])
def test_rows_that_are_not_there_are_refused(index: list[int], files: LocalFiles) -> None:
    shard = written(files, torch.zeros(100, 3), torch.float16)
    with pytest.raises(IndexError, match=r"has rows 0 to 99\."):
        shard.rows(np.array(index))


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (0, 101), (5, 4)])
def test_slices_that_are_not_there_are_refused(start: int, stop: int, files: LocalFiles) -> None:
    shard = written(files, torch.zeros(100, 3), torch.float16)
    with pytest.raises(IndexError, match=r"has rows 0 to 99\."):
        shard.slice(start, stop)


def test_a_slice_is_a_view_of_the_file_that_nobody_can_change(files: LocalFiles) -> None:
    part = written(files, torch.zeros(100, 3), torch.float16).slice(10, 20)
    assert part.base is not None
    with pytest.raises(ValueError, match="read-only"):
        part[0] = 1


def test_moments_are_those_of_the_rows_before_rounding(files: LocalFiles) -> None:
    x = 300 + torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    shard = written(files, x, torch.bfloat16)
    exact = x.double()
    assert_close(torch.from_numpy(shard.mean.copy()), exact.mean(0))
    assert_close(torch.from_numpy(shard.m2.copy()), (exact - exact.mean(0)).square().sum(0))


@pytest.mark.parametrize("batch", [1, 7, 682, 683, 2000])
def test_the_bytes_do_not_depend_on_the_batches(batch: int, files: LocalFiles) -> None:
    x = torch.randn(2000, 48, generator=torch.Generator().manual_seed(0)).half()
    moments = Moments((48,))
    moments.add(x.float())
    records = []
    for path, n in (("data/h/a", batch), ("data/h/b", 300)):
        writer = writer_for(files, path, x)
        for rows in x.split(n):
            writer.append(rows)
        records.append(writer.finish(moments))
    assert records[0].xxh3 == records[1].xxh3
    Shard(files.local("data/h/a"), records[0]).rows(np.arange(2000))


def writer_for(files: LocalFiles, path: str, x: torch.Tensor) -> ShardWriter:
    return ShardWriter(
        files.begin(path),
        hook="h",
        unit=0,
        n_rows=len(x),
        feature=tuple(x.shape[1:]),
        dtype=x.dtype,
        metadata={},
    )


@pytest.mark.parametrize(
    "x", [torch.arange(60.0).half().reshape(6, 10).T, torch.arange(60.0).half()[::6]]
)
def test_rows_that_lie_apart_in_memory_are_written_in_order(
    x: torch.Tensor, files: LocalFiles
) -> None:
    writer = writer_for(files, "data/h/a", x)
    writer.append(x)
    moments = Moments(tuple(x.shape[1:]))
    moments.add(x.float())
    record = writer.finish(moments)
    rows = Shard(files.local(record.path), record).slice(0, 10)
    assert np.array_equal(rows, as_bits(x.contiguous()))


def test_the_size_on_disk_is_known_beforehand(files: LocalFiles) -> None:
    for shape, dtype in [
        ((1000, 48), torch.float16),
        ((0, 3), torch.float32),
        ((7, 4, 5), torch.bfloat16),
    ]:
        shard = written(files, torch.zeros(shape), dtype)
        expected = shard_bytes(shape[1:], dtype, shape[0])
        assert shard.path.stat().st_size == shard.record.n_bytes == expected


def test_values_begin_on_a_page_and_checksums_cover_64_kib(files: LocalFiles) -> None:
    shard = written(files, torch.zeros(200, 768), torch.float16)
    assert shard.record.data_offset % 4096 == 0
    assert shard.layout.rows_per_chunk == CHUNK_BYTES // 1536 == 42
    assert load_file(shard.path)["checksums"].shape == (5,)


# Misuse of the writer


def test_a_shard_with_missing_rows_is_never_published(files: LocalFiles) -> None:
    x = torch.zeros(10, 3).half()
    writer = writer_for(files, "data/h/a", x)
    writer.append(x[:9])
    moments = Moments((3,))
    moments.add(torch.zeros(10, 3))
    with pytest.raises(ValueError, match="10 rows announced, 9 written, moments of 10"):
        writer.finish(moments)
    writer.discard()
    assert files.names("", recursive=True) == []


def test_rows_too_many_or_of_another_kind_are_refused(files: LocalFiles) -> None:
    writer = writer_for(files, "data/h/a", torch.zeros(10, 3).half())
    with pytest.raises(ValueError, match="More rows than the 10 announced"):
        writer.append(torch.zeros(11, 3).half())
    with pytest.raises(ValueError, match=r"Expected rows \(3,\) of torch.float16, got \(3,\) of"):
        writer.append(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"Expected rows \(3,\) of torch.float16, got \(4,\) of"):
        writer.append(torch.zeros(1, 4).half())
    with pytest.raises(ValueError, match="Shards hold float16, bfloat16, float32, not float64"):
        writer_for(files, "data/h/b", torch.zeros(1, 3).double())


# Records that no writer makes


def changed(record: ShardRecord, **values: object) -> ShardRecord:
    return ShardRecord(**(record.__dict__ | values))


@pytest.mark.parametrize(
    "values",
    [
        {"dtype": "float64"},
        {"dtype": "object"},
        {"dtype": "bfloat16"},
        {"shape": ()},
        {"shape": (2**62, 2**62)},
        {"shape": (4, 75)},
        {"data_offset": 0},
        {"data_offset": 2**40},
        {"n_bytes": 1},
        {"frame_xxh3": "0" * 32},
    ],
)
def test_a_record_that_does_not_fit_its_file_is_damage(
    values: dict[str, object], files: LocalFiles
) -> None:
    record, _ = write_shard(files, Hook("h", (3,), torch.float16), torch.zeros(100, 3))
    path = files.local(record.path)
    with pytest.raises(DamagedStoreError, match=f"{path} is damaged"):
        Shard(path, changed(record, **values))


def test_nothing_is_read_of_an_unverified_shard_but_its_rows(files: LocalFiles) -> None:
    record, _ = write_shard(files, Hook("h", (3,), torch.float16), torch.ones(100, 3))
    shard = Shard(files.local(record.path), changed(record, frame_xxh3=""), verify="none")
    assert np.array_equal(shard.rows(np.array([5])), as_bits(torch.ones(1, 3).half()))
