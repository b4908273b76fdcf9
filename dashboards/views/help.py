"""Help: words, keys, limits, and what is in force."""

import pandas as pd
import streamlit as st

from dashboards.components.figure import settings
from dashboards.focus import Focus
from dashboards.frame import show
from dashboards.glossary import KEYBOARD, LIMITS, MEANING, PRIVACY
from dashboards.service import ANSWERS_BYTES, MODELS_KEPT, service
from dashboards.settings import SETTINGS
from interp.heads import DEFINITIONS
from interp.patterns import MEASURES


def page(focus: Focus) -> None:
    """Everything that explains."""
    with st.grid(2, min_column_width=430, gap="large") as panes:
        with panes.cell():
            st.markdown("##### What it cannot tell")
            for limit in LIMITS:
                st.markdown(f"- {limit}")
            st.markdown("##### What leaves this machine")
            st.markdown(PRIVACY)
            st.markdown("##### Keyboard")
            for keys, what in KEYBOARD.items():
                st.markdown(f"- **{keys}**: {what}")
        with panes.cell():
            st.markdown("##### Words")
            for word in sorted(MEANING, key=str.lower):
                st.markdown(f"**{word}** {MEANING[word]}")
    st.markdown("##### Measures of a head")
    definitions = [("repeated random tokens", *one) for one in DEFINITIONS.items()]
    definitions += [("this prompt", *one) for one in MEASURES.items()]
    st.dataframe(
        pd.DataFrame(definitions, columns=["measured on", "measure", "definition"]),
        hide_index=True,
        key="definitions",
    )
    st.markdown("##### In force")
    st.dataframe(pd.DataFrame(in_force(), columns=["setting", "value"]), hide_index=True)
    st.markdown("##### What the pages show now")
    st.json(settings(focus), expanded=1)


def in_force() -> list[tuple[str, str]]:
    """Settings of the server and of the service, as they are."""
    server = [(name, str(st.get_option(name))) for name in SETTINGS]
    root = service().store_root
    return [
        *server,
        ("models kept in memory", str(MODELS_KEPT)),
        ("memory for answers", f"{ANSWERS_BYTES >> 20} MiB"),
        ("used of it", f"{service().remembered_bytes >> 20} MiB"),
        ("folder for activation stores", "none" if root is None else str(root)),
    ]


if __name__ == "__main__":
    show(page)
