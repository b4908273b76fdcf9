"""The one door to models: it loads them, runs them one at a time, and remembers answers.

A question is a function of a model and of plain hashable arguments (token ids, numbers, names), so
that an answer is remembered under the hash of the weights and those arguments, never under arrays.
Everything remembered is bounded.
"""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial, singledispatch
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import torch
import xarray as xr
from cachetools import LRUCache

from dashboards.jobs import Job, Report
from dashboards.turns import Turns
from interp.errors import InterpError
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import EMBEDDED, load
from interp.model.weights import model_hash

MODELS_KEPT = 2
ANSWERS_BYTES = 256 * 2**20
"""Of remembered answers, all together."""
WORKS_KEPT = 64
SMALL = 1024
"""Bytes counted for an answer that is only a few numbers."""

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Loaded:
    """A model that is ready."""

    name: str
    """What `interp.load` was given."""
    model: HookedGPT2
    hash: str
    seconds: float
    """How long loading took."""


@singledispatch
def n_bytes(answer: object) -> int:  # noqa: ARG001
    """Memory of an answer."""
    return SMALL


@n_bytes.register
def _(answer: xr.Dataset) -> int:
    return SMALL + answer.nbytes


@n_bytes.register
def _(answer: xr.DataArray) -> int:
    return SMALL + answer.nbytes


@n_bytes.register
def _(answer: pd.DataFrame) -> int:
    return SMALL + int(answer.memory_usage(deep=True).sum())


@n_bytes.register
def _(answer: tuple) -> int:
    return SMALL + sum(map(n_bytes, answer))


class Service:
    """Models and what was asked of them, shared by all sessions.

    Args:
        first_model: Shown until somebody chooses another.
        store_root: The only folder under which activation stores are opened and made.
    """

    def __init__(self, first_model: str = EMBEDDED, store_root: Path | None = None) -> None:
        self.first_model = first_model
        self.store_root = store_root
        self._turns = Turns()
        self._loading = threading.Lock()
        self._remembering = threading.Lock()
        self._models: LRUCache[str, Loaded] = LRUCache(MODELS_KEPT)
        self._answers: LRUCache[Hashable, Any] = LRUCache(ANSWERS_BYTES, getsizeof=n_bytes)
        self._works: dict[str, Job] = {}

    def loaded(self, name: str) -> Loaded:
        """A model by what `interp.load` takes: kept, or loaded now.

        Raises:
            InterpError: it cannot be loaded; the message says why.
        """
        with self._loading:
            found = self._models.get(name)
            if found is None:
                begun = time.monotonic()
                device = "cuda" if torch.cuda.is_available() else None
                model = load(name, device=device)
                seconds = time.monotonic() - begun
                found = Loaded(name, model, model_hash(model), seconds)
                self._models[name] = found
            return found

    @property
    def names(self) -> list[str]:
        """The models that are kept, by name."""
        with self._loading:
            return list(self._models)

    def answer(
        self, loaded: Loaded, question: Callable[..., Answer], *arguments: Hashable
    ) -> Answer:
        """`question(model, *arguments)`, remembered.

        Raises:
            InterpError: whatever the question raises; nothing is remembered then.
        """
        key = (loaded.hash, question, arguments)
        missing = object()
        answer = self._remembered(key, missing)
        if answer is not missing:
            return answer
        with self._turns:
            answer = self._remembered(key, missing)  # another session may have asked meanwhile
            if answer is missing:
                answer = question(loaded.model, *arguments)
                self._remember(key, answer)
            return answer

    def start(self, loaded: Loaded, question: Callable[..., Any], *arguments: Hashable) -> Job:
        """The same in the background, for a question that takes `progress`."""
        key = (loaded.hash, question, arguments)
        missing = object()
        answer = self._remembered(key, missing)
        if answer is not missing:
            return Job.of_result(answer)
        job = Job(partial(self._asked, key, loaded, question, arguments), self._turns)
        return job.start()

    def run(self, name: str, work: Callable[[Report], Any]) -> Job:
        """Work in the background that is not remembered as an answer, but under a name.

        All sessions see it, it goes on when nobody looks, and it ends when it is stopped.

        Raises:
            InterpError: work of this name is under way.
        """
        with self._remembering:
            before = self._works.pop(name, None)
            if before is not None and before.state == "running":
                self._works[name] = before
                raise InterpError(f"{before.at.description}: wait for its end, or stop it first.")
            ended = [key for key, job in self._works.items() if job.state != "running"]
            for old in ended[: max(0, len(self._works) - WORKS_KEPT + 1)]:
                del self._works[old]
            job = Job(lambda progress: work(job.report), self._turns)  # noqa: ARG005
            self._works[name] = job
            return job.start()

    def work(self, name: str) -> Job | None:
        """What was last run under a name, under way or ended."""
        with self._remembering:
            return self._works.get(name)

    def _asked(
        self, key: Hashable, loaded: Loaded, question: Callable[..., Any],
        arguments: tuple[Hashable, ...], *, progress: Callable[..., Any],
    ) -> Any:  # fmt: skip
        stopped = False

        def watched(steps: Any, description: str) -> Any:
            nonlocal stopped
            n_given = 0
            for step in progress(steps, description):
                yield step
                n_given += 1
            stopped |= n_given < len(steps)

        answer = question(loaded.model, *arguments, progress=watched)
        if not stopped:
            self._remember(key, answer)
        return answer

    def _remembered(self, key: Hashable, missing: object) -> Any:
        with self._remembering:
            return self._answers.get(key, missing)

    def _remember(self, key: Hashable, answer: Any) -> None:
        with self._remembering:
            if n_bytes(answer) <= self._answers.maxsize:
                self._answers[key] = answer

    @property
    def remembered_bytes(self) -> int:
        """Memory of all remembered answers."""
        return int(self._answers.currsize)


_begun: list[Service] = []
"""The service of this process, once there is one."""


def service() -> Service:
    """The service of this process; one of the embedded model if none was begun."""
    return _begun[0] if _begun else begin()


def begin(first_model: str = EMBEDDED, store_root: Path | None = None) -> Service:
    """Set the service up and load its model, before the first page.

    Raises:
        InterpError: the model cannot be loaded; what was there before stays.
    """
    made = Service(first_model, store_root)
    made.loaded(first_model)
    _begun[:] = [made]
    return made
