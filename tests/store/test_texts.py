"""Documents come out of every kind of file exactly and in order; a fault names its place."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from interp.errors import StoreError
from interp.store import texts as module
from interp.store.texts import open_texts

DOCUMENTS = ["One cat.", "Ünï 🐈\u2028 and\x0bmore", "  spaces ", "three"]


def compressed(data: bytes, ending: str) -> bytes:
    return gzip.compress(data) if ending == ".gz" else pa.compress(data, codec="zstd", asbytes=True)


def write(path: Path, data: bytes | str) -> Path:
    data = data.encode() if isinstance(data, str) else data
    packed = path.suffix in (".gz", ".zst")
    path.write_bytes(compressed(data, path.suffix) if packed else data)
    return path


def json_lines(documents: list[str]) -> str:
    return "".join(json.dumps({"id": 3, "text": text}) + "\n" for text in documents)


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("ending", [".txt", ".jsonl", ".ndjson"])
def test_text_files_give_their_documents(tmp_path: Path, ending: str, packing: str):
    content = "\n".join(DOCUMENTS) if ending == ".txt" else json_lines(DOCUMENTS)
    path = write(tmp_path / f"corpus{ending}{packing}", content)
    documents = open_texts(path)
    assert list(documents) == DOCUMENTS
    assert list(documents) == DOCUMENTS, "a second reading"


def test_blank_lines_line_ends_and_a_byte_order_mark_are_no_text(tmp_path: Path):
    path = write(tmp_path / "corpus.txt", "\ufeffone\r\n\r\n \t\ntwo\n\nthree \r in one line")
    assert list(open_texts(path)) == ["one", "two", "three \r in one line"]
    lines = "\ufeff" + json_lines(["one"]) + "\r\n\n  \n" + json_lines(["two"]).strip()
    path = write(tmp_path / "corpus.jsonl", lines)
    assert list(open_texts(path)) == ["one", "two"]


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_a_file_can_be_one_document_and_keeps_its_line_ends(tmp_path: Path, packing: str):
    write(tmp_path / f"b.txt{packing}", "two\r\nlines\n")
    write(tmp_path / f"a.txt{packing}", "\ufeff first\n")
    assert list(open_texts(tmp_path, document="file")) == [" first\n", "two\r\nlines\n"]


def test_members_of_a_joined_compressed_file_are_all_read(tmp_path: Path):
    for ending in (".gz", ".zst"):
        path = tmp_path / f"corpus.txt{ending}"
        path.write_bytes(compressed(b"one\ntw", ending) + compressed(b"o\nthree", ending))
        assert list(open_texts(path)) == ["one", "two", "three"]


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_parquet_gives_its_column_in_order(tmp_path: Path, kind: str):
    column = pa.array(DOCUMENTS * 200)
    column = column.dictionary_encode() if kind == "dictionary" else column.cast(kind)
    table = pa.table({"number": range(800), "story": column})
    pq.write_table(table, tmp_path / "corpus.parquet", row_group_size=300)
    assert list(open_texts(tmp_path / "corpus.parquet", column="story")) == DOCUMENTS * 200


def test_a_saved_hugging_face_dataset_is_read_without_its_library(tmp_path: Path):
    saved = datasets.Dataset.from_dict({"text": DOCUMENTS * 3, "n": [*range(12)]})
    saved.save_to_disk(str(tmp_path / "single"), num_shards=2)
    assert list(open_texts(tmp_path / "single")) == DOCUMENTS * 3
    splits = datasets.DatasetDict({"train": saved, "test": saved.select([1])})
    splits.save_to_disk(str(tmp_path / "splits"))
    assert list(open_texts(tmp_path / "splits" / "test")) == DOCUMENTS[1:2]
    with pytest.raises(StoreError, match="several splits: train, test"):
        open_texts(tmp_path / "splits")


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path):
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "a.jsonl.gz", json_lines(["fourth"]))
    write(tmp_path / "b.txt", "third")
    write(tmp_path / "a.txt.zst", "first\nsecond")
    write(tmp_path / "README.md", "not a document")
    write(tmp_path / ".hidden.txt", "not a document")
    (tmp_path / "folder.txt").mkdir()
    assert list(open_texts(tmp_path)) == ["first", "second", "third", "fourth"]
    chosen = [tmp_path / "b.txt", tmp_path / "more"]
    assert list(open_texts(chosen)) == ["third", "fourth"]
    assert list(open_texts(str(tmp_path / "b.txt"))) == ["third"]


def test_documents_from_python_pass_through(tmp_path: Path):
    assert open_texts(DOCUMENTS) is DOCUMENTS
    generator = (text for text in DOCUMENTS)
    assert open_texts(generator) is generator
    for text in ("see corpus.txt", 900 * "a" + ".txt"):
        ends_like_a_file = [text]
        assert open_texts(ends_like_a_file) is ends_like_a_file


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{'text': 1}", "corpus.jsonl, line 3: not JSON"),
        ("[" * 100_000, "line 3: not JSON"),
        ("[1]", r"line 3: expected an object such as \{'text': ...\}, got list"),
        ('{"story": "x", "n": 1}', "line 3: no column 'text'. There are: n, story. Choose with"),
        ("{}", "There are: none"),
        ('{"text": null}', "line 3: 'text' holds NoneType, not a text"),
        ('{"text": ["x"]}', "line 3: 'text' holds list, not a text"),
        ('{"text": ' + "1" * 5000 + "}", "line 3: not JSON"),
        (b'{"text": "caf\xe9"}', r"line 3: not UTF-8 \(byte 0xe9 at 13\)"),
    ],
)
def test_a_wrong_json_line_is_named(tmp_path: Path, line: str | bytes, message: str):
    line = line.encode() if isinstance(line, str) else line
    path = write(tmp_path / "corpus.jsonl", json_lines(["good"]).encode() + b"\n" + line + b"\n")
    documents = iter(open_texts(path))
    assert next(documents) == "good"
    with pytest.raises(StoreError, match=message):
        next(documents)


def test_text_that_is_not_utf8_is_named(tmp_path: Path):
    path = write(tmp_path / "corpus.txt", b"good\ncaf\xe9\n")
    with pytest.raises(StoreError, match=r"corpus.txt, line 2: not UTF-8 \(byte 0xe9 at 3\)"):
        list(open_texts(path))
    with pytest.raises(StoreError, match=r"corpus.txt: not UTF-8 \(byte 0xe9 at 8\)"):
        list(open_texts(path, document="file"))
    path = write(tmp_path / "wide.txt", "text".encode("utf-16"))
    with pytest.raises(StoreError, match=r"wide.txt, line 1: not UTF-8"):
        list(open_texts(path))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["corpus.txt.gz", "corpus.txt.zst", "corpus.jsonl.gz"])
def test_a_compressed_file_that_was_cut_off_is_named(tmp_path: Path, name: str):
    path = write(tmp_path / name, json_lines([str(i) for i in range(10_000)]))
    cut(path)
    with pytest.raises(StoreError, match=f"{name} cannot be read to its end: Truncated"):
        list(open_texts(path))
    path.write_bytes(b"")
    with pytest.raises(StoreError, match=f"{name} cannot be read to its end: it is empty"):
        list(open_texts(path))
    path.write_bytes(b"not compressed at all")
    with pytest.raises(StoreError, match=f"{name} cannot be read"):
        list(open_texts(path))


def test_damaged_tables_are_named(tmp_path: Path):
    pq.write_table(pa.table({"text": DOCUMENTS}), tmp_path / "corpus.parquet")
    cut(tmp_path / "corpus.parquet")
    with pytest.raises(StoreError, match=r"corpus.parquet cannot be read"):
        list(open_texts(tmp_path / "corpus.parquet"))
    saved = datasets.Dataset.from_dict({"text": DOCUMENTS * 300})
    saved.save_to_disk(str(tmp_path / "saved"))
    (arrow,) = (tmp_path / "saved").glob("*.arrow")
    cut(arrow)
    with pytest.raises(StoreError, match=r"data-00000-of-00001.arrow cannot be read"):
        list(open_texts(tmp_path / "saved"))
    arrow.unlink()
    with pytest.raises(StoreError, match=r"data-00000-of-00001.arrow cannot be read"):
        list(open_texts(tmp_path / "saved"))
    for state in ("{}", '{"_data_files": [1]}', "no JSON"):
        (tmp_path / "saved" / "state.json").write_text(state)
        with pytest.raises(StoreError, match=r"state.json is not the description of a dataset"):
            open_texts(tmp_path / "saved")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["x", None], "corpus.parquet, row 1: 'text' holds NoneType, not a text"),
        ([1, 2], "row 0: 'text' holds int, not a text"),
        ([b"x"], "row 0: 'text' holds bytes, not a text"),
    ],
)
def test_a_table_whose_column_holds_something_else_is_named(tmp_path: Path, values, message):
    pq.write_table(pa.table({"text": values}), tmp_path / "corpus.parquet")
    with pytest.raises(StoreError, match=message):
        list(open_texts(tmp_path / "corpus.parquet"))


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path):
    saved = datasets.Dataset.from_dict({"story": ["x"], "n": [1]})
    saved.to_parquet(str(tmp_path / "corpus.parquet"))
    saved.save_to_disk(str(tmp_path / "saved"))
    for path in (tmp_path / "corpus.parquet", tmp_path / "saved"):
        with pytest.raises(StoreError, match=r"no column 'text'\. There are: n, story"):
            list(open_texts(path))


def in_folder(name: str) -> Callable[[Path], Path]:
    return lambda folder: folder / name


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (in_folder("absent.txt"), r"no file or folder '.*absent.txt'. A document itself goes into"),
        (in_folder("corpus.csv"), r"corpus.csv has an ending that is not read. Known are .txt, "),
        (in_folder("corpus.parquet.gz"), r"corpus.parquet.gz has an ending that is not read"),
        (in_folder("empty"), r"empty holds no file that is read: .txt, .jsonl"),
        (lambda folder: 500 * "a text ", r"no file or folder '(a text )+a t'\. A document itself"),
        (lambda folder: 900 * "a", "no file or folder 'a+'"),
        (lambda folder: [], "The list of texts is empty"),
        (
            lambda folder: [folder / "a.txt", "text"],
            "a.txt', a file, and holds str.*Pass files as Path objects, all of them",
        ),
        (lambda folder: [str(folder / "a.txt")], "a.txt', a file, and holds str"),
    ],
)
def test_texts_that_are_no_corpus_are_refused(tmp_path: Path, texts, message: str):
    (tmp_path / "empty").mkdir()
    for name in ("corpus.csv", "corpus.parquet.gz", "a.txt"):
        (tmp_path / name).write_bytes(b"text")
    with pytest.raises(StoreError, match=message):
        open_texts(texts(tmp_path))


def test_documents_of_another_kind_are_refused(tmp_path: Path):
    with pytest.raises(StoreError, match="'line' or a 'file', not 'page'"):
        open_texts.__wrapped__(tmp_path, document="page")  # without the type check of the tests


def test_a_text_too_long_to_be_a_document_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(module, "MAX_DOCUMENT_CHARACTERS", 250)
    fits, longer = (
        write(tmp_path / "a.txt.gz", 1000 * "x"),
        write(tmp_path / "b.txt.gz", 1001 * "x"),
    )
    for document in ("line", "file"):
        assert list(open_texts(fits, document=document)) == [1000 * "x"]
    with pytest.raises(StoreError, match=r"b.txt.gz, line 1, is longer than 1000 bytes"):
        list(open_texts(longer))
    with pytest.raises(StoreError, match=r"b.txt.gz is longer than 250 characters. Split it"):
        list(open_texts(longer, document="file"))


def test_no_file_is_held_in_memory(tmp_path: Path):
    text = 1000 * "word "
    write(tmp_path / "a.jsonl.gz", json_lines(4000 * [text]))
    write(tmp_path / "b.txt", 4000 * f"{text}\n")
    table = pa.table({"text": 4000 * [text]})
    pq.write_table(table, tmp_path / "c.parquet", use_dictionary=False, compression="none")
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    peak_of_arrow = 0
    for _ in open_texts(tmp_path):
        peak_of_arrow = max(peak_of_arrow, pa.total_allocated_bytes() - before)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2e6, "of 20 MB a file"
    assert peak_of_arrow < 8e6
