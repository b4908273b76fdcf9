"""What the patching lab shows: a sweep, one of its cells, the checks, and what it would cost."""

import time
from typing import NamedTuple

import pandas as pd
import torch
import xarray as xr

from dashboards.measurements.basics import Tokens
from interp import causal_facts, differences, effects, pairs, patching, prompts, statistics
from interp.errors import PromptError
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.predictions import answer_name
from interp.progress import Progress
from interp.prompts import PromptPair
from interp.sites import HEAD_SITES, STREAM_SITES

STEP_ROWS = 256
"""Positions multiplied together: on a laptop a step of GPT-2 small takes a quarter of a second."""

CHECKS = {
    "all before the difference: the run itself": "nothing_before_the_difference",
    "all before layer 0: the other run": "everything_before_the_first_layer",
    "all after the last layer: the other run": "everything_after_the_last_layer",
}
"""What must hold, and the function of `interp.causal_facts` that measures it."""

Answers = tuple[int, int]


class Place(NamedTuple):
    """A cell of a sweep; `None` where it has no such axis."""

    layer: int
    head: int | None = None
    position: int | None = None


class Swept(NamedTuple):
    """A sweep and what it says."""

    ds: xr.Dataset
    """As of `interp.patching.sweep`."""
    cells: xr.Dataset
    """`patched`, `effect` and `recovered_fraction` by cell, of the one example."""
    table: pd.DataFrame
    """As of `interp.effects.table`."""
    undefined: str
    """Why there is no recovered fraction; empty if there is."""
    n_cells: int
    n_finished: int
    first_difference: int
    """Position of the first token that differs."""
    before: float
    """Largest size of an effect before that position; NaN where cells have no position."""

    def largest(self) -> Place:
        """The measured cell with the largest effect."""
        size = abs(self.cells["effect"]).fillna(-1)
        found = {str(axis): int(index) for axis, index in size.argmax(size.dims).items()}
        return Place(found["layer"], found.get("head"), found.get("pos"))

    def has(self, place: Place) -> bool:
        """Whether there is such a cell, and it is measured."""
        axes = {"layer": place.layer, "head": place.head, "pos": place.position}
        given = {axis: at for axis, at in axes.items() if at is not None}
        sizes = self.cells["effect"].sizes
        if set(given) != set(sizes) or any(at >= sizes[axis] for axis, at in given.items()):
            return False
        return bool(self.cells["effect"].isel(given).notnull())


class Cost(NamedTuple):
    """What a sweep would cost if every cell were a run of the model."""

    n_cells: int
    n_runs: int
    """One for each cell, and the two runs that are compared."""
    seconds: float
    """Of one run of the corrupted prompt, measured."""


def colour_swap(model: HookedGPT2, text: str, answers: Answers) -> PromptPair | None:
    """The prompt with another colour: of the answers where it has them; `None` without colours."""
    names = [answer_name(model, answer).strip() for answer in answers]
    for chosen in ({"colour": names[0], "instead": names[1]}, {}):
        try:
            return prompts.colour_swapped(model, text, **chosen)
        except PromptError:
            continue
    return None


def indirect_object(model: HookedGPT2, seed: int) -> PromptPair:
    """Two people, one gives; corrupted, the other one does."""
    return prompts.ioi(model, 1, seed=seed, corruption="name_swap").examples[0]


def alignment(model: HookedGPT2, tokens: Tokens, other: Tokens) -> pd.DataFrame:
    """Two prompts place by place, as of `interp.differences.alignment`."""
    return differences.alignment(model, [list(tokens)], model, [list(other)])


def check(model: HookedGPT2, clean: Tokens, corrupted: Tokens) -> int:
    """The first position in which a pair differs; a PromptError if it cannot be patched."""
    found = pairs.token_pairs(model, [list(clean)], [list(corrupted)])
    return int(found.first_difference[0])


def cost(model: HookedGPT2, corrupted: Tokens, site: str, per_position: bool) -> Cost:
    """What a sweep would cost, with the quickest of three runs timed."""
    n_cells = model.cfg.n_layers
    if site in HEAD_SITES:
        n_cells *= model.cfg.n_heads
    if site in STREAM_SITES or per_position:
        n_cells *= len(corrupted)
    tokens = torch.tensor([corrupted])
    seconds = []
    for _ in range(3):
        begun = time.perf_counter()
        model(tokens, positions="last").sum().item()
        seconds.append(time.perf_counter() - begun)
    return Cost(n_cells, n_cells + 2, min(seconds))


def sweep(
    model: HookedGPT2, clean: Tokens, corrupted: Tokens, site: str, direction: str,
    per_position: bool, answers: Answers, *, progress: Progress,
) -> Swept:  # fmt: skip
    """A whole sweep with its effects."""
    ds = patching.sweep(
        model, [list(clean)], [list(corrupted)], site, logit_diff(*answers), direction,
        per_position=per_position, rows=STEP_ROWS, progress=progress,
    )  # fmt: skip
    undefined = effects.undefined_fraction(ds) or ""
    measured = {"patched": ds["patched"], "effect": statistics.effect(ds)}
    if not undefined:
        measured["recovered_fraction"] = statistics.recovered_fraction(ds)
    cells = xr.Dataset(measured).isel(example=0, drop=True)
    finished = int(cells["patched"].notnull().sum())
    first = check(model, clean, corrupted)
    before = float("nan")
    if "pos" in cells.dims:
        before = float(abs(cells["effect"].isel(pos=slice(first))).max()) if first else 0.0
    table = effects.table(ds)
    return Swept(ds, cells, table, undefined, cells["patched"].size, finished, first, before)


def cell(
    model: HookedGPT2, clean: Tokens, corrupted: Tokens, site: str, direction: str, place: Place,
    answers: Answers,
) -> pd.DataFrame:  # fmt: skip
    """One cell again, by a plain forward pass with a hook: `run` and `logit_difference`."""
    metric, both = logit_diff(*answers), ([list(clean)], [list(corrupted)])
    patched = causal_facts.one_patch(
        model, *both, metric, direction, site, place.layer, head=place.head,
        position=place.position,
    )  # fmt: skip
    runs = [metric(model(torch.tensor(prompt), positions="last")) for prompt in both]
    values = [float(value) for value in (*runs, patched)]
    return pd.DataFrame({"run": ["clean", "corrupted", "patched"], "logit_difference": values})


def checks(
    model: HookedGPT2, clean: Tokens, corrupted: Tokens, direction: str, answers: Answers
) -> pd.DataFrame:
    """What must hold whatever the model does: `check`, `expected`, `measured`, ..."""
    given = [list(clean)], [list(corrupted)], logit_diff(*answers), direction
    rows = [
        {"check": check, **getattr(causal_facts, name)(model, *given)._asdict()}
        for check, name in CHECKS.items()
    ]
    return pd.DataFrame(rows)
