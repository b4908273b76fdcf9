"""Help says what is, and nothing that is not."""

import streamlit as st

from dashboards.glossary import LIMITS, MEANING
from dashboards.settings import SETTINGS
from interp.heads import DEFINITIONS
from interp.patterns import MEASURES
from tests.dashboards.pages import opened, texts


def test_every_word_and_limit_is_there() -> None:
    said = texts(opened("help"))
    for text in (*MEANING.values(), *LIMITS):
        assert text in said


def test_every_measure_is_defined() -> None:
    table = opened("help").dataframe[0].value
    assert set(table["measure"]) == set(DEFINITIONS) | set(MEASURES)
    assert set(table["definition"]) == {*DEFINITIONS.values(), *MEASURES.values()}


def test_settings_are_those_in_force_not_those_wished_for() -> None:
    table = opened("help").dataframe[1].value.set_index("setting")["value"]
    for name in SETTINGS:
        assert table[name] == str(st.get_option(name))
    assert table["folder for activation stores"] == "none"


def test_what_the_pages_show_is_listed() -> None:
    page = opened("help", layer="2", head="1")
    assert '"layer": 2' in page.json[0].value or '"layer":2' in page.json[0].value
