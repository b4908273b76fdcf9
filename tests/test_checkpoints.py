"""Weights from files: read without a copy, refused with the cause when damaged, written whole."""

import json
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from interp.errors import CheckpointError, UnsafeCheckpointError
from interp.model import checkpoints
from interp.model.checkpoints import read_safetensors, read_weights, write_safetensors
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import load
from interp.model.saving import save_huggingface

MIB = 2**20
SAVED_BYTES_OVERHEAD = 1.3
"""Largest peak memory of a load, relative to the weights (design: at most 1.3)."""


@pytest.fixture
def folder(random_gpt2: HookedGPT2, tmp_path: Path) -> Path:
    """A good Hugging Face folder, to be damaged."""
    save_huggingface(random_gpt2, tmp_path / "model")
    return tmp_path / "model"


def run_child(code: str, **environment: str) -> str:
    """Standard output of a Python process of its own, with one thread."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        cwd=Path(__file__).resolve().parent.parent,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# safetensors files


def safetensors_bytes(header: object, data: bytes = b"\0" * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD = {"a": entry(), "b": entry(offsets=(8, 16))}

DAMAGED = {
    "empty": (b"", "it is empty"),
    "git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00",
        "git lfs pull",
    ),
    "HTML page": (b"\n<!DOCTYPE html><html><body>Not found</body></html>", "HTML page"),
    "seven bytes": (b"\x10\0\0\0\0\0\0", "cut off at 7 of at least"),
    "header missing": (struct.pack("<Q", 100), "cut off at 8 of at least 108 bytes"),
    "header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", "the limit is 10,485,760"),
    "header of 11 MB": (struct.pack("<Q", 11 * MIB) + b" " * 11 * MIB, "the limit is 10,485,760"),
    "header is no JSON": (safetensors_bytes(b"{'a': 1}"), "header is not valid"),
    "header is no object": (safetensors_bytes([1, 2]), "header is not valid"),
    "header is not UTF-8": (safetensors_bytes(b'{"\xff\xfe": 1}'), "header is not valid"),
    "200 lists deep": (safetensors_bytes(b'{"a":' + b"[" * 200 + b"]" * 200 + b"}"), "not valid"),
    "100,000 lists deep": (safetensors_bytes(b"[" * 100_000), "header is not valid"),
    "data cut off": (safetensors_bytes(GOOD, b"\0" * 15), "cut off at 1.. of 1.. bytes"),
    "bytes left over": (safetensors_bytes(GOOD, b"\0" * 20), "is damaged"),
    "overlap": (safetensors_bytes({"a": entry(), "b": entry(offsets=(4, 12))}), "is damaged"),
    "same range twice": (safetensors_bytes({"a": entry(), "b": entry()}), "is damaged"),
    "hole": (safetensors_bytes({"a": entry(), "b": entry(offsets=(12, 16))}), "is damaged"),
    "negative offset": (safetensors_bytes({"a": entry(offsets=(-8, 0))}), "is damaged"),
    "ends before it begins": (safetensors_bytes({"a": entry(offsets=(8, 0))}), "is damaged"),
    "shape does not fit": (safetensors_bytes({"a": entry(shape=(3,))}, b"\0" * 8), "is damaged"),
    "shape overflows": (safetensors_bytes({"a": entry(shape=(2**31, 2**31, 2**31))}), "is damaged"),
    "empty but huge shape": (
        safetensors_bytes({"a": entry(shape=(0, 2**60), offsets=(0, 0))}, b""),
        "impossible shape",
    ),
    "shape of text": (safetensors_bytes({"a": entry(shape=("x",))}), "header is not valid"),
    "unknown type": (safetensors_bytes({"a": entry(dtype="F99")}, b"\0" * 8), "is damaged"),
    "numbers in the metadata": (
        safetensors_bytes({"__metadata__": {"a": 1}, "a": entry()}, b"\0" * 8),
        "is damaged",
    ),
    "name with slashes": (safetensors_bytes({"../../x": entry()}, b"\0" * 8), "unusable name"),
    "name with NUL": (safetensors_bytes({"a\0b": entry()}, b"\0" * 8), "unusable name"),
    "name of 300 letters": (safetensors_bytes({"a" * 300: entry()}, b"\0" * 8), "unusable name"),
    "20,001 tensors": (
        safetensors_bytes({f"t{i}": entry(shape=(0,), offsets=(0, 0)) for i in range(20_001)}, b""),
        "20,001 tensors",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_with_its_cause(case: str, tmp_path: Path) -> None:
    content, cause = DAMAGED[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=cause) as refusal:
        read_safetensors(path)
    assert str(path) in str(refusal.value)


def test_the_undamaged_form_of_those_files_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(GOOD, struct.pack("<4f", 1, 2, 3, 4)))
    tensors = read_safetensors(path)
    assert {name: x.tolist() for name, x in tensors.items()} == {"a": [1, 2], "b": [3, 4]}


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"first": torch.randn(7, 3), "second": torch.randn(50)}, path)
    whole = path.read_bytes()
    for n_bytes in range(len(whole)):
        path.write_bytes(whole[:n_bytes])
        with pytest.raises(CheckpointError, match=r"cut off at|is empty"):
            read_safetensors(path)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        read_weights(tmp_path)


# Shards


def shard(folder: Path, *, index: dict | None = None) -> dict[str, str]:
    """Split a folder's weights into two shards; returns the index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {f"model-0000{i + 1}-of-00002.safetensors": names[i::2] for i in range(2)}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_shards_give_the_same_logits_as_one_file(folder: Path) -> None:
    tokens = torch.arange(8)[None]
    expected = load(folder)(tokens)
    shard(folder)
    assert torch.equal(load(folder)(tokens), expected)


