"""Collect on a Ray cluster: Ray places the workers and hands them numbers of units, nothing more.

Each actor holds the model and writes shards itself, so that no activation enters Ray's object
store. Ray is never asked whether a unit is done: the commit records say that. It restarts nothing
either. When an actor dies its unit gets a verdict, as with local workers, so that a unit which
kills its worker is given up after a few attempts.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from interp.errors import InterpError, StoreError
from interp.model.gpt2 import HookedGPT2
from interp.store.attempts import LIMIT, Work, Worker, blame, open_work
from interp.store.planned import PlannedStore
from interp.store.workers import sum_of
from interp.store.writer import Tally, Watch, run_units

try:
    import ray
    from ray.exceptions import RayActorError, RayTaskError
except ImportError as error:
    raise StoreError(
        'The ray runner needs Ray: pip install "interp[ray]". Without it, use --runner local or '
        "slurm."
    ) from error

SECONDS_BETWEEN_LOOKS = 1.0


class UnitActor:
    """A worker process that Ray has placed somewhere."""

    def __init__(self, store: PlannedStore, model: HookedGPT2) -> None:
        self.store, self.model = store, model

    def worker(self) -> Worker:
        """The process, so that others can tell whether it lives."""
        return Worker.of()

    def run_unit(self, work: Work) -> Tally:
        """Run a unit, unless somebody else has it by now."""
        attempts = open_work(self.store.files, [work]).free
        return run_units(
            [attempt for attempt in attempts if attempt.begin()], self.store, self.model
        )


@dataclass
class Crew:
    """The actors of one run."""

    store: PlannedStore
    actor_class: Any
    """Ray's class around `UnitActor`."""
    model: Any
    """Ray's reference to the model: one copy for each machine."""
    tally: Tally = field(default_factory=Tally)
    idle: list[tuple[Any, Worker]] = field(default_factory=list)
    busy: dict[Any, tuple[Any, Worker, Work]] = field(default_factory=dict)
    """What each task that is under way runs on, and for which unit."""
    n_idle_deaths: int = 0

    def hire(self) -> None:
        """Start an actor and wait until it has the model.

        Raises:
            StoreError: none lives so long.
        """
        while True:
            actor = self.actor_class.remote(self.store, self.model)
            try:
                self.idle.append((actor, ray.get(actor.worker.remote())))
                return
            except RayActorError as error:
                self.n_idle_deaths += 1
                if self.n_idle_deaths >= LIMIT:
                    raise StoreError(f"Ray's workers die before they begin: {error}") from error

    def hand_out(self) -> bool:
        """Give units to idle actors; False when nothing is left to do or to wait for."""
        left = open_work(self.store.files, self.store.work)
        handed_out = {work for _, _, work in self.busy.values()}
        free = [(a.unit, a.group) for a in left.free if (a.unit, a.group) not in handed_out]
        while free and self.idle:
            actor, worker = self.idle.pop()
            work = free.pop(0)
            self.busy[actor.run_unit.remote(work)] = actor, worker, work
        return bool(self.busy or free or left.taken)

    def look(self) -> None:
        """Wait a moment for a task to end, well or badly."""
        if not self.busy:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            return
        done, _ = ray.wait(list(self.busy), timeout=SECONDS_BETWEEN_LOOKS)
        for task in done:
            actor, worker, _ = self.busy.pop(task)
            try:
                self.tally = sum_of([self.tally, ray.get(task)])
            except RayActorError:
                self.tally.reasons.append("its process on the cluster died")
                blame(self.store.files, worker, "its process on the cluster died")
                self.hire()
            except RayTaskError as error:
                if isinstance(error.cause, InterpError):
                    raise error.cause from error
                raise
            else:
                self.idle.append((actor, worker))


def run(store: PlannedStore, model: HookedGPT2, n_workers: int, watch: Watch) -> Tally:
    """Run all open units on a cluster: the one that RAY_ADDRESS names, or one of this machine.

    Raises:
        ResourceError: a disk is full or broken.
        StoreError: workers die before they do anything.
    """
    on_gpu = model.cfg.device.type == "cuda"
    with cluster(n_workers):
        actor_class = ray.remote(max_restarts=0, max_task_retries=0, num_gpus=int(on_gpu))
        crew = Crew(store, actor_class(UnitActor), ray.put(model))
        for _ in range(n_workers):
            crew.hire()
        while crew.hand_out():
            crew.look()
            watch(crew.tally)
    return crew.tally


@contextmanager
def cluster(n_workers: int) -> Iterator[None]:
    """A connection to Ray, if there is none yet; what was started here is ended here."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    n_cpus = None if "RAY_ADDRESS" in os.environ else n_workers
    ray.init(
        num_cpus=n_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        yield
    finally:
        ray.shutdown()
