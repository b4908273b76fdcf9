"""Attempts at a unit: who works on it now, who failed, and when nobody should try again.

An attempt is a file that only one process can make, touched while it is under way. One that ends
without a commit leaves a verdict. A unit that failed `LIMIT` times, or in a way that would only
repeat itself, is given up, which ends loops under any engine. An attempt without a verdict was
killed together with whoever watched it; that says nothing about its unit, so it is tried again,
after all others.
"""

import socket
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field

import psutil

from interp.store.commits import committed
from interp.store.files import StoreFiles
from interp.store.naming import (
    ATTEMPTS,
    FAILED,
    attempt_path,
    failed_path,
    new_attempt,
    unit_and_group,
    verdict_path,
)
from interp.store.records import built
from interp.store.sealed import seal, unseal

LIMIT = 3
"""Failures after which a unit is given up."""
STALE_SECONDS = 600.0
"""An attempt on another machine that has not been touched for so long is taken for dead."""
TOUCH_SECONDS = 10.0

Work = tuple[int, str]
"""A unit and a group of hooks."""


@dataclass(frozen=True)
class Worker:
    """A process, so that others can find out whether it lives."""

    host: str
    pid: int
    started: float
    """Seconds since 1970."""

    @classmethod
    def of(cls, pid: int | None = None) -> "Worker":
        """A process of this machine; the one that asks."""
        process = psutil.Process(pid)
        return cls(socket.gethostname(), process.pid, process.create_time())

    def has_died(self) -> bool:
        """Whether it was on this machine and is gone."""
        if self.host != socket.gethostname():
            return False
        try:
            return psutil.Process(self.pid).create_time() != self.started
        except psutil.NoSuchProcess:
            return True


@dataclass(frozen=True)
class Verdict:
    """How an attempt ended without a commit."""

    reason: str
    counts: bool
    """False for one that was stopped and says nothing about its unit."""


@dataclass
class Attempt:
    """One try at a unit, by this process."""

    files: StoreFiles
    unit: int
    group: str
    number: int
    """Counted from 1."""
    name: str = field(default_factory=new_attempt)
    """Part of the names of its files."""
    _touched: float = field(default_factory=time.monotonic)

    def begin(self) -> bool:
        """Take the unit; False if another process was faster."""
        path = attempt_path(self.unit, self.group, self.number)
        if self.files.size(path) is not None:  # asking is cheaper than trying
            return False
        return self.files.write_once(path, seal(asdict(Worker.of())))

    def heartbeat(self) -> None:
        """Say that the work goes on; cheap enough for every batch."""
        if time.monotonic() - self._touched > TOUCH_SECONDS:
            self._touched = time.monotonic()
            self.files.touch(attempt_path(self.unit, self.group, self.number))

    def fail(self, reason: str, *, permanent: bool) -> None:
        """Note why the unit was not committed.

        Args:
            permanent: Another attempt would end the same way, so none is made.
        """
        _judge(self.files, (self.unit, self.group), self.number, Verdict(reason, counts=True))
        if permanent:
            give_up(self.files, (self.unit, self.group), [reason])

    def stop(self) -> None:
        """Note that the attempt was stopped, so that the next one need not wait."""
        stopped = Verdict("stopped", counts=False)
        _judge(self.files, (self.unit, self.group), self.number, stopped)


def failures(files: StoreFiles) -> dict[Work, list[str]]:
    """Units that are given up, and why."""
    found = {}
    for name in files.names(FAILED):
        if place := unit_and_group(name):
            path = f"{FAILED}/{name}"
            content = unseal(files.read(path), path)
            found[place[:2]] = [str(reason) for reason in content.get("reasons", [])]
    return found


def forget_failures(files: StoreFiles) -> None:
    """Let units that were given up be tried again."""
    numbers = _numbers(files)
    for work in failures(files):
        for number in numbers.get(work, []):
            files.remove(attempt_path(*work, number))
            files.remove(verdict_path(*work, number))
        files.remove(failed_path(*work))


@dataclass(frozen=True)
class Open:
    """Units that are neither committed nor given up."""

    free: list[Attempt]
    """The next attempt at each that nobody works on; units whose last worker was killed come
    last."""
    taken: list[Work]
    """Units that somebody works on."""


def open_work(files: StoreFiles, every: Iterable[Work]) -> Open:
    """What is left to do of all work, now."""
    done = committed(files) | failures(files).keys()
    numbers = _numbers(files)
    free: list[Attempt] = []
    suspects: list[Attempt] = []
    taken: list[Work] = []
    for work in every:
        if work in done:
            continue
        last = max(numbers.get(work, [0]))
        following = Attempt(files, *work, last + 1)
        if last == 0 or _verdict(files, work, last) is not None:
            free.append(following)
        elif _is_alive(files, work, last):
            taken.append(work)
        else:
            suspects.append(following)
    return Open(free + suspects, taken)


def blame(files: StoreFiles, worker: Worker, reason: str) -> int:
    """Give a verdict on what a worker, which has died, was working on; how many units that was."""
    done = committed(files)
    held = [
        (work, max(numbers))
        for work, numbers in _numbers(files).items()
        if work not in done
        and _verdict(files, work, max(numbers)) is None
        and _worker(files, work, max(numbers)) == worker
    ]
    for work, number in held:
        _judge(files, work, number, Verdict(reason, counts=True))
    return len(held)


def give_up(files: StoreFiles, work: Work, reasons: list[str]) -> None:
    """Note that a unit is not tried again."""
    files.write_once(failed_path(*work), seal({"reasons": reasons}))


def _judge(files: StoreFiles, work: Work, number: int, verdict: Verdict) -> None:
    files.write_once(verdict_path(*work, number), seal(asdict(verdict)))
    reasons = [v.reason for v in _verdicts(files, work, number) if v.counts]
    if len(reasons) >= LIMIT:
        give_up(files, work, reasons)


def _verdicts(files: StoreFiles, work: Work, last: int) -> Iterator[Verdict]:
    for number in range(1, last + 1):
        if verdict := _verdict(files, work, number):
            yield verdict


def _verdict(files: StoreFiles, work: Work, number: int) -> Verdict | None:
    path = verdict_path(*work, number)
    with suppress(FileNotFoundError):
        return built(Verdict, unseal(files.read(path), path), path)
    return None


def _worker(files: StoreFiles, work: Work, number: int) -> Worker:
    path = attempt_path(*work, number)
    return built(Worker, unseal(files.read(path), path), path)


def _is_alive(files: StoreFiles, work: Work, number: int) -> bool:
    fresh = files.seconds_since_change(attempt_path(*work, number)) < STALE_SECONDS
    return fresh and not _worker(files, work, number).has_died()


def _numbers(files: StoreFiles) -> dict[Work, list[int]]:
    """Numbers of the attempts at each unit."""
    numbers = defaultdict(list)
    for name in files.names(ATTEMPTS):
        place = unit_and_group(name)
        if place and place[2].isdecimal():
            numbers[place[:2]].append(int(place[2]))
    return dict(numbers)
