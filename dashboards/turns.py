"""A lock that is fair: threads enter in the order in which they asked.

Models are computed one at a time, so that runs do not fight for the cores. A long computation
gives way between its steps, and whoever waits meanwhile waits for one step, not for all.
"""

import threading


class Turns:
    """Use it as `with turns:`; the same thread must not enter twice."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next_ticket = 0
        self._serving = 0

    def __enter__(self) -> "Turns":
        with self._changed:
            ticket = self._next_ticket
            self._next_ticket += 1
            self._changed.wait_for(lambda: self._serving == ticket)
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._serving += 1
            self._changed.notify_all()

    def give_way(self) -> None:
        """Let those in who came meanwhile, then go on."""
        self.__exit__()
        self.__enter__()
