"""The dashboard's entry: the menu, the model, and the page that the address names."""

from pathlib import Path

import streamlit as st

from dashboards import state
from dashboards.model_line import model_line
from dashboards.pages import FIRST, SECTIONS, entry, file_of

# An icon of a page would become the tab's icon, and be fetched from a server of fonts.
ICON = Path(__file__).resolve().parent / "components" / "assets" / "icon.svg"
MENU_WIDTH = 230


def main() -> None:
    """Draw the page."""
    menu = {
        section: [
            st.Page(
                file_of(page.name),
                title=page.title,
                url_path=page.name,
                default=page.name == FIRST,
            )
            for page in pages
        ]
        for section, pages in SECTIONS.items()
    }
    page = st.navigation(menu)
    st.set_page_config(page_icon=str(ICON), layout="wide", initial_sidebar_state=MENU_WIDTH)
    problems = state.begin()
    state.enter(page.url_path)
    with st.sidebar:
        model_line()
    for sentence in problems:
        st.warning(sentence)
    _heading(page.url_path)
    page.run()


def _heading(name: str) -> None:
    page = entry(name or FIRST)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.markdown(f"#### {page.title}", width="content")
        st.caption(page.purpose, width="content")


main()
