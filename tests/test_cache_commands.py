"""`interp cache` as a person types it, each command in its own process."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import interp as library
from interp.store.durable import LocalFiles
from interp.store.naming import commit_path
from interp.store.planned import PlannedStore

TEXTS = [f"The {word} cat is black, I hope." for word in ("big", "small", "old", "young")] * 25


def interp(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "interp", "cache", *arguments]
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, check=False, env=environment
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts, and a store of them in `store`."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "first.txt").write_text("\n".join(TEXTS[:60]))
    (folder / "rest.jsonl").write_text(
        "".join(json.dumps({"text": text}) + "\n" for text in TEXTS[60:])
    )
    result = interp(
        "collect", "--out", "store", "--texts", "first.txt", "rest.jsonl", "--unit-tokens", "300",
        "--hooks", "blocks.0.hook_resid_post,blocks.1.attn.hook_z", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "100 documents" in result.stdout
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The same, free to be damaged."""
    return shutil.copytree(folder, tmp_path / "copy")


def test_the_same_command_again_finds_nothing_to_do(folder: Path):
    result = interp("collect", "--out", "store", "--texts", "first.txt", "rest.jsonl", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "0 of them to be written" not in result.stdout  # another hook: the default one
    again = interp("collect", "--out", "store", cwd=folder)
    assert ", 0 of them to be written" in again.stdout


def test_other_texts_and_settings_exit_with_2(folder: Path):
    other = interp("collect", "--out", "store", "--texts", "first.txt", cwd=folder)
    assert other.returncode == 2
    assert "texts differ" in other.stderr
    settings = interp("collect", "--out", "store", "--ctx", "17", cwd=folder)
    assert settings.returncode == 2
    assert "ctx: 256 is stored, 17 was asked for" in settings.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("status", "nowhere"), "There is no activation store at"),
        (("verify", "nowhere"), "There is no activation store at"),
        (("info", "nowhere"), "There is no activation store at"),
        (("gc", "nowhere"), "There is no activation store at"),
        (("collect", "--out", "new", "--texts", "missing.txt"), "missing.txt"),
        (("collect", "--out", "new", "--hooks", "blocks.0.hook_resid_pots"), "Did you mean"),
        (("collect", "--out", "new", "--hooks", "blocks.9.hook_resid_post"), "Layers are 0-3"),
        (("collect", "--out", "new", "--dtype", "int8"), "int8"),
        (("collect", "--out", "new", "--subsample", "none"), "subsample is 'none'"),
    ],
)
def test_what_cannot_be_done_exits_with_2(folder: Path, arguments: tuple[str, ...], message: str):
    result = interp(*arguments, cwd=folder)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_dry_run_plans_and_collects_nothing(copy: Path):
    result = interp("collect", "--out", "dry", "--texts", "first.txt", "--dry-run", cwd=copy)
    assert result.returncode == 0
    assert "60 documents" in result.stdout
    found = interp("status", "dry", "--json", cwd=copy)
    assert found.returncode == 5
    content = json.loads(found.stdout)
    assert content["n_committed"] == 0
    assert content["n_missing"] == content["n_planned"] > 0


def test_a_sound_store_and_what_it_holds(folder: Path):
    assert interp("status", "store", cwd=folder).returncode == 0
    sound = interp("verify", "store", "--full", cwd=folder)
    assert sound.returncode == 0
    assert "Sound: every byte" in sound.stdout
    info = interp("info", "store", cwd=folder).stdout
    assert "blocks.1.attn.hook_z" in info
    assert "4 x 32" in info


def test_a_flipped_bit_is_found_and_named(copy: Path):
    shard = sorted((copy / "store/data/blocks.1.attn.hook_z").iterdir())[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert interp("verify", "store", cwd=copy).returncode == 0  # sizes alone do not show it
    result = interp("verify", "store", "--full", cwd=copy)
    assert result.returncode == 4
    assert shard.name in result.stdout


def test_a_missing_unit_is_collected_again(copy: Path):
    planned = PlannedStore.read(LocalFiles(copy / "store"))
    group, _ = planned.hooks["blocks.1.attn.hook_z"]
    (copy / "store" / commit_path(0, group)).unlink()
    status = interp("status", "store", cwd=copy)
    assert status.returncode == 5
    assert "1 missing" in status.stdout
    left = interp("gc", "store", "--hours", "0", cwd=copy)
    assert "2 files" in left.stdout
    assert "--delete removes them" in left.stdout
    assert "2 files" in interp("gc", "store", "--hours", "0", "--delete", cwd=copy).stdout
    assert "0 files" in interp("gc", "store", "--hours", "0", cwd=copy).stdout
    hooks = "blocks.0.hook_resid_post,blocks.1.attn.hook_z"
    assert interp("work", "store", cwd=copy).returncode == 0
    assert interp("collect", "--out", "store", "--hooks", hooks, cwd=copy).returncode == 0


def test_another_model_cannot_work_on_a_store(copy: Path, tmp_path: Path):
    model = library.load()
    other = library.HookedGPT2(model.cfg, model.tokenizer, seed=1)
    library.save_huggingface(other, tmp_path / "other")
    result = interp("work", "store", "--model", str(tmp_path / "other"), cwd=copy)
    assert result.returncode == 2
    assert "model_hash" in result.stderr


def test_ctrl_c_keeps_what_is_committed_and_says_how_to_go_on(tmp_path: Path):
    command = [
        sys.executable, "-m", "interp", "cache", "collect", "--out", "store",
        "--max-tokens", "200000", "--unit-tokens", "2000",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    commits = tmp_path / "store/commits"
    while not commits.exists() or len(list(commits.iterdir())) <= 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130
    assert "the same command goes on from there" in output
    assert "interp cache status store" in output
    assert "Traceback" not in errors
    assert not list((tmp_path / "store/_tmp").iterdir())
    store = PlannedStore.read(LocalFiles(tmp_path / "store"))
    assert 2 < len(list(commits.iterdir())) < len(store.work)
