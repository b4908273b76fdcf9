"""Sealed JSON: what was written comes back, and any change is noticed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import DamagedStoreError
from interp.store.sealed import seal, unseal

CONTENT = {"unit": 7, "hooks": {"blocks.0.hook_resid_post": [1, 2.5, None]}, "token": "é🎉"}
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda name: name != "checksum"), values, max_size=4))
def test_what_was_sealed_comes_back(content):
    assert unseal(seal(content), "a.json") == content


def test_any_changed_byte_is_noticed():
    data = seal(CONTENT)
    for place in range(len(data)):
        for change in (0x01, 0x10):
            altered = data[:place] + bytes([data[place] ^ change]) + data[place + 1 :]
            with pytest.raises(DamagedStoreError, match=r"commits/a\.json"):
                unseal(altered, "commits/a.json")


def test_any_cut_is_noticed():
    data = seal(CONTENT)
    for length in range(len(data)):
        with pytest.raises(DamagedStoreError, match=r"commits/a\.json"):
            unseal(data[:length], "commits/a.json")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"[1, 2]", "holds list; expected an object"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a": NaN, "checksum": "0"}', "a number that is none"),
        (b"\xff\xfe", "is not JSON"),
        (json.dumps({"a": 1}).encode(), "was altered"),
    ],
)
def test_other_files_are_refused(data: bytes, why: str):
    with pytest.raises(DamagedStoreError, match=why):
        unseal(data, "commits/a.json")


def test_the_same_content_spelt_in_another_way_is_refused() -> None:
    with pytest.raises(DamagedStoreError, match=r"store\.json was altered"):
        unseal(seal({"a": 0.1}).replace(b"0.1", b"0.10"), "store.json")
