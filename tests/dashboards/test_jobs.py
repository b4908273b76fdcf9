"""Long computations: fair turns, progress, stopping with what is finished, and failing in words."""

import threading
import time
from collections.abc import Callable
from typing import Any

from dashboards.jobs import Job
from dashboards.turns import Turns
from interp.errors import PromptError

SECONDS = 10
"""More than any of these takes."""


def until(condition: Callable[[], bool]) -> None:
    """Wait for what another thread does."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


class Steps:
    """Work whose steps the test lets through one at a time."""

    def __init__(self, n: int = 5) -> None:
        self.n, self.done = n, 0
        self.gate = threading.Semaphore(0)

    def __call__(self, *, progress: Callable[..., Any]) -> list[int]:
        finished = []
        for step in progress(range(self.n), "Counting"):
            assert self.gate.acquire(timeout=SECONDS)
            finished.append(step)
            self.done += 1
        return finished


def waiting(turns: Turns) -> int:
    return turns._next_ticket - turns._serving - 1


def test_turns_are_taken_in_the_order_of_asking():
    turns, order, threads = Turns(), [], []

    def enter(number: int) -> None:
        with turns:
            order.append(number)

    with turns:
        for number in range(8):
            threads.append(threading.Thread(target=enter, args=(number,)))
            threads[-1].start()
            until(lambda: waiting(turns) == len(threads))
        assert order == []
    for thread in threads:
        thread.join(SECONDS)
    assert order == list(range(8))


def test_giving_way_lets_those_in_who_wait_and_only_them():
    turns, order = Turns(), []

    def enter() -> None:
        with turns:
            order.append("other")

    with turns:
        order.append("first")
        turns.give_way()  # nobody waits: goes on at once
        thread = threading.Thread(target=enter)
        thread.start()
        until(lambda: waiting(turns) == 1)
        turns.give_way()
        order.append("again")
    thread.join(SECONDS)
    assert order == ["first", "other", "again"]


def test_a_turn_is_given_back_when_its_holder_fails():
    turns = Turns()
    for _ in range(2):
        try:
            with turns:
                raise ValueError
        except ValueError:
            pass
    with turns:
        pass


def test_a_job_tells_where_it_is_and_returns_what_it_found():
    steps = Steps(3)
    job = Job(steps, Turns()).start()
    until(lambda: job.look().total == 3)
    assert (job.look().description, job.look().done, job.state) == ("Counting", 0, "running")
    steps.gate.release()
    until(lambda: job.look().done == 1)
    assert not job.wait(0)
    steps.gate.release(2)
    assert job.wait(SECONDS)
    assert (job.state, job.result, job.look().done) == ("finished", [0, 1, 2], 3)
    assert job.running_seconds == job.seconds > 0


def test_others_are_let_in_between_steps():
    turns, steps = Turns(), Steps(2)
    job = Job(steps, turns).start()
    until(lambda: job.look().total == 2)
    entered_after = []

    def enter() -> None:
        with turns:
            entered_after.append(steps.done)

    thread = threading.Thread(target=enter)
    thread.start()
    until(lambda: waiting(turns) == 1)
    assert entered_after == []
    steps.gate.release(2)
    thread.join(SECONDS)
    assert job.wait(SECONDS)
    assert entered_after == [1]


def test_stopping_keeps_the_finished_steps():
    steps = Steps()
    job = Job(steps, Turns()).start()
    steps.gate.release(2)
    until(lambda: steps.done == 2)
    until(lambda: job.look().done == 2)
    job.stop()
    assert job.stopping
    steps.gate.release()
    assert job.wait(SECONDS)
    assert (job.state, job.result) == ("stopped", [0, 1, 2])


def test_a_stop_that_comes_after_the_last_step_changes_nothing():
    steps = Steps(1)
    job = Job(steps, Turns()).start()
    until(lambda: job.look().total == 1)
    job.stop()
    steps.gate.release()
    assert job.wait(SECONDS)
    assert (job.state, job.result) == ("finished", [0])


def test_an_error_that_a_person_can_cause_is_its_own_sentence():
    def fails(*, progress: Callable[..., Any]) -> None:
        raise PromptError("Pair 0 does not differ.")

    job = Job(fails, Turns()).start()
    assert job.wait(SECONDS)
    assert (job.state, job.problem, job.result) == ("failed", "Pair 0 does not differ.", None)


def test_any_other_error_is_named_and_logged_and_frees_the_turn(caplog):
    def fails(*, progress: Callable[..., Any]) -> None:
        raise ZeroDivisionError("secret")

    turns = Turns()
    job = Job(fails, turns).start()
    assert job.wait(SECONDS)
    assert job.problem == "ZeroDivisionError; the terminal has the details."
    assert "secret" in caplog.text
    with turns:
        pass


def test_a_job_that_nobody_looks_at_stops_itself():
    steps = Steps()
    job = Job(steps, Turns(), abandoned_seconds=0.05).start()
    until(lambda: job.at.total == 5)
    time.sleep(0.1)
    steps.gate.release(5)
    assert job.wait(SECONDS)
    assert (job.state, job.result) == ("stopped", [0])


def test_a_job_that_is_looked_at_goes_on():
    steps = Steps()
    job = Job(steps, Turns(), abandoned_seconds=0.5).start()
    for n in range(5):
        time.sleep(0.15)
        job.look()
        steps.gate.release()
        until(lambda n=n: steps.done == n + 1)
    assert job.wait(SECONDS)
    assert job.state == "finished"


def test_a_result_that_is_there_already_needs_no_thread():
    job = Job.of_result(7)
    assert job.wait(0)
    assert (job.state, job.result) == ("finished", 7)
