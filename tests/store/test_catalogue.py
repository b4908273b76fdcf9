"""The stores below a folder: what is listed, what names may reach, and what removing takes."""

from pathlib import Path

import pytest

import interp
from interp.errors import StoreError
from interp.model.tokens import Tokenizer
from interp.store import catalogue
from interp.store.attempts import Attempt
from interp.store.planned import PlannedStore
from tests.store.small_store import plan_store, write_small_store, write_units


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return interp.load().require_tokenizer()


def test_every_store_is_listed_with_its_state(tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole = write_small_store(tmp_path / "whole", tokenizer)
    part = plan_store(tmp_path / "study" / "part", tokenizer)
    write_units(part, next(iter(part.groups.values())))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "read.me").write_text("no store")
    found = {each.name: each for each in catalogue.entries(tmp_path)}
    assert list(found) == ["study/part", "whole"]
    assert (found["whole"].state, found["study/part"].state) == ("complete", "partial")
    entry = found["whole"]
    assert entry.hooks == tuple(whole.hooks)
    assert entry.n_rows == whole.record.plan.n_rows
    assert entry.n_committed == entry.n_units == len(whole.work)
    sizes = [each.stat().st_size for each in (tmp_path / "whole").rglob("*") if each.is_file()]
    assert entry.n_bytes == sum(sizes)
    assert (entry.model, entry.model_hash, entry.problem) == ("none", "0", "")
    table = catalogue.stores(tmp_path)
    assert table["name"].tolist() == list(found)
    assert table["hooks"].iloc[1] == ", ".join(whole.hooks)


def test_an_empty_folder_has_an_empty_table_with_columns(tmp_path: Path) -> None:
    table = catalogue.stores(tmp_path)
    assert len(table) == 0
    assert {"name", "state", "n_bytes"} <= set(table.columns)


def test_what_cannot_be_read_is_listed_with_the_reason(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "store.json").write_text("{}")
    damaged = write_small_store(tmp_path / "damaged", tokenizer)
    (tmp_path / "damaged" / damaged.record.plan.file.path).write_bytes(b"PAR1")
    plan_store(tmp_path / "begun", tokenizer)
    (tmp_path / "begun" / "store.json").unlink()
    found = {each.name: each for each in catalogue.entries(tmp_path)}
    assert found["foreign"].state == found["damaged"].state == "unreadable"
    assert "store.json" in found["foreign"].problem
    assert damaged.record.plan.file.path in found["damaged"].problem
    assert found["begun"].state == "unplanned"


def test_units_under_way_and_given_up_are_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    store = plan_store(tmp_path / "a", tokenizer)
    attempt = Attempt(store.files, *store.work[0], 1)
    attempt.begin()
    assert catalogue.entry(tmp_path, "a").state == "under way"
    attempt.fail("it is too large", permanent=True)
    entry = catalogue.entry(tmp_path, "a")
    assert (entry.state, entry.problem) == ("given up", "it is too large")


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../b", "/etc", "a//b", ".hidden", "a/.b", "a\\b", "a b", "a\nb",
     "a/b/c/d/e", "x" * 101, "~root", "<b>"],
)  # fmt: skip
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="is no name of a store"):
        catalogue.folder(tmp_path, name)


def test_links_are_neither_listed_nor_followed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    write_small_store(outside / "store", tokenizer)
    root.mkdir()
    (root / "link").symlink_to(outside)
    assert catalogue.entries(root) == []
    for name in ("link", "link/store"):
        with pytest.raises(StoreError, match="is a link"):
            catalogue.entry(root, name)
        with pytest.raises(StoreError, match="is a link"):
            catalogue.delete(root, name)
    assert (outside / "store" / "store.json").exists()


def test_no_store_lies_inside_another(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_small_store(tmp_path / "a", tokenizer)
    with pytest.raises(StoreError, match="is a store itself"):
        catalogue.folder(tmp_path, "a/b")
    with pytest.raises(StoreError, match="There is no store 'b'"):
        catalogue.entry(tmp_path, "b")


def test_a_store_is_removed_and_nothing_else(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_small_store(tmp_path / "study" / "a", tokenizer)
    write_small_store(tmp_path / "study" / "b", tokenizer)
    assert catalogue.delete(tmp_path, "study/a") == []
    assert not (tmp_path / "study" / "a").exists()
    assert catalogue.entry(tmp_path, "study/b").state == "complete"


def test_files_of_other_kinds_stay(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_small_store(tmp_path / "a", tokenizer)
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    (tmp_path / "a" / "data" / "mine.txt").write_text("also")
    assert catalogue.delete(tmp_path, "a") == ["data/mine.txt", "data"]
    left = sorted(each.name for each in (tmp_path / "a").rglob("*") if each.is_file())
    assert left == ["mine.txt", "thesis.tex"]


def test_a_damaged_store_can_be_removed_a_foreign_folder_not(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    store = write_small_store(tmp_path / "damaged", tokenizer)
    (tmp_path / "damaged" / store.record.plan.file.path).unlink()
    assert catalogue.delete(tmp_path, "damaged") == []
    plan_store(tmp_path / "begun", tokenizer)
    (tmp_path / "begun" / "store.json").unlink()
    catalogue.delete(tmp_path, "begun")
    assert not (tmp_path / "begun" / "tokens").exists()
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "letter.txt").write_text("x")
    with pytest.raises(StoreError, match="is no store"):
        catalogue.delete(tmp_path, "foreign")
    (foreign / "store.json").write_text("{}")
    with pytest.raises(StoreError, match=r"store\.json"):
        catalogue.delete(tmp_path, "foreign")
    assert (foreign / "store.json").exists()


def test_a_store_that_somebody_works_on_is_not_removed(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    store = plan_store(tmp_path / "a", tokenizer)
    Attempt(store.files, *store.work[0], 1).begin()
    with pytest.raises(StoreError, match="Somebody works on"):
        catalogue.delete(tmp_path, "a")
    assert PlannedStore.read(store.files).work == store.work
