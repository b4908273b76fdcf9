"""Broken settings and hostile pickles: each is refused with its cause, and none runs code."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from interp.errors import CheckpointError, ConfigError, UnsafeCheckpointError
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import load
from interp.model.safety import read_json, read_pickle
from interp.model.saving import save_huggingface
from tests.test_checkpoints import MIB, run_child


@pytest.fixture
def folder(random_gpt2: HookedGPT2, tmp_path: Path) -> Path:
    """A good Hugging Face folder, to be damaged."""
    save_huggingface(random_gpt2, tmp_path / "model")
    return tmp_path / "model"


# config.json


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it is empty"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "JSON list; expected an object"),
        (b"<html></html>", "HTML page"),
        (b" " * (MIB + 1), "at most 1,048,576 are read"),
        (b'{"n_embd": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_a_broken_configuration_is_refused(content: bytes, cause: str, folder: Path) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=cause):
        load(folder)


def test_a_missing_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json does not exist\. A Hugging Face folder"):
        load(folder)


def reconfigure(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"n_layer": 3000}, "n_layers must be a whole number from 1 to 512, got 3000"),
        ({"n_layer": -1}, "n_layers must be"),
        ({"n_embd": 2**20}, "d_model must be"),
        ({"vocab_size": 2**31}, "d_vocab must be"),
        ({"n_positions": 10**30}, "n_ctx must be"),
        ({"n_head": 5}, "must be a multiple of n_heads"),
        ({"n_head": 0}, "n_heads must be"),
        ({"n_embd": "24"}, "d_model must be a whole number from 1 to 65536, got '24'"),
        ({"n_layer": None}, "n_layers must be"),
        ({"n_layer": True}, "n_layers must be"),
        ({"layer_norm_epsilon": float("nan")}, "eps must be"),
        ({"activation_function": "gelu_typo"}, "Unknown activation 'gelu_typo'"),
        ({"model_type": "llama"}, r'backend="transformer-lens"'),
        ({"architectures": ["GPT2DoubleHeadsModel"]}, "GPT2DoubleHeadsModel.* is not supported"),
        ({"rope_theta": 10000}, "not understood: rope_theta=10000"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "not understood: auto_map="),
    ],
)
def test_an_impossible_configuration_is_refused(values: dict, cause: str, folder: Path) -> None:
    reconfigure(folder, **values)
    with pytest.raises(ConfigError, match=cause):
        load(folder)


SIZES = ("n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "n_positions")
SETTINGS = ("activation_function", "layer_norm_epsilon", "architectures", "model_type")
SWITCHES = ("scale_attn_weights", "tie_word_embeddings", "initializer_range", "num_labels")
ODD_VALUES = [None, -1, 0, 2**70, 1.5, "7", "", [], [[]], {}, True, float("inf")]
HARMLESS = [
    ("n_inner", None),  # four times n_embd
    ("architectures", None),
    ("architectures", []),
    ("scale_attn_weights", True),
    ("tie_word_embeddings", True),
    # Neither changes a number of this model.
    *(("initializer_range", value) for value in (-1, 0, 2**70, 1.5, float("inf"))),
    *(("num_labels", value) for value in (None, -1, 0, 2**70)),
]


@pytest.mark.parametrize("value", ODD_VALUES, ids=repr)
@pytest.mark.parametrize("key", [*SIZES, *SETTINGS, *SWITCHES])
def test_a_setting_of_the_wrong_kind_is_refused(key: str, value: object, folder: Path) -> None:
    reconfigure(folder, **{key: value})
    if any(key == harmless and value == its for harmless, its in HARMLESS):
        load(folder)
    else:
        with pytest.raises(ConfigError):
            load(folder)


def test_code_beside_a_checkpoint_is_not_run(folder: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(folder / 'marker')!r}, 'w')")
    reconfigure(folder, auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(ConfigError, match="auto_map"):
        load(folder)
    assert not (folder / "marker").exists()


# Pickles


class Payload:
    """Makes a file when it is unpickled without protection."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.marker}",)


