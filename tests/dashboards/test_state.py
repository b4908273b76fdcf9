"""The selection and the URL."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboards.state import NUMBERS, SEED_TEXT, Selection, from_query


def test_the_default_selection_leaves_the_url_empty() -> None:
    assert Selection("tiny").to_query() == {}


def test_only_what_differs_is_in_the_url() -> None:
    chosen = Selection("tiny", query=3, prepend_bos=False, options={"attention.measure": "effect"})
    assert chosen.to_query() == {"query": "3", "bos": "0", "attention.measure": "effect"}


options = st.dictionaries(st.from_regex(r"[a-z]+\.[a-z_]+", fullmatch=True), st.text(), max_size=3)
positions = st.none() | st.integers(0, 10**6)


@given(
    model=st.text(min_size=1),
    text=st.text(),
    prepend_bos=st.booleans(),
    numbers=st.tuples(*[positions] * len(NUMBERS)),
    answers=st.tuples(st.text(), st.text()),
    options=options,
)
def test_a_selection_comes_back_from_its_url(
    model, text, prepend_bos, numbers, answers, options
) -> None:
    chosen = Selection(model, text, prepend_bos, *numbers, *answers, options=options)
    assert from_query(chosen.to_query()) == (chosen, [])


@pytest.mark.parametrize("value", ["", "x", "-1", "1.5", "1e3", "²", "9999999", "1" * 400])
def test_a_number_that_is_none_is_said_and_the_default_stays(value: str) -> None:
    chosen, problems = from_query({"query": value, "layer": "1"})
    assert (chosen.query, chosen.layer) == (None, 1)
    assert problems == ["The link's query is no whole number, so the default is shown."]


def test_unknown_parameters_are_left_out() -> None:
    chosen, problems = from_query({"utm": "x", "options": "y"})
    assert (chosen, problems) == (Selection("tiny", SEED_TEXT, options={}), [])
