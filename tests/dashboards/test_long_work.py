"""The door to a long computation: its cost, its progress, stopping it, and settings that change."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from dashboards import state
from dashboards.jobs import Job
from dashboards.turns import Turns
from interp.errors import PromptError

SECONDS = 10


class World:
    """What the little page below computes, steered by the test."""

    def __init__(self) -> None:
        self.gate = threading.Semaphore(0)
        self.jobs: list[Job] = []
        self.problem = ""

    def begin(self, about: str) -> Job:
        job = Job(lambda progress: self._work(about, progress), Turns())
        self.jobs.append(job)
        return job.start()

    def _work(self, about: str, progress: Callable[..., Any]) -> str:
        done = 0
        for _ in progress(range(4), "Counting"):
            assert self.gate.acquire(timeout=SECONDS)
            done += 1
        if self.problem:
            raise PromptError(self.problem)
        return f"{about}: {done}"


def opened(script: Callable[[], None], world: World) -> AppTest:
    page = AppTest.from_function(script, default_timeout=30)
    page.session_state["world"] = world
    return page.run()


def little_page() -> None:
    import streamlit as st

    from dashboards.components.long_work import long_work

    about, world = st.session_state.get("about", "first"), st.session_state["world"]
    job = long_work(
        "count", about, lambda: world.begin(about), cost="4 steps.",
        at_once=st.session_state.get("at_once", False),
    )  # fmt: skip
    st.text("nothing" if job is None else job.result)


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    for job in world.jobs:
        job.stop()
    world.gate.release(1 + 4 * len(world.jobs))
    for job in world.jobs:
        assert job.wait(SECONDS)


@pytest.fixture
def page(world: World) -> AppTest:
    return opened(little_page, world)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def finish(world: World, index: int, steps: int = 4) -> None:
    job = world.jobs[index]
    world.gate.release(steps)
    assert job.wait(SECONDS)


def shown(page: AppTest) -> str:
    assert not page.exception
    return page.text[0].value


def test_the_cost_stands_before_the_start(page, world):
    assert page.caption[0].value == "4 steps."
    assert shown(page) == "nothing"
    assert world.jobs == []


def test_progress_is_shown_then_the_result(page, world):
    page.button(key="start_count").click().run()
    until(lambda: world.jobs[0].look().total == 4)
    world.gate.release(2)
    until(lambda: world.jobs[0].look().done == 2)
    page.run()
    assert page.button(key="stop_count").label == "Stop"
    progress = page.get("progress")[0].proto
    assert progress.value == 50
    assert progress.text.startswith("Counting 2 of 4 steps, ")
    finish(world, 0, 2)
    page.run()
    assert shown(page) == "first: 4"
    assert len(world.jobs) == 1


def test_stop_says_so_and_keeps_what_is_finished(page, world):
    page.button(key="start_count").click().run()
    until(lambda: world.jobs[0].look().total == 4)
    page.button(key="stop_count").click().run()
    assert page.button(key="stop_count").disabled
    assert page.get("progress")[0].proto.text.startswith("Stopping after the step under way")
    finish(world, 0, 1)
    page.run()
    assert shown(page) == "first: 1"
    assert page.warning[0].value.startswith("Stopped: what was finished is shown")
    page.button(key="again_count").click().run()
    assert len(world.jobs) == 2
    finish(world, 1)
    page.run()
    assert shown(page) == "first: 4"
    assert not page.warning


def test_other_settings_never_show_the_results_of_these(page, world):
    page.button(key="start_count").click().run()
    finish(world, 0)
    page.run()
    assert shown(page) == "first: 4"
    page.session_state["about"] = "second"
    page.run()
    assert shown(page) == "nothing"
    page.session_state["about"] = "first"
    page.run()
    assert shown(page) == "first: 4"


def test_a_new_start_stops_what_it_replaces(page, world):
    page.button(key="start_count").click().run()
    page.session_state["about"] = "second"
    page.run()
    assert not world.jobs[0].stopping
    page.button(key="start_count").click().run()
    assert world.jobs[0].stopping
    assert not world.jobs[1].stopping
    world.gate.release(1)
    assert world.jobs[0].wait(SECONDS)
    finish(world, 1)
    page.run()
    assert shown(page) == "second: 4"


def test_a_failure_is_a_sentence_and_the_start_is_offered_again(page, world):
    world.problem = "Pair 0 does **not** differ."
    page.button(key="start_count").click().run()
    finish(world, 0)
    page.run()
    assert page.code[0].value == "Pair 0 does **not** differ."
    assert shown(page) == "nothing"
    world.problem = ""
    page.button(key="start_count").click().run()
    finish(world, 1)
    page.run()
    assert shown(page) == "first: 4"


def test_work_of_a_moment_begins_without_being_asked(page, world):
    world.gate.release(4)
    page.session_state["at_once"] = True
    page.run()
    assert shown(page) == "first: 4"
    page.run()
    assert len(world.jobs) == 1


def test_work_of_a_moment_that_fails_is_not_begun_again_and_again(page, world):
    world.problem = "It fails."
    world.gate.release(4)
    page.session_state["at_once"] = True
    page.run()
    page.run()
    assert len(world.jobs) == 1
    assert page.code[0].value == "It fails."


def keeping_page() -> None:
    import streamlit as st

    from dashboards import state

    if "kept" not in st.session_state:
        st.session_state["kept"] = True
        for number in range(state.MAX_JOBS + 1):
            state.keep_job(f"job {number}", "x", st.session_state["world"].begin(str(number)))
    found = [state.job(f"job {number}", "x") is not None for number in range(state.MAX_JOBS + 1)]
    st.text(str(found))
    st.text(str(state.job("job 1", "other settings")))


def test_a_session_keeps_its_newest_jobs_and_stops_the_oldest(world):
    kept = opened(keeping_page, world)
    assert shown(kept) == str([False, *[True] * state.MAX_JOBS])
    assert kept.text[1].value == "None"
    assert [job.stopping for job in world.jobs] == [True, *[False] * state.MAX_JOBS]
