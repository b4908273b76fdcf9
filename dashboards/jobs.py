"""Long computations: each in a thread of its own, in steps, with progress, and stoppable.

A job outlives the page that shows it. When it is stopped, the library returns what is finished,
marked partial, and the job keeps it.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dashboards.turns import Turns
from interp.errors import InterpError

ABANDONED_SECONDS = 600
"""A job that no page has looked at for so long stops itself."""

logger = logging.getLogger(__name__)


Report = Callable[[str, int, int], None]
"""`Job.report`, as work gets it: description, steps done, steps in all (0: not known)."""


class StoppedError(Exception):
    """Ends work that was asked to stop."""


@dataclass(frozen=True)
class At:
    """Where a job is."""

    description: str
    done: int
    total: int


class Job:
    """One computation under way, or what came of it.

    Args:
        work: Takes `progress`, and returns the result.
        turns: Held while a step is computed, given away between steps.
        abandoned_seconds: It stops itself after so long without a look.
    """

    def __init__(
        self, work: Callable[..., Any] | None, turns: Turns, *,
        abandoned_seconds: float = ABANDONED_SECONDS,
    ) -> None:  # fmt: skip
        self.at = At("Waiting for its turn", 0, 0)
        self.state: Literal["running", "finished", "stopped", "failed"] = "running"
        self.result: Any = None
        self.problem = ""
        """A sentence, when it failed."""
        self.seconds = 0.0
        self._work, self._turns, self._abandoned_seconds = work, turns, abandoned_seconds
        self._stop, self._cut_short = threading.Event(), False
        self._begun = self._seen = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True, name="interp job")

    @classmethod
    def of_result(cls, result: Any) -> "Job":
        """A job that has nothing left to do."""
        job = cls(None, Turns())
        job.state, job.result = "finished", result
        return job

    def start(self) -> "Job":
        """Begin; returns at once."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End after the step under way, and keep what is finished."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._stop.is_set()

    def wait(self, seconds: float) -> bool:
        """Whether it has ended within this time."""
        if self.state == "running":
            self._thread.join(seconds)
        return self.state != "running"

    def look(self) -> At:
        """Where it is; a job that nobody looks at stops itself."""
        self._seen = time.monotonic()
        return self.at

    @property
    def running_seconds(self) -> float:
        """How long it has been running, or ran."""
        return time.monotonic() - self._begun if self.state == "running" else self.seconds

    def report(self, description: str, done: int, total: int) -> None:
        """Say where the work is, and let others in: for a library that tells how far it is.

        Raises:
            StoppedError: it was asked to stop; the work lets it through.
        """
        self._turns.give_way()
        self.at = At(description, done, total)
        if self._stop.is_set():
            raise StoppedError

    def _steps(self, steps: Sequence[Any], description: str) -> Iterator[Any]:
        """The `progress` of the library: gives out steps, one turn each, until it is stopped."""
        for done, step in enumerate(steps):
            self._turns.give_way()
            if time.monotonic() - self._seen > self._abandoned_seconds:
                self.stop()
            if self._stop.is_set():
                self._cut_short = True
                return
            self.at = At(description, done, len(steps))
            yield step
        self.at = At(description, len(steps), len(steps))

    def _run(self) -> None:
        try:
            with self._turns:
                self.at = At("Preparing", 0, 0)
                assert self._work is not None
                self.result = self._work(progress=self._steps)
            ended = "stopped" if self._cut_short else "finished"
        except StoppedError:
            ended = "stopped"
        except InterpError as error:
            self.problem, ended = str(error), "failed"
        except Exception as error:
            logger.exception("A job failed")
            self.problem, ended = f"{type(error).__name__}; the terminal has the details.", "failed"
        self.seconds = time.monotonic() - self._begun
        self.state = ended
