"""Conditions, numbering and the choice of rows, on tables made by hand."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from interp.errors import StoreError
from interp.store.index import Rows, matching, row_numbers
from interp.store.plan import PlannedUnit

TABLE = pa.table(
    {
        "pos": pa.array([0, 1, 2, 0, 1], pa.int32()),
        "document_pos": pa.array([None, 0, 1, None, 0], pa.int32()),
        "token": pa.array(["<|endoftext|>", " black", " cat", "<|endoftext|>", " black"]),
        "bos": [True, False, False, True, False],
    }
)


def chosen(where: str, *tables: pa.Table) -> list[list[int]]:
    return [np.flatnonzero(mask).tolist() for mask in matching(tables or [TABLE], where)]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("pos > 0 and token = ' black'", [1, 4]),
        ("not bos", [1, 2, 4]),
        ("token like '% c%' or bos", [0, 2, 3]),
        ("document_pos is null", [0, 3]),
        ("document_pos >= 1", [2]),  # unknown is no
        ("false", []),
        ("pos", [1, 2, 4]),
        ("pos in (0, 2) -- only these", [0, 2, 3]),
    ],
)
def test_a_condition_chooses_rows(where: str, rows: list[int]):
    assert chosen(where) == [rows]


def test_a_condition_is_asked_of_each_table_by_itself():
    assert chosen("pos = 1", TABLE, TABLE.slice(1, 2), TABLE.slice(0, 0)) == [[1, 4], [0], []]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("position > 0", 'Referenced column "position" not found'),
        ("", "Parser Error"),
        ("pos >", "syntax error"),
        ("pos > 0; select 1", "Parser Error"),
        ("pos > 0) or (true", "syntax error"),
        ("count(*) > 1", "aggregates"),
        ("pos = 'a'", "Could not convert"),
        ("exists (select * from read_text('FILE'))", "file system operations are disabled"),
        ("exists (select * from read_csv('FILE'))", "file system operations are disabled"),
        ("exists (select * from 'FILE')", "file system operations are disabled"),
        ("exists (select * from glob('FOLDER/*'))", "file system operations are disabled"),
        ("pos in (select pos from others)", "others does not exist"),
        ("exists (select * from numbered)", "numbered does not exist"),  # a variable beside it
        ("getenv('HOME') = 'x'", "does not exist"),
    ],
)
def test_a_condition_reaches_nothing_but_its_table(where: str, why: str, tmp_path: Path):
    others = pa.table({"pos": [1]})  # a variable that DuckDB would find by its name
    assert len(others) == 1
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n", encoding="utf-8")
    where = where.replace("FILE", str(secret)).replace("FOLDER", str(tmp_path))
    with pytest.raises(StoreError, match=why) as caught:
        chosen(where)
    assert str(caught.value).endswith("The columns are pos, document_pos, token, bos.")


def unit(number: int, first_row: int, n_rows: int) -> PlannedUnit:
    return PlannedUnit(number, first_row, n_rows, n_rows, 0, 1, "tokens/a.parquet", 0, "")


UNITS = [unit(0, 0, 5), unit(1, 5, 0), unit(3, 20, 4)]
MASKS = [[0, 1, 0, 0, 1], [], [1, 1, 1, 0]]


def parts(rows: Rows, index: list[int]) -> list[tuple[int, list[int], slice]]:
    return [(p.unit, p.rows.tolist(), p.places) for p in rows.parts(np.array(index, dtype=int))]


def test_rows_are_numbered_through_the_units():
    rows = Rows(UNITS)
    assert len(rows) == 9
    assert parts(rows, [0, 4, 4, 5, 8]) == [(0, [0, 4, 4], slice(0, 3)), (3, [0, 3], slice(3, 5))]
    assert parts(rows, [6]) == [(3, [1], slice(0, 1))]
    assert parts(rows, []) == []


def test_kept_rows_are_numbered_without_the_others():
    rows = Rows(UNITS, [np.packbits(np.array(mask, dtype=bool)) for mask in MASKS])
    assert len(rows) == 5
    assert parts(rows, [0, 1, 2, 4]) == [(0, [1, 4], slice(0, 2)), (3, [0, 2], slice(2, 4))]
    numbers, is_here = rows.numbers(2, np.array([3, 2, 0]))
    assert numbers.tolist() == [4, 2]
    assert is_here.tolist() == [False, True, True]


def test_blocks_stay_inside_a_unit_and_cover_all_rows():
    assert Rows(UNITS).blocks(3).tolist() == [[0, 3], [3, 5], [5, 8], [8, 9]]
    assert Rows([]).blocks(3).shape == (0, 2)


@pytest.mark.parametrize(
    ("index", "numbers"),
    [
        (2, [2]),
        (-1, [4]),
        (np.int32(3), [3]),
        (torch.tensor(3), [3]),
        (slice(None), [0, 1, 2, 3, 4]),
        (slice(3, 100), [3, 4]),
        (slice(None, None, -2), [4, 2, 0]),
        ([], []),
        ([3, -5, 3], [3, 0, 3]),
        (np.array([1, 0], dtype=np.uint8), [1, 0]),
        (torch.tensor([4, 1]), [4, 1]),
        ([True, False, False, True, False], [0, 3]),
        (torch.tensor([False] * 5), []),
        (range(1, 3), [1, 2]),
    ],
)
def test_rows_are_chosen_in_every_usual_way(index: object, numbers: list[int]):
    found = row_numbers(index, 5)
    assert found.dtype == np.int64
    assert found.tolist() == numbers


@pytest.mark.parametrize(
    ("index", "why"),
    [
        (5, "Row 5 of 5: rows are 0 to 4"),
        ([0, -6], "Row -6 of 5: rows are 0 to 4"),
        ([True, False], "2 bools for 5 rows; give one for each"),
        ([0.0, 1.0], "got float64 of shape"),
        ([[0, 1]], r"got int64 of shape \(1, 2\)"),
        (["a"], "got <U1 of shape"),
    ],
)
def test_a_row_that_is_not_there_is_refused(index: object, why: str):
    with pytest.raises(StoreError, match=why):
        row_numbers(index, 5)


def test_there_is_no_row_in_nothing():
    with pytest.raises(StoreError, match="Row 0 of 0: there are none"):
        row_numbers(0, 0)
