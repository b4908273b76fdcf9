"""What a process that will be killed does: collect into a store that others collect into too."""

import signal
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from interp.model.gpt2 import HookedGPT2
from interp.store.collecting import collect
from interp.store.writer import Tally

WORDS = ["I", "love", "the", "color", "black", "and", "someday", "John", "gave", "Mary", "a", "cat"]
TEXTS = [f"{first} hope {second} like that." for first in WORDS for second in WORDS[:6]]
HOOKS = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_z"]
OPTIONS = {"hooks": HOOKS, "ctx": 24, "unit_tokens": 50, "batch_tokens": 30}


def work(model: HookedGPT2, path: Path, begun: Event) -> None:
    """Collect until the store is complete."""
    torch.set_num_threads(1)
    begun.set()
    collect(model, TEXTS, path=path, **OPTIONS)


def work_with_two_processes(model: HookedGPT2, path: Path) -> None:
    """Collect with two worker processes of this one's."""
    torch.set_num_threads(1)
    collect(model, TEXTS, path=path, **OPTIONS, workers=2)


def work_and_die_at_a_unit(model: HookedGPT2, path: Path, n_units: int) -> None:
    """Commit some units, then be killed in the middle of the next."""
    torch.set_num_threads(1)

    def watch(tally: Tally) -> None:
        if tally.n_committed >= n_units:
            signal.raise_signal(signal.SIGKILL)

    collect(model, TEXTS, path=path, **OPTIONS, watch=watch)


class PoisonedModel(HookedGPT2):
    """A model that kills its process when it reads a certain token."""

    poison: int

    def record(self, input, names_filter, **options):
        if bool((input.tokens == self.poison).any()):
            signal.raise_signal(signal.SIGKILL)
        return super().record(input, names_filter, **options)
