"""What the pages share: the prompt, the model and the selection, kept in the session and the URL.

The URL holds only what differs from the defaults, so that a link says what is special about it.
"""

import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, fields, replace

import streamlit as st

from dashboards.jobs import Job
from dashboards.service import service

SEED_TEXT = "I love the color black, I hope someday to have a cat like that. The cat is"
MAX_JOBS = 8
"""Kept by one session."""
NUMBERS = ("query", "key", "layer", "head")
LATE_SECONDS = 1.5
"""How long a browser may take to show a change."""
HIGHEST = 10**6
"""No position, layer or head is beyond it."""


@dataclass(frozen=True)
class Selection:
    """What somebody chose; `None` and "" stand for what fits the prompt best."""

    model: str
    text: str = SEED_TEXT
    prepend_bos: bool = True
    query: int | None = None
    key: int | None = None
    layer: int | None = None
    head: int | None = None
    target: str = ""
    """The answer's token."""
    wrong: str = ""
    options: Mapping[str, str] | None = None
    """Settings of single pages, "page.name" to value."""

    def to_query(self) -> dict[str, str]:
        """Parameters of a URL: what differs from the defaults."""
        default = Selection(service().first_model)
        chosen = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("options", "prepend_bos")
            and getattr(self, field.name) != getattr(default, field.name)
        }
        query = {name: str(value) for name, value in chosen.items()}
        if not self.prepend_bos:
            query["bos"] = "0"
        return query | dict(self.options or {})


def from_query(query: Mapping[str, str]) -> tuple[Selection, list[str]]:
    """The selection of a URL, and a sentence for each parameter that means nothing."""
    chosen: dict[str, object] = {"model": service().first_model}
    options, problems = {}, []
    for name, value in query.items():
        if name in NUMBERS:
            if value.isascii() and value.isdigit() and int(value[:9]) <= HIGHEST:
                chosen[name] = int(value)
            else:
                problems.append(f"The link's {name} is no whole number, so the default is shown.")
        elif name in ("model", "text", "target", "wrong"):
            chosen[name] = value
        elif name == "bos":
            chosen["prepend_bos"] = value != "0"
        elif "." in name:
            options[name] = value
    return Selection(**chosen, options=options), problems  # pyright: ignore[reportArgumentType]


def begin() -> list[str]:
    """Read the URL once a session; sentences on what it holds that means nothing."""
    if "selection" in st.session_state:
        return []
    st.session_state["selection"], problems = from_query(st.query_params.to_dict())
    return problems


def selection() -> Selection:
    """What is chosen now."""
    return st.session_state["selection"]


def change(**chosen: object) -> None:
    """Choose something else, for every page."""
    st.session_state["selection"] = replace(selection(), **chosen)


def option(name: str, default: str) -> str:
    """A setting of a single page, such as "attention.measure"."""
    return (selection().options or {}).get(name, default)


def set_option(name: str, value: str, default: str) -> None:
    """Change a setting of a single page; the default is not kept."""
    others = {key: kept for key, kept in (selection().options or {}).items() if key != name}
    change(options=others if value == default else others | {name: value})


def enter(page: str) -> None:
    """Note which page is drawn; widgets of another page begin anew, even under the same key."""
    if st.session_state.get("entered") != page:
        st.session_state["entered"] = page
        st.session_state["prompt_problem"] = ""
        for key in st.session_state.pop("shown", []):
            st.session_state.pop(key, None)


def shows(key: str, value: object) -> None:
    """Let the widget that follows show a value, without taking away what is being typed."""
    st.session_state.setdefault("shown", set()).add(key)
    if key not in st.session_state:
        st.session_state[key] = value
    elif st.session_state[key] != value:
        replaced = st.session_state.setdefault("replaced", {})
        replaced[key] = (st.session_state[key], time.monotonic())
        st.session_state[key] = value


def is_late(key: str) -> bool:
    """Whether a widget sends what it showed until a moment ago, and nobody chose just now.

    A page that draws itself anew while its browser has not yet got the last change sends the old
    values along.
    """
    old, when = st.session_state.get("replaced", {}).get(key, (None, 0.0))
    return st.session_state[key] == old and time.monotonic() - when < LATE_SECONDS


def write_url() -> None:
    """Let the URL say what is chosen."""
    query = selection().to_query()
    if st.query_params.to_dict() != query:
        st.query_params.from_dict(query)


def job(name: str, about: Hashable) -> Job | None:
    """The job of this session under a name, if it is about the same settings."""
    kept = _jobs().get(name)
    return kept[1] if kept is not None and kept[0] == about else None


def keep_job(name: str, about: Hashable, job: Job) -> None:
    """Keep a job under its name; stop and forget what was there, and the oldest ones."""
    kept = _jobs()
    for old in [name, *list(kept)[: max(0, len(kept) - MAX_JOBS + 1)]]:
        if old in kept:
            kept.pop(old)[1].stop()
    kept[name] = (about, job)


def _jobs() -> dict[str, tuple[Hashable, Job]]:
    return st.session_state.setdefault("jobs", {})
