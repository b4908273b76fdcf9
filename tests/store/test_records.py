"""Dataclasses from foreign JSON: what fits is built, all else is damage that is named."""

from dataclasses import asdict, dataclass
from typing import Any

import pytest

from interp.errors import DamagedStoreError
from interp.store.records import FileRecord, built, damaged


@dataclass(frozen=True)
class Inner:
    name: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Outer:
    by_name: dict[str, Inner]
    ratio: float
    limit: int | None
    is_short: bool


GOOD: dict[str, Any] = {
    "by_name": {"a": {"name": "x", "sizes": [1, 2]}},
    "ratio": 0.5,
    "limit": None,
    "is_short": True,
}


def test_plain_json_becomes_the_dataclass() -> None:
    outer = built(Outer, GOOD, "file")
    assert outer == Outer({"a": Inner("x", (1, 2))}, 0.5, None, True)
    assert built(Outer, asdict(outer), "file") == outer


def test_a_whole_number_is_a_float_where_one_is_expected() -> None:
    ratio = built(Outer, GOOD | {"ratio": 2}, "file").ratio
    assert (type(ratio), ratio) == (float, 2.0)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"ratio": "0.5"}, "its 'ratio' is '0.5'"),
        ({"ratio": float("nan")}, "its 'ratio' is nan"),
        ({"ratio": float("inf")}, "its 'ratio' is inf"),
        ({"ratio": 10**400}, "its 'ratio' is 1000"),
        ({"ratio": True}, "its 'ratio' is True"),
        ({"limit": -1}, "its 'limit' is -1"),
        ({"limit": 2**63}, "its 'limit' is 9223372036854775808"),
        ({"limit": True}, "its 'limit' is True"),
        ({"limit": 1.0}, "its 'limit' is 1.0"),
        ({"is_short": 1}, "its 'is_short' is 1"),
        ({"is_short": None}, "its 'is_short' is None"),
        ({"by_name": []}, "its 'by_name' is \\[\\]"),
        ({"by_name": {"a": "x"}}, "its 'a' is 'x'"),
        ({"by_name": {"a": {"name": 1, "sizes": []}}}, "its 'name' is 1"),
        ({"by_name": {"a": {"name": "x", "sizes": {}}}}, "its 'sizes' is {}"),
        ({"by_name": {"a": {"name": "x", "sizes": ["1"]}}}, "its 'sizes' is '1'"),
        ({"by_name": {"a": {"name": "x"}}}, "its 'a' .* the fields 'sizes'"),
        ({"extra": 1}, "the fields 'extra'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(DamagedStoreError, match=f"file.json is damaged: .*{why}"):
        built(Outer, GOOD | changes, "file.json")


@pytest.mark.parametrize("content", [None, 1, "x", [], [GOOD]])
def test_something_else_than_an_object_is_damage(content: object) -> None:
    with pytest.raises(DamagedStoreError, match=r"file\.json is damaged: it is"):
        built(FileRecord, content, "file.json")


def test_damage_is_an_error_with_its_own_exit_code() -> None:
    assert str(damaged("x", "it is short")) == "x is damaged: it is short."
    assert damaged("x", "it is short").exit_code == 4
