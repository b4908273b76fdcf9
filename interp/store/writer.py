"""Units of work: run the model over a unit's tokens and commit what it computed.

The model runs in the calling thread. Casting, checking, hashing, writing and fsync happen in a
thread of their own, behind a queue of a few batches: the two overlap, memory stays flat, and a slow
disk holds the model back instead of filling memory.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from interp.errors import ResourceError, UnknownOutcomeError
from interp.model.gpt2 import HookedGPT2
from interp.store.attempts import Attempt
from interp.store.casting import UnstorableError, cast
from interp.store.commits import Commit, HookCommit, withdraw, write_commit
from interp.store.moments import Moments
from interp.store.naming import shard_path
from interp.store.planned import PlannedStore
from interp.store.recording import batches, record_rows
from interp.store.shard_layout import ShardRecord
from interp.store.shards import ShardWriter
from interp.store.spec import DTYPES, HookLayout

QUEUE_LENGTH = 2
"""Batches that wait to be written."""
IDLE_SECONDS = 0.1
"""Between two looks for work."""


@dataclass
class Tally:
    """How far a run is; `watch` gets it after every batch."""

    n_tokens: int = 0
    """Tokens run, also of units that failed."""
    n_committed: int = 0
    """Units committed."""
    reasons: list[str] = field(default_factory=list)
    """Why attempts failed."""
    seconds_of_model: float = 0.0
    seconds_waiting_for_disk: float = 0.0
    """Time in which the model could not go on because the queue was full."""


Watch = Callable[[Tally], None]
"""Told how far a run is. What it raises stops the run, and the unit under way is given up."""


def no_watch(tally: Tally) -> None:
    """Look away."""


def run_units(
    attempts: Iterable[Attempt | None],
    store: PlannedStore,
    model: HookedGPT2,
    watch: Watch = no_watch,
) -> Tally:
    """Run units and commit them, each as one attempt; None among them is a moment without work.

    A unit that cannot be computed or stored is noted as failed, and the next one is tried.

    Raises:
        ResourceError: a disk is full or broken; nothing more is tried.
    """
    tally = Tally()
    # The disk is behind the model: of these units some wait in the queue, one is under way.
    units: deque[UnitWriter] = deque(maxlen=QUEUE_LENGTH + 2)
    try:
        with Background(QUEUE_LENGTH) as disk:
            for attempt in attempts:
                if attempt is None:
                    disk.settle()  # what it commits may be all that was left
                    watch(tally)
                    continue
                units.append(unit := UnitWriter(attempt, store, tally))
                unit.begin()
                for rows in unit.rows(model):
                    tally.seconds_waiting_for_disk += disk.put(unit.append, rows)
                    attempt.heartbeat()
                    watch(tally)
                disk.put(unit.finish)
    finally:
        for unit in units:
            unit.give_up()
    return tally


class UnitWriter:
    """One unit on its way to disk: `rows` runs in the model's thread, all else in the disk's."""

    def __init__(self, attempt: Attempt, store: PlannedStore, tally: Tally) -> None:
        self.attempt, self.store, self.tally = attempt, store, tally
        self.unit = store.plan.units[attempt.unit]
        self.layouts = store.groups[attempt.group].hooks
        self.reason = ""
        """Why the unit failed, once it has."""
        self.seconds = {"model": 0.0, "disk": 0.0}
        self._permanent = False
        self._n_written = 0
        self._is_over = False
        self._shards: dict[str, ShardWriter] = {}
        self._published: dict[str, ShardRecord] = {}
        self._moments = {hook.name: Moments(hook.feature) for hook in self.layouts}
        self._rounding = {hook.name: 0.0 for hook in self.layouts}

    def begin(self) -> None:
        """Open the shards."""
        for hook in self.layouts:
            self._shards[hook.name] = self._begin_shard(hook)

    def _begin_shard(self, hook: HookLayout) -> ShardWriter:
        path = shard_path(hook.name, self.attempt.unit, self.attempt.name)
        metadata = {"group": self.attempt.group, "spec_sha": self.store.spec.sha}
        return ShardWriter(
            self.store.files.begin(path),
            hook=hook.name,
            unit=self.attempt.unit,
            n_rows=self.unit.n_rows,
            feature=hook.feature,
            dtype=DTYPES[hook.dtype],
            metadata=metadata,
        )

    def rows(self, model: HookedGPT2) -> Iterator[dict[str, Tensor]]:
        """What is stored of each batch; ends early when the unit has failed."""
        try:
            tokens = self.store.tokens(self.attempt.unit)
            for batch in batches(tokens, self.store.spec.batch_tokens):
                if self.reason:
                    return
                started = time.perf_counter()
                rows = record_rows(model, batch, self.layouts)
                seconds = time.perf_counter() - started
                self.seconds["model"] += seconds
                self.tally.seconds_of_model += seconds
                self.tally.n_tokens += batch.n_tokens
                yield rows
        except ResourceError:
            raise
        except Exception as error:  # noted in the attempt's verdict; the other units go on
            self.reason = f"{type(error).__name__}: {error}"

    def append(self, rows: Mapping[str, Tensor]) -> None:
        """Cast, check and write the rows of a batch."""
        if self.reason:
            return
        started = time.perf_counter()
        for hook in self.layouts:
            try:
                stored, change = cast(rows[hook.name], DTYPES[hook.dtype])
            except UnstorableError as error:
                self.reason = self._located(error, hook)
                self._permanent = True
                return
            self._rounding[hook.name] = max(self._rounding[hook.name], change)
            self._moments[hook.name].add(rows[hook.name])
            self._shards[hook.name].append(stored)
        self._n_written += len(rows[self.layouts[0].name])
        self.seconds["disk"] += time.perf_counter() - started

    def _located(self, error: UnstorableError, hook: HookLayout) -> str:
        """Which activation of which token cannot be stored, and what to do."""
        tokens = self.store.tokens(self.attempt.unit)
        stored = tokens.filter(tokens["row"].is_valid())
        token = stored.slice(self._n_written + error.row, 1).to_pylist()[0]
        return (
            f"{hook.name} at document {token['document']}, position {token['pos']} (token id "
            f"{token['token_id']}): {error}. Collect into a new folder with --dtype bf16 or fp32, "
            "or leave this hook out."
        )

    def finish(self) -> None:
        """Publish the shards and commit the unit, or note why it failed."""
        if self.reason:
            self._discard()
            self.tally.reasons.append(f"unit {self.attempt.unit}: {self.reason}")
            self.attempt.fail(self.reason, permanent=self._permanent)
            self._is_over = True
            return
        started = time.perf_counter()
        for name, shard in self._shards.items():
            self._published[name] = shard.finish(self._moments[name])
        self.seconds["disk"] += time.perf_counter() - started
        commit = self._commit()
        try:
            is_ours = write_commit(self.store.files, commit)
        except UnknownOutcomeError:
            self._published = {}  # they stay: the commit may yet come to light
            raise
        if is_ours:
            self.tally.n_committed += 1
        else:  # another attempt was faster, with the same numbers
            withdraw(self.store.files, commit)
        self._is_over = True

    def _commit(self) -> Commit:
        return Commit(
            spec_sha=self.store.spec.sha,
            unit=self.attempt.unit,
            group=self.attempt.group,
            n_rows=self.unit.n_rows,
            tokens_xxh3=self.unit.tokens_xxh3,
            hooks={
                name: HookCommit.of(shard, self._moments[name], self._rounding[name])
                for name, shard in self._published.items()
            },
            attempt=self.attempt.name,
            seconds=self.seconds,
        )

    def give_up(self) -> None:
        """Leave nothing behind of a unit that did not finish."""
        if self._is_over:
            return
        self._is_over = True
        self._discard()
        with suppress(ResourceError):  # the disk's error, if it had one, is raised already
            withdraw(self.store.files, self._commit())
            self.attempt.stop()

    def _discard(self) -> None:
        for shard in self._shards.values():
            shard.discard()


class Background:
    """A thread that does jobs in order, behind a queue of bounded length.

    Leaving the block waits for the jobs, also when it is left by an exception.
    """

    def __init__(self, length: int) -> None:
        self._jobs: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]] | None]
        self._jobs = queue.Queue(length)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="store writer", daemon=True)

    def __enter__(self) -> "Background":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._jobs.put(None)
        self._thread.join()
        if self._error and kind is None:
            raise self._error

    def put(self, job: Callable[..., None], *arguments: object) -> float:
        """Queue a job; returns the seconds waited for a place.

        Raises:
            What an earlier job raised; no later one is done.
        """
        started = time.perf_counter()
        self._jobs.put((job, arguments))
        if self._error:
            raise self._error
        return time.perf_counter() - started

    def settle(self) -> None:
        """Wait for all jobs, or a moment if there are none.

        Raises:
            What one of them raised.
        """
        if not self._jobs.unfinished_tasks:
            time.sleep(IDLE_SECONDS)
        self._jobs.join()
        if self._error:
            raise self._error

    def _work(self) -> None:
        while (entry := self._jobs.get()) is not None:
            job, arguments = entry
            try:
                if not self._error:
                    job(*arguments)
            except BaseException as error:  # raised in the thread that queues the jobs
                self._error = error
            self._jobs.task_done()
