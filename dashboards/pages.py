"""Every page of the dashboard: where it is, what it is called, and what it is for."""

from typing import NamedTuple

import streamlit as st


class PageEntry(NamedTuple):
    """One page."""

    name: str
    """Of its file in `views/`, and in the address."""
    title: str
    purpose: str


FIRST = "start"
"""The page of the bare address."""
SECTIONS = {
    "Begin": (
        PageEntry("start", "Start", "Three doors, and the first result"),
        PageEntry("walkthrough", "How cat looks at black", "One attention weight, step by step"),
    ),
    "Look": (
        PageEntry("attention", "Attention", "Where every head looks, and whether that matters"),
        PageEntry("head", "Head", "What one head does, here and in general"),
        PageEntry("residual", "Residual stream", "What the model would say after each layer"),
        PageEntry("attribution", "Attribution", "Which parts write the answer"),
    ),
    "Ask": (
        PageEntry("patching", "Patching lab", "Put values of one prompt into another"),
        PageEntry("ablation", "Ablation lab", "Take heads and MLPs out"),
        PageEntry("compare", "Compare", "Two prompts, or two models, side by side"),
        PageEntry("generate", "Generate", "Word by word, and what each new word looked at"),
    ),
    "Keep": (
        PageEntry("store", "Activation store", "Put activations on disk, and open them"),
        PageEntry("help", "Help", "What words mean, and what the tool cannot tell"),
    ),
}
"""Pages by section of the menu."""


def entry(name: str) -> PageEntry:
    """A page by its name."""
    return next(page for pages in SECTIONS.values() for page in pages if page.name == name)


def file_of(name: str) -> str:
    """A page's file, from the entry script."""
    return f"views/{name}.py"


def link(name: str, label: str | None = None) -> None:
    """A link to another page, which keeps the selection."""
    st.page_link(file_of(name), label=label or entry(name).title)


def go_to(name: str) -> None:
    """Show another page now, with the selection as it is."""
    st.switch_page(file_of(name))