@pytest.mark.parametrize(
    ("name", "error", "cause"),
    [
        ("../outside.safetensors", UnsafeCheckpointError, "outside its folder"),
        ("..\\outside.safetensors", UnsafeCheckpointError, "outside its folder"),
        ("/tmp/outside.safetensors", UnsafeCheckpointError, "outside its folder"),
        ("C:\\outside.safetensors", UnsafeCheckpointError, "outside its folder"),
        ("C:outside.safetensors", UnsafeCheckpointError, "outside its folder"),
        ("\\\\server\\share\\outside.safetensors", UnsafeCheckpointError, "outside its folder"),
        ("a\0.safetensors", UnsafeCheckpointError, "outside its folder"),
        ("inside.bin", UnsafeCheckpointError, "not safetensors: 'inside.bin'"),
        ("model-00003-of-00002.safetensors", CheckpointError, "1 of 3 shards are missing: model-"),
    ],
)
def test_an_index_that_leaves_the_folder_is_refused(
    name: str, error: type[CheckpointError], cause: str, folder: Path
) -> None:
    weight_map = shard(folder)
    weights = load_file(folder / "model-00001-of-00002.safetensors")
    save_file(weights, folder.parent / "outside.safetensors")
    first = min(weight_map)
    index = {"weight_map": weight_map | {first: name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(error, match=cause):
        load(folder)


@pytest.mark.parametrize("content", ["{}", '{"weight_map": []}', '{"weight_map": {}}'])
def test_an_index_without_a_map_is_refused(content: str, folder: Path) -> None:
    shard(folder)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="no weight_map"):
        load(folder)


def test_a_shard_that_lacks_its_tensor_is_named(folder: Path) -> None:
    weight_map = shard(folder)
    first, second = sorted(set(weight_map.values()))
    swapped = {name: second if file == first else first for name, file in weight_map.items()}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": swapped}))
    with pytest.raises(CheckpointError, match=r"does not hold 'transformer\.\S+', which"):
        load(folder)


# Names, shapes and values


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = {name: x.clone() for name, x in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_every_missing_weight_is_named(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for name in load_file(folder / "model.safetensors"):
        (folder / "model.safetensors").write_bytes(whole)
        rewrite(folder, lambda tensors, name=name: tensors.pop(name))
        with pytest.raises(CheckpointError, match=f"1 missing tensors: {name}"):
            load(folder)


def test_an_unexpected_weight_is_named(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors.update({"transformer.h.0.attn.extra": torch.ones(2)}))
    with pytest.raises(
        CheckpointError, match=r"1 unexpected tensors: transformer\.h\.0\.attn\.extra"
    ):
        load(folder)


def test_every_transposed_weight_is_named(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    matrices = {
        name: x for name, x in load_file(folder / "model.safetensors").items() if x.ndim == 2
    }
    for name, x in matrices.items():
        if x.shape[0] == x.shape[1]:
            continue  # a square matrix shows nothing
        (folder / "model.safetensors").write_bytes(whole)
        rewrite(folder, lambda t, name=name: t.update({name: t[name].T.contiguous()}))
        with pytest.raises(CheckpointError, match=f"{name} has shape .* It looks transposed"):
            load(folder)


def test_every_weight_of_another_size_is_named(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    for name in load_file(folder / "model.safetensors"):
        (folder / "model.safetensors").write_bytes(whole)
        rewrite(folder, lambda t, name=name: t.update({name: t[name][:-1].contiguous()}))
        with pytest.raises(CheckpointError, match=f"{name} has shape .* expected"):
            load(folder)


def test_weights_that_are_not_finite_are_counted(folder: Path) -> None:
    def damage(tensors: dict[str, Tensor]) -> None:
        tensors["transformer.wte.weight"][3, 4] = float("nan")
        tensors["transformer.h.1.ln_1.bias"][:2] = float("inf")

    rewrite(folder, damage)
    cause = r"2 tensors hold NaN .*h\.1\.ln_1\.bias \(2\), transformer\.wte\.weight \(1\)"
    with pytest.raises(CheckpointError, match=cause):
        load(folder)
    assert load(folder, allow_nonfinite=True).W_E.isnan().sum() == 1


def test_weights_that_overflow_in_half_precision_are_refused(folder: Path) -> None:
    rewrite(folder, lambda tensors: tensors["transformer.wpe.weight"].__setitem__((0, 0), 1e6))
    assert load(folder).W_pos[0, 0] == 1e6
    with pytest.raises(CheckpointError, match=r"wpe\.weight \(1\).*allow_nonfinite"):
        load(folder, dtype=torch.float16)


def test_whole_numbers_are_no_weights(folder: Path) -> None:
    rewrite(
        folder, lambda t: t.update({"transformer.wpe.weight": t["transformer.wpe.weight"].int()})
    )
    with pytest.raises(CheckpointError, match=r"wpe\.weight holds torch\.int32"):
        load(folder)


def test_masks_of_old_checkpoints_are_left_out(folder: Path) -> None:
    expected = load(folder)(torch.arange(5)[None])
    mask = torch.ones(1, 1, 32, 32, dtype=torch.uint8).tril()
    rewrite(folder, lambda tensors: tensors.update({"transformer.h.0.attn.bias": mask}))
    assert torch.equal(load(folder)(torch.arange(5)[None]), expected)


def test_a_folder_without_weights_says_so(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no weights: neither model\.safetensors nor"):
        load(folder)


# Memory


@pytest.mark.parametrize("n_shards", [1, 2])
def test_loading_takes_little_more_memory_than_the_weights(n_shards: int, tmp_path: Path) -> None:
    sizes = {
        "n_layers": 4,
        "n_heads": 8,
        "d_model": 512,
        "d_mlp": 2048,
        "d_vocab": 5000,
        "n_ctx": 64,
    }
    made = run_child(f"""
        from interp.model.config import ModelConfig
        from interp.model.gpt2 import HookedGPT2
        from interp.model.saving import save_huggingface
        model = HookedGPT2(ModelConfig(**{sizes!r}))
        save_huggingface(model, {str(tmp_path / "big")!r})
        print(model.cfg.n_params * 4)
    """)
    if n_shards == 2:
        shard(tmp_path / "big")
    peak = run_child(f"""
        import resource
        from interp.model.loading import load
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        model = load({str(tmp_path / "big")!r})
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
    """)
    n_bytes = int(made)
    assert 50 * MIB < n_bytes < 80 * MIB
    assert int(peak) < SAVED_BYTES_OVERHEAD * n_bytes


# Writing


@pytest.mark.parametrize(("mask", "mode"), [(0o002, 0o664), (0o022, 0o644), (0o077, 0o600)])
def test_written_files_are_readable_by_whom_the_umask_allows(
    mask: int, mode: int, tmp_path: Path
) -> None:
    old = os.umask(mask)
    try:
        write_safetensors({"a": torch.ones(2)}, tmp_path / "a.safetensors")
    finally:
        os.umask(old)
    assert (tmp_path / "a.safetensors").stat().st_mode & 0o777 == mode


def test_any_layout_is_written_and_metadata_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors({"a": torch.arange(6).reshape(2, 3).T}, path, {"made_by": "test"})
    assert read_safetensors(path)["a"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert b'"made_by":"test"' in path.read_bytes()


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors({"a": torch.ones(2)}, path)
    before = path.read_bytes()
    message = run_child(f"""
        import resource, signal
        from pathlib import Path
        import torch
        from interp.errors import CheckpointError
        from interp.model.checkpoints import write_safetensors
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            write_safetensors({{"a": torch.ones(1_000_000)}}, Path({str(path)!r}))
        except CheckpointError as refusal:
            print(refusal)
    """)
    assert "failed and changed nothing" in message
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writing_where_there_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="failed and changed nothing"):
        write_safetensors({"a": torch.ones(2)}, tmp_path / "nowhere" / "a.safetensors")


def test_limits_are_those_of_the_design() -> None:
    assert (checkpoints.MAX_HEADER_BYTES, checkpoints.MAX_TENSORS) == (10 * MIB, 20_000)
