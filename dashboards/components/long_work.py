"""A long computation on a page: what it will cost, its progress, and a way to stop it."""

from collections.abc import Callable, Hashable

import streamlit as st

from dashboards import state
from dashboards.components import prose
from dashboards.jobs import Job

LOOK_EVERY_SECONDS = 0.5


def long_work(
    name: str, about: Hashable, begin: Callable[[], Job], *, cost: str, label: str = "Start",
    at_once: bool = False,
) -> Job | None:  # fmt: skip
    """Draw the door to a long computation; return it once it has a result to show.

    Args:
        name: Of the computation on its page; letters, digits and underscores.
        about: Everything that its result depends on; another value asks to start anew.
        begin: Starts it, as `Focus.start` does.
        cost: A sentence on how much work it is.
        at_once: Begin without being asked, for work that is done in a moment.

    Returns:
        A job that is finished, or stopped with a part of its result; `None` until then.
    """

    def start() -> None:
        state.keep_job(name, about, begin())

    job = state.job(name, about)
    if job is None and at_once:
        start()
        job = state.job(name, about)
    # Most jobs of the embedded model end before anybody could watch them.
    if job is not None and not job.wait(LOOK_EVERY_SECONDS):
        watch(name, job)
        return None
    if job is None or job.state == "failed":
        if job is not None:
            prose.problem(job.problem)
        st.caption(cost)
        st.button(label, key=f"start_{name}", type="primary", on_click=start)
        return None
    if job.state == "stopped":
        st.warning("Stopped: what was finished is shown, the rest is empty.")
        st.button("Start again", key=f"again_{name}", on_click=start)
    return job if job.result is not None else None


@st.fragment(run_every=LOOK_EVERY_SECONDS)
def watch(name: str, job: Job) -> None:
    """Progress of a job, and a way to stop it; when it ends, the page is drawn anew."""
    if job.state != "running":
        st.rerun()
    at = job.look()
    share = at.done / at.total if at.total else 0.0
    counted = f" {at.done} of {at.total} steps" if at.total else ""
    doing = "Stopping after the step under way" if job.stopping else at.description
    st.progress(share, text=f"{doing}{counted}, {job.running_seconds:.0f} s")
    st.button("Stop", key=f"stop_{name}", on_click=job.stop, disabled=job.stopping)
