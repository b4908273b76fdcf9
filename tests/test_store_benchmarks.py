"""Mechanics of the store's benchmarks, tiny. Nothing here depends on how long anything takes."""

import sys
from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config

from benchmarks import measure, reading, saelens, store
from benchmarks.rows import Row, equal_rows

TINY = GPT2Config(
    vocab_size=300, n_positions=32, n_embd=16, n_layer=3, n_head=2, initializer_range=0.2,
    bos_token_id=0, eos_token_id=0,
)  # fmt: skip
N_TOKENS = 8192
PROBE = 32 * 2**20


@pytest.fixture(autouse=True)
def one_second_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate runs once and takes one second; no SAELens."""

    def interleaved(
        runs: Mapping[str, Callable[[], object]],
        repeats: int,
        *,
        before: Callable[[], object] = lambda: None,
    ) -> dict[str, float]:
        for run in runs.values():
            before()
            run()
        return dict.fromkeys(runs, 1.0)

    monkeypatch.setattr(store, "interleaved", interleaved)
    monkeypatch.setattr(reading, "interleaved", interleaved)
    monkeypatch.delenv(saelens.VARIABLE, raising=False)


def by_name(rows: list[Row]) -> dict[str, Row]:
    """Every number of which is one."""
    assert all(isfinite(x) for row in rows for x in (*row.numbers.values(), row.ratio))
    return {row.what: row for row in rows}


def test_reading_rows_compare_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "N_GATHERED", 100)
    monkeypatch.setattr(reading, "BLOCK", 300)
    rows = by_name(list(reading.reading(1, TINY, n_rows=4096)))
    equal = [row for what, row in rows.items() if what.endswith("equal")]
    assert [row.against for row in equal] == [
        "of 100 rows", "of 4096 rows", "of 4096 rows"
    ]  # fmt: skip
    assert all(row.reached for row in equal)
    assert rows["shuffled epoch of 4096 rows, warm: every row once"].reached
    assert rows["100 random rows of 4096, warm"].numbers["interp"] == 1 / 20
    assert rows["shuffled epoch of 4096 rows, cold"].ratio == 1


def test_memmap_batches_hold_every_row_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reading, "BLOCK", 300)
    monkeypatch.setattr(reading, "N_GATHERED", 100)
    both = reading.Both(tmp_path, TINY, 4096)
    rows = torch.cat(list(reading.permuted_blocks(both)))
    plain = torch.from_numpy(both.memmap().copy())
    assert len(rows) == len(plain)
    assert torch.equal(rows.unique(dim=0), plain.unique(dim=0))
    assert not torch.equal(rows, plain)


def test_rows_that_differ_are_counted() -> None:
    own = torch.zeros(5, 2, 3)
    other = own.clone()
    other[1, 0] = other[4, 1, 1] = 1
    row = equal_rows("reading", own, other)
    assert row.numbers == {"differ": 2}
    assert not row.reached
    assert equal_rows("reading", own, own).reached


def test_collecting_rows_compare_what_was_stored() -> None:
    rows = list(store.collecting(1, TINY))
    assert [row.against for row in rows] == [
        "forward alone", "torch.save, TransformerLens' cache", "of 8192 rows"
    ]  # fmt: skip
    assert rows[0].what == "collecting blocks.1.hook_resid_post, 8192 tokens"
    assert "set INTERP_SAELENS_PYTHON" in rows[0].note
    assert rows[-1].reached
    by_name(rows)


def test_costs_follow_from_sizes_and_speed() -> None:
    size, time = store.costs(1, TINY)
    # 16 numbers of two bytes; three layers; four of them; 64; and a pattern of 32 keys in 6 heads.
    per_token = [32, 3 * 32, 4 * 32, 128, 6 * 32 * 2]
    assert list(size.numbers.values()) == pytest.approx([x / 1000 for x in per_token], rel=2e-3)
    assert 1 < size.ratio < 1.002
    # A second for the model's four sequences of 32, and for each 32 MiB on the disk.
    of_model = 1e6 / (4 * 32)
    assert time.ratio == 1
    assert list(time.numbers.values()) == [of_model] * 5
    assert f"one residual {1e6 * 32 / PROBE:.3g}" in time.note


def test_every_candidate_is_prepared_for_each_time() -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    measure.interleaved(runs, 2, before=lambda: calls.append("before"))
    assert calls == ["before", "a", "before", "b"] * 3


CHILD = """
import json, sys
from pathlib import Path
folder = Path(json.loads(sys.stdin.readline())["folder"])
print("a line of a library")
print("done", flush=True)
for line in sys.stdin:
    with folder.open("a") as file:
        file.write(line)
    print("done", flush=True)
    if line == "forward\\n":
        sys.exit("no more")
"""


def test_saelens_is_run_in_its_own_interpreter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(saelens.VARIABLE, sys.executable)
    monkeypatch.setattr(saelens, "CHILD", CHILD)
    tokens = [torch.zeros(2, 3, dtype=torch.int64)]
    with saelens.SAELens(TINY, "blocks.1.hook_resid_post", tokens, tmp_path / "asked") as candidate:
        for name in ("SAELens", "SAELens", "SAELens' forward alone"):
            candidate.runs[name]()
        assert (tmp_path / "asked").read_text() == "collect\ncollect\nforward\n"
        with pytest.raises(RuntimeError, match="ended: no more"):
            candidate.runs["SAELens"]()
