"""Collecting: what lands on disk is what the model computes, for every row that was planned."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import pytest
import torch

from interp.errors import ResourceError, StoreError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook
from interp.model.loading import load
from interp.model.weights import fold_layer_norm
from interp.store.attempts import open_work
from interp.store.collecting import collect
from interp.store.commits import read_commit
from interp.store.durable import LocalFiles
from interp.store.preparing import Ready
from interp.store.shards import Shard
from interp.store.spec import read_store
from interp.store.upkeep import garbage
from interp.store.writer import Tally
from tests.comparison import assert_close
from tests.store.whole_stores import contents, opened

TEXTS = [
    "I love the color black.",
    "",
    "I hope someday to have a cat like that. The cat is black, and the color is black 🎉",
    "When Mary",
    "a",
    "Mary and John went to the store, John gave a drink to Mary. " * 3,
    "<|endoftext|> and back",
]
HOOKS = [
    "hook_embed",
    "blocks.0.attn.hook_z",
    "blocks.1.hook_resid_mid",
    "blocks.1.ln2.hook_scale",
    "blocks.2.attn.hook_pattern",
    "blocks.2.mlp.hook_post",
]
ROUNDING_OF_THE_RUN = 1e-4
"""A batched and an unbatched float32 run differ by less."""


def stored(path: Path, hook: str) -> torch.Tensor:
    """All rows of a hook in the order of the plan."""
    store = opened(path)
    group, _ = store.hooks[hook]
    rows = []
    for unit in store.plan.units:
        commit = read_commit(store.files, unit.unit, group)
        assert commit is not None
        record = commit.hooks[hook].shard
        shard = Shard(store.files.local(record.path), record)
        bits = torch.from_numpy(shard.rows(np.arange(shard.n_rows)))
        rows.append(bits.view(getattr(torch, record.dtype)))
    return torch.cat(rows)


def token_rows(path: Path) -> list[dict]:
    """The token table of a store, unit after unit."""
    store = opened(path)
    return [row for unit in store.plan.units for row in store.tokens(unit.unit).to_pylist()]


def expected(model: HookedGPT2, path: Path, hook: str, ctx: int) -> torch.Tensor:
    """The stored rows, from one unbatched float32 run of each sequence."""
    sequences: dict[int, list[dict]] = {}
    for row in token_rows(path):
        sequences.setdefault(row["sequence"], []).append(row)
    found = []
    for rows in sequences.values():
        ids = torch.tensor([[row["token_id"] for row in rows]])
        mask = torch.ones_like(ids, dtype=torch.bool)
        _, cache = model.run_with_cache(ids, names_filter=[hook], attention_mask=mask)
        value = cache[hook][0]
        if hook.endswith("pattern"):
            value = value.transpose(0, 1)
            value = torch.nn.functional.pad(value, (0, ctx - value.shape[-1]))
        found.append(value[[row["row"] is not None for row in rows]])
    return torch.cat(found)


@pytest.mark.parametrize("packing", ["documents", "packed"])
@pytest.mark.parametrize("prepend_bos", [True, False])
def test_every_row_equals_an_unbatched_run(
    random_gpt2: HookedGPT2, tmp_path: Path, packing: str, prepend_bos: bool
):
    status = collect(
        random_gpt2,
        TEXTS,
        path=tmp_path,
        hooks=HOOKS,
        dtype="fp32",
        ctx=13,
        packing=packing,
        prepend_bos=prepend_bos,
        unit_tokens=40,
        batch_tokens=30,
    )
    assert status.is_complete
    assert status.n_planned > 2
    for hook in HOOKS:
        assert_close(stored(tmp_path, hook), expected(random_gpt2, tmp_path, hook, 13))


@pytest.mark.parametrize("packing", ["documents", "packed"])
def test_every_token_of_the_texts_is_stored_once(
    random_gpt2: HookedGPT2, tmp_path: Path, packing: str
):
    collect(
        random_gpt2,
        TEXTS,
        path=tmp_path,
        hooks="hook_embed",
        ctx=13,
        packing=packing,
        unit_tokens=60,
    )
    places = [
        (row["document"], row["document_pos"], row["token_id"])
        for row in token_rows(tmp_path)
        if row["document_pos"] is not None
    ]
    assert sorted(places) == [
        (document, pos, token_id)
        for document, text in enumerate(TEXTS)
        for pos, token_id in enumerate(random_gpt2.require_tokenizer().encode(text))
    ]
    rows = [row["row"] for row in token_rows(tmp_path)]
    assert rows == [row for unit in opened(tmp_path).plan.units for row in range(unit.n_rows)]


@pytest.mark.parametrize(("dtype", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_rows_are_rounded_once(
    random_gpt2: HookedGPT2, tmp_path: Path, dtype: str, kind: torch.dtype
):
    collect(
        random_gpt2, TEXTS, path=tmp_path, hooks="blocks.1.hook_resid_post", dtype=dtype, ctx=13
    )
    rows = stored(tmp_path, "blocks.1.hook_resid_post")
    assert rows.dtype == kind
    exact = expected(random_gpt2, tmp_path, "blocks.1.hook_resid_post", 13)
    torch.testing.assert_close(
        rows.float(), exact, rtol=torch.finfo(kind).eps, atol=ROUNDING_OF_THE_RUN
    )


def test_chosen_positions_are_stored_and_the_whole_sequence_is_run(
    random_gpt2: HookedGPT2, tmp_path: Path
):
    collect(
        random_gpt2,
        TEXTS,
        path=tmp_path,
        hooks="blocks.2.hook_resid_post",
        dtype="fp32",
        ctx=13,
        positions="1,-1",
    )
    lengths = {}
    for row in token_rows(tmp_path):
        lengths[row["sequence"]] = row["pos"] + 1
    for row in token_rows(tmp_path):
        is_chosen = row["pos"] in (1, lengths[row["sequence"]] - 1)
        assert (row["row"] is not None) == is_chosen
    assert_close(
        stored(tmp_path, "blocks.2.hook_resid_post"),
        expected(random_gpt2, tmp_path, "blocks.2.hook_resid_post", 13),
    )


class Stop(Exception):
    pass


def stop_after(n_batches: int) -> Callable[[Tally], None]:
    def watch(tally: Tally) -> None:
        nonlocal n_batches
        n_batches -= 1
        if n_batches == 0:
            raise Stop

    return watch


OPTIONS = {
    "hooks": ["blocks.0.hook_resid_post", "blocks.2.attn.hook_z"],
    "ctx": 13,
    "unit_tokens": 40,
}


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(
    random_gpt2: HookedGPT2, tmp_path: Path
):
    collect(random_gpt2, TEXTS, path=tmp_path / "whole", **OPTIONS, batch_tokens=20)
    for n_batches in (1, 2, 6):
        with pytest.raises(Stop):
            collect(
                random_gpt2,
                TEXTS,
                path=tmp_path / "parts",
                **OPTIONS,
                batch_tokens=20,
                watch=stop_after(n_batches),
            )
        assert not list((tmp_path / "parts" / "_tmp").iterdir())
    runs = []
    status = collect(
        random_gpt2, TEXTS, path=tmp_path / "parts", **OPTIONS, batch_tokens=20, watch=runs.append
    )
    assert status.is_complete
    assert runs[-1].n_tokens < status.n_tokens
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_finished_store_is_not_run_again(random_gpt2: HookedGPT2, tmp_path: Path):
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS)
    runs = []
    assert collect(random_gpt2, None, path=tmp_path, **OPTIONS, watch=runs.append).is_complete
    assert runs == []


def test_hooks_are_added_over_the_same_tokens_without_the_texts(
    random_gpt2: HookedGPT2, tmp_path: Path
):
    collect(random_gpt2, TEXTS, path=tmp_path, hooks="hook_embed", dtype="fp32", ctx=13)
    before = contents(tmp_path)
    hooks = ["blocks.1.attn.hook_q", "hook_embed"]
    status = collect(random_gpt2, path=tmp_path, hooks=hooks, dtype="fp32")
    assert status.is_complete
    assert set(opened(tmp_path).hooks) == set(hooks)
    assert before.items() <= contents(tmp_path).items()
    assert_close(
        stored(tmp_path, "blocks.1.attn.hook_q"),
        expected(random_gpt2, tmp_path, "blocks.1.attn.hook_q", 13),
    )


# What differs is refused, and named


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"ctx": 12}, "ctx: 13 is stored, 12 was asked for"),
        ({"packing": "packed"}, "packing"),
        ({"positions": "last"}, "positions"),
        ({"prepend_bos": False}, "prepend_bos"),
        ({"seed": 3}, "seed"),
        ({"dtype": "fp32"}, "stored as float16, and float32 was asked for"),
    ],
)
def test_other_settings_are_refused(
    random_gpt2: HookedGPT2, tmp_path: Path, change: dict, named: str
):
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=named):
        collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS | change)
    assert sorted(tmp_path.rglob("*")) == before


def test_another_model_is_refused(random_gpt2: HookedGPT2, tmp_path: Path):
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS)
    with pytest.raises(StoreError, match="model_hash"):
        collect(fold_layer_norm(random_gpt2), TEXTS, path=tmp_path, **OPTIONS)


def test_another_tokenizer_is_refused(random_gpt2: HookedGPT2, tmp_path: Path):
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS)
    weights = dict(random_gpt2.state_dict())
    other = HookedGPT2.from_weights(random_gpt2.cfg, weights, load().tokenizer)
    with pytest.raises(StoreError, match="tokenizer_hash"):
        collect(other, path=tmp_path, **OPTIONS)


def test_a_tokenizer_larger_than_the_model_is_refused(random_gpt2: HookedGPT2, tmp_path: Path):
    weights = dict(random_gpt2.state_dict())
    other = HookedGPT2.from_weights(random_gpt2.cfg, weights, load().tokenizer)
    with pytest.raises(StoreError, match="vocabulary 340: it belongs to another model"):
        collect(other, TEXTS, path=tmp_path)


def test_another_version_of_what_computes_is_refused(
    random_gpt2: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS)
    monkeypatch.setattr("interp.store.preparing.version", lambda name: f"{name} 0.0")
    with pytest.raises(StoreError, match=r"versions: .*'torch': 'torch 0\.0'"):
        collect(random_gpt2, path=tmp_path, **OPTIONS)


@pytest.mark.parametrize("texts", [TEXTS[:-1], [*TEXTS[:-1], "other"], TEXTS[::-1]])
def test_other_texts_are_refused(random_gpt2: HookedGPT2, tmp_path: Path, texts: list[str]):
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS)
    with pytest.raises(StoreError, match="texts differ"):
        collect(random_gpt2, texts, path=tmp_path, **OPTIONS)


def test_more_texts_are_refused(random_gpt2: HookedGPT2, tmp_path: Path):
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS)
    with pytest.raises(StoreError, match="texts differ"):
        collect(random_gpt2, [*TEXTS, "one more"], path=tmp_path, **OPTIONS)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"hooks": "blocks.0.attn.hook_attn_scores"}, "minus infinity"),
        ({"ctx": 33}, "ctx is 33; the model takes 1 to 32"),
        ({"positions": "first"}, "positions is 'first'"),
        ({"subsample": "2"}, "subsample is '2'"),
        ({"positions": "13", "ctx": 13}, "positions holds 13; sequences have at most 13"),
        ({"subsample": "1e-9"}, "leave no row"),
        ({"workers": 0}, "workers is 0"),
        ({"max_tokens": 1}, "max_tokens is 1, less than the first sequence"),
    ],
)
def test_what_cannot_be_collected_is_an_error(
    random_gpt2: HookedGPT2, tmp_path: Path, options: dict, named: str
):
    with pytest.raises(StoreError, match=named):
        collect(random_gpt2, TEXTS, path=tmp_path, **{"hooks": "hook_embed"} | options)


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(
    random_gpt2: HookedGPT2, tmp_path: Path
):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(StoreError, match=r"holds other files, such as 'thesis\.txt'"):
        collect(random_gpt2, TEXTS, path=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_store_that_another_process_has_just_planned_is_no_other_file(
    random_gpt2: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS)
    seen: list[object] = []

    def late(files: LocalFiles) -> object:  # the first look comes too early
        seen.append(files)
        return None if len(seen) == 1 else read_store(files)

    monkeypatch.setattr("interp.store.preparing.read_store", late)
    assert collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS).is_complete
    assert len(seen) > 1


def test_only_files_of_attempts_are_garbage(random_gpt2: HookedGPT2, tmp_path: Path):
    collect(random_gpt2, TEXTS, path=tmp_path, hooks="hook_embed", ctx=13)
    (tmp_path / "data/hook_embed/notes.txt").write_text("mine")
    (tmp_path / "thesis.txt").write_text("mine")
    left_behind = tmp_path / "data/hook_embed/u000000-0123abcd.safetensors"
    left_behind.write_text("cut off")
    (found,) = garbage(opened(tmp_path), grace_seconds=0)
    assert tmp_path / found.path == left_behind


def test_a_setting_that_does_not_exist_is_an_error(random_gpt2: HookedGPT2, tmp_path: Path):
    with pytest.raises(TypeError, match="no setting 'context'; there are: ctx"):
        collect(random_gpt2, TEXTS, path=tmp_path, context=3)


def test_without_texts_there_must_be_a_store(random_gpt2: HookedGPT2, tmp_path: Path):
    with pytest.raises(StoreError, match="texts are needed"):
        collect(random_gpt2, path=tmp_path)


# Many units


def test_memory_and_open_files_stay_flat(random_gpt2: HookedGPT2, tmp_path: Path):
    process = psutil.Process()
    seen: list[tuple[int, int, int]] = []

    def watch(tally: Tally) -> None:
        seen.append((tally.n_committed, process.memory_info().rss, process.num_fds()))

    texts = [f"I love the color {number}" for number in range(180)]
    collect(random_gpt2, texts, path=tmp_path, hooks=HOOKS[:3], unit_tokens=16, watch=watch)
    assert seen[-1][0] > 100
    early, late = seen[40:60], seen[-20:]
    assert median(rss for _, rss, _ in late) - median(rss for _, rss, _ in early) < 8 * 2**20
    assert max(fds for *_, fds in late) <= max(fds for *_, fds in early) + 2


# Costs


def test_the_costs_are_exact(random_gpt2: HookedGPT2, tmp_path: Path):
    told: list[Ready] = []
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS, approve=told.append)
    sizes = sum(file.stat().st_size for file in (tmp_path / "data").rglob("*.safetensors"))
    assert told[0].costs.n_bytes == told[0].costs.n_bytes_left == sizes
    assert told[0].costs.n_rows == sum(row["row"] is not None for row in token_rows(tmp_path))
    collect(random_gpt2, path=tmp_path, **OPTIONS, approve=told.append)
    assert told[1].costs.n_bytes == sizes
    assert told[1].costs.n_bytes_left == 0


def test_a_disk_that_is_too_small_is_refused_before_anything_is_run(
    random_gpt2: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(LocalFiles, "free_bytes", lambda self: 10_000)
    with pytest.raises(ResourceError, match=r"needs [\d,]+ bytes more, and the disk has 10,000"):
        collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS)
    assert not (tmp_path / "commits").exists()


# Values that cannot be stored


STREAM = "blocks.1.hook_resid_post"


def spoiling(model: HookedGPT2, value: float, pos: int):
    """A block in which every run of the model has a value in the stream at a position."""

    def spoil(resid: torch.Tensor, hook: Hook) -> None:
        if resid.shape[1] > pos:
            resid[-1, pos, 3] = value  # the longest sequence is the last

    return model.hooks([(STREAM, spoil)])


LONG_AND_SHORT = ["a", "b", "I love the color black, I hope someday", "c"]


@pytest.mark.parametrize(
    ("value", "dtype", "why"),
    [
        (70_000.0, "fp16", r"70000 does not fit float16 \(at most 65504\)"),
        (float("nan"), "fp32", "nan is not a finite number"),
        (float("-inf"), "bf16", "-inf is not a finite number"),
    ],
)
def test_a_value_that_cannot_be_stored_is_located_and_the_other_units_complete(
    random_gpt2: HookedGPT2, tmp_path: Path, value: float, dtype: str, why: str
):
    collect(random_gpt2, LONG_AND_SHORT, path=tmp_path, hooks="hook_embed", unit_tokens=5)
    with spoiling(random_gpt2, value, 4):
        status = collect(random_gpt2, path=tmp_path, hooks=STREAM, dtype=dtype)
    assert not status.is_complete
    ((unit, _),) = status.failed
    (reason,) = status.failed[unit, opened(tmp_path).hooks[STREAM][0]]
    assert f"{STREAM} at document 2, position 4 (token id " in reason
    assert re.search(why, reason)
    assert status.n_committed == status.n_planned - 1


def test_a_large_value_that_fits_comes_back_within_its_last_bit(
    random_gpt2: HookedGPT2, tmp_path: Path
):
    with spoiling(random_gpt2, 3000.3, 4):
        collect(random_gpt2, LONG_AND_SHORT, path=tmp_path, hooks=STREAM, dtype="fp16")
    assert (stored(tmp_path, STREAM) == 3000.0).sum() == 1


@pytest.mark.parametrize(("value", "kind"), [(8000.0, "float16"), (9000.0, "bfloat16")])
def test_the_automatic_type_keeps_headroom(
    random_gpt2: HookedGPT2, tmp_path: Path, value: float, kind: str
):
    with spoiling(random_gpt2, value, 0):
        collect(random_gpt2, LONG_AND_SHORT, path=tmp_path, hooks=[STREAM, "hook_embed"])
    kinds = {name: layout.dtype for name, (_, layout) in opened(tmp_path).hooks.items()}
    assert kinds == {STREAM: kind, "hook_embed": "float16"}


def test_a_unit_whose_run_fails_is_given_up_after_three_attempts_and_can_be_tried_again(
    random_gpt2: HookedGPT2, tmp_path: Path
):
    collect(random_gpt2, LONG_AND_SHORT, path=tmp_path, hooks="hook_embed", unit_tokens=5)

    def fail(resid: torch.Tensor, hook: Hook) -> None:
        if resid.shape[1] > 5:
            raise RuntimeError("out of memory")

    # The warm-up runs the first unit only, whose sequences are short.
    with random_gpt2.hooks([(STREAM, fail)]):
        status = collect(random_gpt2, path=tmp_path, hooks=STREAM)
    ((unit, group),) = status.failed
    assert len(status.failed[unit, group]) == 3
    assert "out of memory" in status.failed[unit, group][0]
    again = collect(random_gpt2, path=tmp_path, hooks=STREAM)
    assert again.failed.keys() == {(unit, group)}
    assert collect(random_gpt2, path=tmp_path, hooks=STREAM, retry_failed=True).is_complete


def test_an_attempt_leaves_nothing_behind_when_it_fails(random_gpt2: HookedGPT2, tmp_path: Path):
    with spoiling(random_gpt2, float("nan"), 0):
        status = collect(random_gpt2, LONG_AND_SHORT, path=tmp_path, hooks=STREAM, dtype="fp32")
    assert len(status.failed) == status.n_planned
    assert not list((tmp_path / "_tmp").iterdir())
    assert not list((tmp_path / "data").rglob("*.safetensors"))


def test_a_disk_that_fails_behind_the_model_leaves_no_unit_taken(
    random_gpt2: HookedGPT2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    collect(random_gpt2, TEXTS, path=tmp_path, **OPTIONS | {"hooks": "hook_embed"})

    def fail_late(*_: object) -> bool:
        time.sleep(0.3)  # the model begins another unit meanwhile
        raise ResourceError("the disk failed")

    monkeypatch.setattr("interp.store.writer.write_commit", fail_late)
    with pytest.raises(ResourceError, match="the disk failed"):
        collect(random_gpt2, path=tmp_path, hooks=STREAM)
    monkeypatch.undo()
    store = opened(tmp_path)
    left = open_work(store.files, store.work)
    assert left.taken == []
    assert sorted(attempt.number for attempt in left.free)[-2:] == [2, 2]  # both were begun
    assert len(contents(tmp_path)) == len(store.plan.units)
    assert collect(random_gpt2, path=tmp_path, hooks=STREAM).is_complete
