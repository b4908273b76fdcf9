"""Who does which unit: any number of processes, on any number of machines, over one store.

A worker takes the first unit that is neither committed nor given up, and that nobody works on; it
needs to know nothing about the others. Local workers are processes that share the model's weights
and are watched by the process that started them: when one is killed, its unit gets a verdict and
another worker takes its place. What is complete is what the commit records say.
"""

import copy
import multiprocessing as mp
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import cast

import torch

from interp.errors import InterpError, StoreError
from interp.model.gpt2 import HookedGPT2
from interp.store.attempts import LIMIT, Attempt, Worker, blame, open_work
from interp.store.planned import PlannedStore
from interp.store.writer import Tally, Watch, run_units

SECONDS_TO_STOP = 10.0


def pull(store: PlannedStore, *, patient: bool = True) -> Iterator[Attempt | None]:
    """Attempts at units, until none is left; None when there is nothing to do for now.

    Args:
        patient: Stay while others hold the last units, in case they die.
    """
    while True:
        left = open_work(store.files, store.work)
        begun = (attempt for attempt in left.free if attempt.begin())
        yield from begun
        if not left.free and not (left.taken and patient):
            return
        yield None


def run_processes(
    store: PlannedStore, model: HookedGPT2, n_workers: int, watch: Watch, *, patient: bool = True
) -> Tally:
    """Run all open units in processes of their own, which are replaced when they are killed.

    Raises:
        ResourceError: a disk is full or broken; all workers are stopped.
        StoreError: workers die before they do anything.
    """
    crew = Crew(store, model, n_workers, patient)
    try:
        while crew.members:
            crew.look()
            watch(crew.tally())
    finally:
        crew.stop()
    return crew.tally()


@dataclass
class Member:
    """A worker process, as the one that started it sees it."""

    number: int
    """Of its place in the crew, which decides its GPU; a replacement takes the same one."""
    process: BaseProcess
    worker: Worker
    receiver: Connection
    tally: Tally


class Crew:
    """The worker processes of one run."""

    def __init__(
        self, store: PlannedStore, model: HookedGPT2, n_workers: int, patient: bool
    ) -> None:
        self.store, self.model, self.patient = store, model, patient
        self.n_threads = max(1, torch.get_num_threads() // n_workers)
        self.context = mp.get_context("spawn")
        self.left = Tally()
        """Of members that are gone."""
        self.n_idle_deaths = 0
        self.members = [self._hire(number) for number in range(n_workers)]

    def _hire(self, number: int) -> Member:
        receiver, sender = self.context.Pipe(duplex=False)
        model = on_device_of(self.model, number)
        process = self.context.Process(
            target=work_in_process,
            args=(self.store, model, self.n_threads, self.patient, sender),
            name=f"store worker {number}",
            daemon=True,
        )
        process.start()
        sender.close()
        return Member(number, process, Worker.of(process.pid or 0), receiver, Tally())

    def tally(self) -> Tally:
        """The work of all members."""
        return sum_of([self.left, *(member.tally for member in self.members)])

    def look(self) -> None:
        """Wait a moment for news, and replace who was killed."""
        by_receiver = {member.receiver: member for member in self.members}
        for receiver in wait(list(by_receiver), timeout=1.0):
            member = by_receiver[cast(Connection, receiver)]
            try:
                news = member.receiver.recv()
            except EOFError:
                self._see_off(member)
            else:
                if isinstance(news, InterpError):
                    raise news
                member.tally = news

    def _see_off(self, member: Member) -> None:
        """A member that ended: well, or killed."""
        member.process.join()
        self.members.remove(member)
        self.left = sum_of([self.left, member.tally])
        code = member.process.exitcode or 0
        if code == 0:
            return
        reason = f"its process was killed by signal {-code}" if code < 0 else f"exit code {code}"
        if not blame(self.store.files, member.worker, reason):
            self.n_idle_deaths += 1
        else:
            self.left.reasons.append(reason)
        if self.n_idle_deaths >= LIMIT:
            raise StoreError(f"Workers die before they begin ({reason}).")
        if open_work(self.store.files, self.store.work).free:
            self.members.append(self._hire(member.number))

    def stop(self) -> None:
        """End all members; each gives up the unit that it is working on."""
        for member in self.members:
            member.process.terminate()
        for member in self.members:
            member.process.join(SECONDS_TO_STOP)
            member.process.kill()


def work_in_process(
    store: PlannedStore, model: HookedGPT2, n_threads: int, patient: bool, sender: Connection
) -> None:
    """What a worker process does. It ends when the one that started it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the crew's owner decides
    signal.signal(signal.SIGTERM, _leave)
    torch.set_num_threads(n_threads)
    try:
        sender.send(run_units(pull(store, patient=patient), store, model, sender.send))
    except InterpError as error:
        sender.send(error)
    except BrokenPipeError:
        sys.exit(1)  # nobody listens any more


def _leave(*_: object) -> None:
    sys.exit(128 + signal.SIGTERM)


def on_device_of(model: HookedGPT2, worker: int) -> HookedGPT2:
    """The model as this worker runs it: where there are several GPUs, on one of its own."""
    if model.cfg.device.type != "cuda" or torch.cuda.device_count() == 1:
        return model
    return copy.deepcopy(model).to(f"cuda:{worker % torch.cuda.device_count()}")


def sum_of(tallies: Iterable[Tally]) -> Tally:
    """All tallies as one."""
    total = Tally()
    for tally in tallies:
        total.n_tokens += tally.n_tokens
        total.n_committed += tally.n_committed
        total.reasons += tally.reasons
        total.seconds_of_model += tally.seconds_of_model
        total.seconds_waiting_for_disk += tally.seconds_waiting_for_disk
    return total