def write_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def write_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def write_raw(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


@pytest.mark.parametrize("forced", [False, True], ids=["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
@pytest.mark.parametrize("write", [write_zip, write_legacy, write_raw])
@pytest.mark.parametrize("kind", ["nanoGPT", "folder"])
def test_a_malicious_pickle_is_never_run(
    kind: str,
    write: Callable[[object, Path], None],
    forced: bool,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    marker = folder.parent / "marker"
    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    if kind == "nanoGPT":
        path = folder.parent / "ckpt.pt"
        write({"model": {}, "model_args": Payload(marker)}, path)
    else:
        (folder / "model.safetensors").unlink()
        path = folder / "pytorch_model.bin"
        write({"transformer.wte.weight": Payload(marker)}, path)
    with pytest.raises(UnsafeCheckpointError, match="asks for more than tensors") as refusal:
        load(path if kind == "nanoGPT" else folder, allow_pickle=True)
    assert "weights_only" not in str(refusal.value)
    assert refusal.value.__suppress_context__
    assert not marker.exists()


def test_the_payload_of_these_tests_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_a_folder_with_only_a_pickle_needs_permission(
    write: Callable[[object, Path], None], folder: Path
) -> None:
    expected = load(folder)(torch.arange(5)[None])
    write(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsafeCheckpointError, match=r"allow_pickle=True.*save_huggingface"):
        load(folder)
    assert torch.equal(load(folder, allow_pickle=True)(torch.arange(5)[None]), expected)


def test_a_pickle_in_shards_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="sharded pickle"):
        load(folder, allow_pickle=True)


def test_a_compressed_pickle_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    plain, bomb = tmp_path / "plain.pt", tmp_path / "bomb.pt"
    torch.save({"x": torch.zeros(50 * MIB)}, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(bomb, "w") as target:
        for member in source.infolist():
            target.writestr(member.filename, source.read(member), zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < MIB
    grown = run_child(f"""
        import resource
        from pathlib import Path
        from interp.errors import UnsafeCheckpointError
        from interp.model.safety import read_pickle
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            read_pickle(Path({str(bomb)!r}))
        except UnsafeCheckpointError as refusal:
            assert "unpacks to more than its own size" in str(refusal)
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """)
    assert int(grown) < 20 * 1024  # KiB


def test_compressed_members_are_refused_even_if_they_do_not_grow(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    torch.save({"x": torch.randn(1000)}, plain)  # noise, which compresses to about its size
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w") as target:
        for member in source.infolist():
            noise = "data/" in member.filename
            kind = zipfile.ZIP_DEFLATED if noise else zipfile.ZIP_STORED
            target.writestr(member.filename, source.read(member), kind)
    with pytest.raises(UnsafeCheckpointError, match="it is compressed"):
        read_pickle(packed)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!doctype html>", "HTML page"),
        (b"PK\x03\x04 and nothing else", "is damaged"),
        (b"not a pickle at all", "is damaged, or no PyTorch file"),
    ],
)
def test_a_damaged_pickle_is_refused(content: bytes, cause: str, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=cause):
        read_pickle(path)


def test_a_pickle_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    for write in (write_zip, write_legacy):
        path = tmp_path / "ckpt.pt"
        write({"x": torch.randn(40)}, path)
        whole = path.read_bytes()
        for n_bytes in range(0, len(whole) - 1, 7):
            path.write_bytes(whole[:n_bytes])
            with pytest.raises(CheckpointError):
                read_pickle(path)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds a dict, not a state dict"),
        ({"a": 1}, "a is not a plain tensor"),
        ({3: torch.ones(2)}, "unusable name: 3"),
        ({"../x": torch.ones(2)}, r"unusable name: '\.\./x'"),
        ({"a": torch.ones(2).to_sparse()}, "a is not a plain tensor"),
        ({"a": torch.ones(2, device="meta")}, "a is not a plain tensor"),
    ],
)
def test_a_pickle_of_something_else_is_refused(content: object, cause: str, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=cause):
        load(folder, allow_pickle=True)


def test_json_that_may_be_missing_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"here\.json does not exist\. Why"):
        read_json(tmp_path / "here.json", ConfigError, needed=" Why")
