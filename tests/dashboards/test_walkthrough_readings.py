"""What the walk-through says of numbers of every kind."""

from dataclasses import replace

import pandas as pd
import pytest
import xarray as xr

from dashboards.focus import Focus, focus
from dashboards.measurements.walkthrough import Effects, General
from dashboards.readings import walkthrough as readings
from dashboards.service import begin
from dashboards.state import Selection
from interp.edge_tests import ALL_HEADS, AS_IS, CONTROL, ONE_HEAD, ZEROED
from interp.model.loading import EMBEDDED
from interp.statistics import Interval


@pytest.fixture(scope="module")
def seen() -> Focus:
    """The first prompt: 13 “cat” looks at 5 “black” in L1H2."""
    begin(EMBEDDED, None)
    return focus(Selection(EMBEDDED))


def said(paragraphs: list[str]) -> str:
    return " ".join(paragraphs)


def heads(weight: float, other: float) -> pd.DataFrame:
    """L1H2, which is chosen, and L0H3."""
    return pd.DataFrame(
        {
            "layer": [1, 0], "head": [2, 3], "weight": [weight, other], "rank": [1, 4],
            "lift": [14 * weight, 14 * other], "first_token": [0.05, 0.7],
        }
    )  # fmt: skip


def test_a_strong_head_is_named(seen: Focus) -> None:
    text = said(readings.heads(heads(0.9, 0.1), seen))
    assert "L1H2 gives the most: 0.900, 12.6 times" in text
    assert "On the first token rests 0.050" in text
    assert "another head" not in text


def test_no_strong_head_is_said_openly(seen: Focus) -> None:
    text = said(readings.heads(heads(0.2, 0.1), seen))
    assert "No head looks hard" in text
    assert "no story to tell" in text


def test_following_a_lighter_head_is_said(seen: Focus) -> None:
    text = said(readings.heads(heads(0.4, 0.6), seen))
    assert "L0H3 gives the most: 0.600" in text
    assert "click L0H3" in text


def test_strong_is_above_even_attention_of_short_rows(seen: Focus) -> None:
    assert readings.strong(0.3, seen)
    assert not readings.strong(0.29, seen)
    early = replace(seen, query=1)
    assert not readings.strong(0.9, early)
    assert readings.strong(1.0, early)


def test_looking_at_itself_is_no_looking_back(seen: Focus) -> None:
    assert "looks at itself" in said(readings.tokens(replace(seen, key=13)))
    assert "impossible in every head" in said(readings.tokens(seen))


def row(score: float, weight: float) -> xr.Dataset:
    n = 20
    return xr.Dataset(
        {
            "weight": ("key_pos", [weight] * n), "original_weight": ("key_pos", [0.5] * n),
            "largest": score, "original": 4.0, "changed": 1.5, "effect": -2.5,
        }
    )  # fmt: skip


def test_a_changed_score_is_told_with_its_effect(seen: Focus) -> None:
    text = said(readings.row(row(2.0, 0.25), seen, 1.5))
    assert "With +1.5 on its score" in text
    assert "0.2500 instead of 0.5000" in text
    assert "from +4.000 to +1.500, by -2.500 logits" in text
    assert "The 6 later positions" in text
    unchanged = said(readings.row(row(2.0, 0.5), replace(seen, query=19), 0))
    assert "Move the slider" in unchanged
    assert "No later position" in unchanged


def test_the_largest_share_may_be_anothers(seen: Focus) -> None:
    share = [0.0] * 20
    table = pd.DataFrame({"weight": 0.05, "value_norm": 2.0, "share": share})
    table.loc[5, "share"], table.loc[2, "share"] = 0.3, 0.6
    text = said(readings.values(table, seen))
    assert "+30.0% comes from it" in text
    assert "The largest share, +60.0%, is that of `·love`" in text
    table.loc[5, "share"] = 0.9
    assert "largest share" not in said(readings.values(table, seen))


def effects(differences: dict[str, float], *, after: str = " black") -> Effects:
    names = list(differences)
    table = pd.DataFrame({"condition": names, "logit_diff": list(differences.values())})
    table["next_token"] = [after if name == ZEROED else " black" for name in names]
    control = {"layer": 0, "head": 1, "query": 3, "key": 2, "weight": 0.8}
    row = {f"control_{name}": float(value) for name, value in control.items()}
    found = pd.DataFrame([row | {"original_weight": 0.9}] if CONTROL in differences else [])
    return Effects(table, tuple(names), found)


ALL = {AS_IS: 10.0, ONE_HEAD: 2.0, ALL_HEADS: 1.0, CONTROL: 9.9, ZEROED: 0.5}


def test_an_edge_that_matters_is_compared_with_its_control(seen: Focus) -> None:
    text = said(readings.effects(effects(ALL, after=" white"), seen))
    assert "takes 90% of the logit difference" in text
    assert "L0H1, `·the` to `·love`, weight 0.800 against 0.900" in text
    assert "says `·white` instead of `·black`" in text


def test_a_claim_that_fails_is_said_to_fail(seen: Focus) -> None:
    same = dict.fromkeys(ALL, 10.0)
    text = said(readings.effects(effects(same), seen))
    assert "The claim fails here" in text
    assert "still says `·black`" in text


def test_what_could_not_be_tested_is_said(seen: Focus) -> None:
    text = said(readings.effects(effects({AS_IS: 10.0, ZEROED: 9.0}), seen))
    assert "sees one key only" in text
    assert "too short to hold a control edge" in text


def test_other_sentences_may_not_bear_it_out(seen: Focus) -> None:
    clear, near = Interval(-5, -6, -4), Interval(-0.1, -0.3, 0.1)
    table = pd.DataFrame()
    assert "it holds" in said(readings.general(General(table, clear, clear, near, 7), seen))
    fails = said(readings.general(General(table, near, near, near, 7), seen))
    assert "not enough" in fails
    assert "7 generated sentences" in fails


def test_swaps_tell_the_range_and_may_be_none(seen: Focus) -> None:
    table = pd.DataFrame({"token": [" black", " red", " boat"], "weight": [0.9, 0.8, 0.4]})
    assert "0.400 to 0.800" in said(readings.swaps(table, seen))
    assert "No other word" in said(readings.swaps(table.head(1), seen))


def test_rounding_is_no_difference() -> None:
    assert readings.exact(1e-6)
    assert not readings.exact(1e-4)


def test_numbers_that_are_taken_off_are_bracketed_when_negative() -> None:
    assert (readings.bracketed(1.5), readings.bracketed(-1.5)) == ("1.500", "(-1.500)")
