"""Names of files: readable, collision-free, and never outside a store."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import DamagedStoreError
from interp.store import naming


def test_places_follow_the_documented_layout() -> None:
    hook = "blocks.5.hook_resid_post"
    assert naming.unit_name(7) == "u000007"
    assert naming.shard_path(hook, 123, "0a1b2c3d") == (
        "data/blocks.5.hook_resid_post/u000123-0a1b2c3d.safetensors"
    )
    assert naming.tokens_path(123, "0a1b2c3d") == "tokens/u000123-0a1b2c3d.parquet"
    assert naming.commit_path(1_234_567, "89abcdef") == "commits/u1234567+89abcdef.json"
    assert naming.attempt_path(1, "89abcdef", 2) == "attempts/u000001+89abcdef.2.json"
    assert naming.verdict_path(1, "89abcdef", 2) == "attempts/u000001+89abcdef.2.failed.json"
    assert naming.failed_path(1, "89abcdef") == "failed/u000001+89abcdef.json"


def test_attempts_have_names_of_their_own() -> None:
    names = {naming.new_attempt() for _ in range(1000)}
    assert len(names) == 1000
    assert all(len(name) == 8 and int(name, 16) >= 0 for name in names)


@given(st.text(min_size=1, max_size=20))
def test_any_hook_name_gives_a_path_inside_or_is_refused(hook: str) -> None:
    path = naming.shard_path(hook, 0, "0a1b2c3d")
    if hook in (".", ".."):
        with pytest.raises(DamagedStoreError, match="Not a path inside a store"):
            naming.checked_path(path)
    else:
        assert naming.checked_path(path) == path
        assert path.count("/") == 2


@given(st.integers(0, 10**9), st.integers(0, 2**32 - 1), st.integers(1, 99))
def test_names_give_their_unit_and_group_back(unit: int, group: int, number: int) -> None:
    name = f"{group:08x}"
    for path, rest in [
        (naming.commit_path(unit, name), ""),
        (naming.attempt_path(unit, name, number), str(number)),
        (naming.verdict_path(unit, name, number), f"{number}.failed"),
    ]:
        assert naming.unit_and_group(path.split("/")[1]) == (unit, name, rest)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "u000001.json",
        "u1+89abcdef.json",
        "u0000001+89abcdef.json",
        "u000001+89abcde.json",
        "u000001+89abcdef.json.bak",
        "u000001+89ABCDEF.json",
        "u٠٠٠٠٠١+89abcdef.json",
    ],
)
def test_other_names_have_no_unit(name: str) -> None:
    assert naming.unit_and_group(name) is None


@given(st.text(alphabet="ab./\\:\0\n%~", max_size=12))
def test_no_path_leaves_the_store(path: str) -> None:
    parts = path.split("/")
    is_inside = all(part.strip("ab.%~") == "" and part not in ("", ".", "..") for part in parts)
    if is_inside:
        assert naming.checked_path(path) == path
    else:
        with pytest.raises(DamagedStoreError, match="The file that names it was altered"):
            naming.checked_path(path)
