"""The plan holds every token of the corpus once, the same each time, or nothing at all."""

import os
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from interp.errors import DamagedStoreError, ResourceError, StoreError
from interp.model.tokens import END_OF_TEXT, Tokenizer
from interp.store import sequences
from interp.store.durable import LocalFiles
from interp.store.plan import (
    RISING,
    TOKEN_SCHEMA,
    Plan,
    PlanRecord,
    read_table,
    write_plan,
    write_table,
    write_vocabulary,
)
from tests.store.test_sequences import DOCUMENTS, PACKINGS

TEXTS = [f"The cat number {n} is black. " * (n % 7) for n in range(40)]
OPTIONS = {
    "ctx": 12,
    "packing": "documents",
    "prepend_bos": True,
    "positions": "all",
    "subsample": "",
    "seed": 0,
    "unit_tokens": 100,
}


@pytest.fixture(scope="module", autouse=True)
def no_flushing() -> Iterator[None]:
    """Nothing here is about power cuts, and a flush takes longer than a plan."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


def planned(folder: Path, tokenizer: Tokenizer, texts=TEXTS, **options) -> PlanRecord:
    return write_plan(LocalFiles(folder), texts, tokenizer, **OPTIONS | options)


def tables(folder: Path, record: PlanRecord) -> list[pa.Table]:
    files = LocalFiles(folder)
    plan = Plan.read(files, record)
    return [plan.tokens(files, unit.unit) for unit in plan.units]


def rows(folder: Path, record: PlanRecord) -> list[dict]:
    return [row for table in tables(folder, record) for row in table.to_pylist()]


@given(
    documents=DOCUMENTS,
    ctx=st.integers(2, 40),
    packing=PACKINGS,
    prepend_bos=st.booleans(),
    unit_tokens=st.integers(1, 90),
    subsample=st.sampled_from(["", "0.5", "documents:0.5", "per-token:2"]),
    positions=st.sampled_from(["all", "last", "0,1"]),
)
def test_every_token_is_planned_once(tokenizer, tmp_path_factory, documents, **options):
    folder = tmp_path_factory.mktemp("plan")
    try:
        record = planned(folder, tokenizer, documents, **options)
    except StoreError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "nothing to read" in refusal or "leave no row" in refusal
        assert LocalFiles(folder).names("tokens") == []
        return
    plan = Plan.read(LocalFiles(folder), record)
    found = rows(folder, record)
    places = [(r["document"], r["document_pos"], r["token_id"]) for r in found]
    assert sorted(place for place in places if place[1] is not None) == [
        (document, pos, token_id)
        for document, text in enumerate(documents)
        for pos, token_id in enumerate(tokenizer.encode(text))
    ]
    n_rows = n_tokens = n_sequences = 0
    for unit, table in zip(plan.units, tables(folder, record), strict=True):
        assert (unit.first_row, unit.first_sequence) == (n_rows, n_sequences)
        stored = [row for row in table["row"].to_pylist() if row is not None]
        assert stored == list(range(unit.n_rows))
        sequence, pos = table["sequence"].to_pylist(), table["pos"].to_pylist()
        lengths = Counter(sequence)
        assert list(lengths) == list(range(n_sequences, n_sequences + unit.n_sequences))
        assert list(lengths.values()) == sorted(lengths.values())
        assert max(lengths.values()) <= options["ctx"]
        assert pos == [p for length in lengths.values() for p in range(length)]
        assert table["first"].to_pylist() == [p == 0 for p in pos]
        assert unit.n_tokens == len(table) <= max(options["unit_tokens"], *lengths.values())
        n_rows, n_tokens = n_rows + unit.n_rows, n_tokens + unit.n_tokens
        n_sequences += unit.n_sequences
    assert (record.n_rows, record.n_tokens) == (n_rows, n_tokens)
    assert (record.n_sequences, record.n_units) == (n_sequences, len(plan.units))
    assert record.n_documents == len(documents)


@pytest.mark.parametrize("packing", ["documents", "packed"])
@pytest.mark.parametrize("subsample", ["", "0.3", "per-token:3"])
def test_equal_texts_give_equal_bytes(tokenizer, tmp_path, packing, subsample):
    options = {"packing": packing, "subsample": subsample}
    records = [planned(tmp_path / name, tokenizer, **options) for name in "ab"]
    contents = []
    for name, record in zip("ab", records, strict=True):
        files = LocalFiles(tmp_path / name)
        contents.append([files.read(u.tokens_path) for u in Plan.read(files, record).units])
    assert contents[0] == contents[1]
    assert len(contents[0]) == records[0].n_units > 3
    assert records[0].fingerprint == records[1].fingerprint
    assert records[0].file.path != records[1].file.path


def key(row: dict) -> tuple:
    return row["document"], row["document_pos"], row["token_id"]


@pytest.mark.parametrize("subsample", ["0.3", "documents:0.5", "per-token:3"])
def test_a_sample_does_not_depend_on_units_or_ctx(tokenizer, tmp_path, subsample):
    chosen = []
    for name, options in {
        "a": {},
        "b": {"unit_tokens": 37},
        "c": {"unit_tokens": 9, "ctx": 5},
    }.items():
        options |= {"subsample": subsample, "prepend_bos": False}
        record = planned(tmp_path / name, tokenizer, TEXTS[:20], **options)
        found = rows(tmp_path / name, record)
        chosen.append({key(row) for row in found if row["row"] is not None})
        assert 0 < record.n_rows == len(chosen[-1]) < record.n_tokens
    assert chosen[0] == chosen[1] == chosen[2]


@pytest.mark.parametrize("packing", ["documents", "packed"])
def test_every_token_of_a_long_document_counts_for_a_sample_per_token(tokenizer, tmp_path, packing):
    texts = ["The cat is black. " * 100, *TEXTS]
    record = planned(tmp_path, tokenizer, texts, packing=packing, subsample="per-token:3")
    found = rows(tmp_path, record)
    there = Counter(row["token_id"] for row in found)
    stored = Counter(row["token_id"] for row in found if row["row"] is not None)
    assert there[tokenizer.bos_token_id] > 100
    assert stored == {token_id: min(3, n) for token_id, n in there.items()}
    assert LocalFiles(tmp_path).names("tokens") == [
        unit.tokens_path.removeprefix("tokens/")
        for unit in Plan.read(LocalFiles(tmp_path), record).units
    ], "the files of the first pass are gone"


def test_max_tokens_ends_the_plan_before_the_sequence_that_is_too_much(tokenizer, tmp_path):
    whole = planned(tmp_path / "whole", tokenizer)
    taken: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            yield TEXTS[len(taken) % len(TEXTS)]
            taken.append(1)

    part = planned(tmp_path / "part", tokenizer, endless(), max_tokens=whole.n_tokens - 1)
    assert whole.n_tokens - 12 <= part.n_tokens < whole.n_tokens
    assert part.n_sequences == whole.n_sequences - 1
    assert part.fingerprint == whole.fingerprint, "the last document was read, too"
    assert part.n_documents == whole.n_documents == len(TEXTS)
    enough = planned(tmp_path / "enough", tokenizer, max_tokens=whole.n_tokens)
    assert (enough.n_tokens, enough.n_documents) == (whole.n_tokens, len(TEXTS))


@pytest.mark.parametrize("subsample", ["", "per-token:3"])
@pytest.mark.parametrize("last_call", [0, 3, 9])
def test_planning_that_is_stopped_leaves_no_tokens(tokenizer, tmp_path, subsample, last_call):
    calls: list[tuple[int, int]] = []

    def watch(n_documents: int, n_tokens: int) -> None:
        calls.append((n_documents, n_tokens))
        if len(calls) > last_call:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        planned(tmp_path, tokenizer, subsample=subsample, watch=watch)
    assert len(calls) == last_call + 1
    assert calls == sorted(calls)
    assert calls[0][1] <= 100
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_stopping_in_the_second_pass_leaves_no_tokens(tokenizer, tmp_path):
    n_units = planned(tmp_path / "whole", tokenizer).n_units
    calls: list[int] = []

    def watch(n_documents: int, n_tokens: int) -> None:
        calls.append(n_tokens)
        if len(calls) == n_units + 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        planned(tmp_path / "part", tokenizer, subsample="per-token:3", watch=watch)
    assert LocalFiles(tmp_path / "part").names("tokens") == []


def test_a_fault_in_the_texts_leaves_no_tokens(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "DOCUMENTS_PER_BATCH", 20)
    with pytest.raises(StoreError, match="Document 40 is not valid Unicode"):
        planned(tmp_path, tokenizer, iter([*TEXTS, "\ud800"]))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_went_wrong_first_is_told(tokenizer, tmp_path, monkeypatch):
    def broken(self: LocalFiles, path: str) -> None:
        raise ResourceError(f"{path}: the disk is broken")

    def watch(n_documents: int, n_tokens: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalFiles, "remove", broken)
    with pytest.raises(KeyboardInterrupt):
        planned(tmp_path, tokenizer, watch=watch)


def test_the_last_position_is_that_of_each_sequence(tokenizer, tmp_path):
    record = planned(tmp_path, tokenizer, positions="last")
    last = {row["sequence"]: row["pos"] for row in rows(tmp_path, record)}
    stored = [row for row in rows(tmp_path, record) if row["row"] is not None]
    assert {row["sequence"]: row["pos"] for row in stored} == last
    assert len(stored) == record.n_rows == record.n_sequences
    assert len(set(last.values())) > 3


def test_the_outermost_positions_are_allowed(tokenizer, tmp_path):
    record = planned(tmp_path, tokenizer, positions="11,-12")
    stored = [row["pos"] for row in rows(tmp_path, record) if row["row"] is not None]
    assert set(stored) == {0, 11}


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, "nothing to read: no text gave a token"),
        (["", ""], {}, "nothing to read: no text gave a token"),
        (["The cat"], {"max_tokens": 2}, "max_tokens is 2, less than the first sequence has"),
        (["a"], {"positions": "5"}, "positions='5', subsample='' leave no row"),
        (["a"], {"subsample": "1e-9"}, "positions='all', subsample='1e-9' leave no row"),
        (["a"], {"positions": "0,12"}, "positions holds 12; sequences have at most 12 tokens"),
        (["a"], {"positions": "-13"}, "positions holds -13; sequences have at most 12 tokens"),
        (["a"], {"seed": -1}, "seed is -1; expected 0 or more"),
    ],
)
def test_a_plan_without_rows_is_an_error(tokenizer, tmp_path, texts, options, message):
    with pytest.raises(StoreError, match=message):
        planned(tmp_path, tokenizer, texts, **options)
    assert not LocalFiles(tmp_path).names("tokens")


def test_altered_files_are_named(tokenizer, tmp_path):
    record = planned(tmp_path, tokenizer)
    files = LocalFiles(tmp_path)
    plan = Plan.read(files, record)
    first, second = (tmp_path / unit.tokens_path for unit in plan.units[:2])
    content = first.read_bytes()
    flipped = content[:50] + bytes([content[50] ^ 1]) + content[51:]
    for altered in (b"", content[:-1], flipped, second.read_bytes()):
        first.write_bytes(altered)
        with pytest.raises(
            DamagedStoreError, match=r"u000000-\w+.parquet is damaged: its checksum"
        ):
            plan.tokens(files, 0)
    first.unlink()
    with pytest.raises(DamagedStoreError, match=r"u000000-\w+.parquet is damaged: it is missing"):
        plan.tokens(files, 0)
    (tmp_path / record.file.path).unlink()
    with pytest.raises(DamagedStoreError, match=r"plan-\w+.parquet is damaged: it is missing"):
        Plan.read(files, record)


def test_tables_of_another_kind_are_named(tmp_path):
    files = LocalFiles(tmp_path)
    file = write_table(files, "plan-1.parquet", pa.table({"unit": [1]}))
    with pytest.raises(
        DamagedStoreError, match=r"plan-1.parquet is damaged: it has the columns unit"
    ):
        read_table(files, file, TOKEN_SCHEMA)


def test_the_vocabulary_has_the_text_of_every_id(tokenizer, tmp_path):
    files = LocalFiles(tmp_path)
    table = pq.read_table(files.local(write_vocabulary(files, tokenizer).path))
    ids = range(len(tokenizer))
    assert table["token_id"].to_pylist() == list(ids)
    assert table["token"].to_pylist() == [tokenizer.piece(token_id) for token_id in ids]
    assert table["token"][0].as_py() == END_OF_TEXT


def test_a_vocabulary_with_gaps_is_written(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 7}, unk_token="a"))
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    files = LocalFiles(tmp_path)
    table = pq.read_table(files.local(write_vocabulary(files, Tokenizer(backend)).path))
    assert {0: "a", 7: "b"}.items() <= dict(zip(*table.to_pydict().values(), strict=True)).items()


def test_memory_does_not_grow_with_the_corpus(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(sequences, "DOCUMENTS_PER_BATCH", 250)
    peaks = []
    for n in (1_000, 5_000):
        texts = (f"The cat {k % 100} is black." for k in range(n))
        tracemalloc.start()
        planned(tmp_path / str(n), tokenizer, texts, unit_tokens=4_000, ctx=32)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000, "a line for each document would be 400,000 bytes"


def test_numbers_that_only_rise_take_hardly_any_space(tokenizer, tmp_path):
    record = planned(tmp_path, tokenizer, 100 * TEXTS, ctx=32, unit_tokens=50_000)
    (unit, *_) = Plan.read(LocalFiles(tmp_path), record).units
    group = pq.read_metadata(tmp_path / unit.tokens_path).row_group(0)
    columns = [group.column(i) for i in range(group.num_columns)]
    n_bytes = {column.path_in_schema: column.total_compressed_size for column in columns}
    assert max(n_bytes[name] for name in RISING) < 0.1 * unit.n_tokens
