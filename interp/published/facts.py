"""A published number, how far a repetition may be from it, and what was found here.

Facts come in three classes: A is deterministic, with a tight tolerance; B is a mean over sampled
prompts, with a loose one; C is an order or a sign. A fact that this model cannot be asked about is
"not measured", with the reason, and the others go on; a programming error stops everything.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal, TypeVar

import torch

from interp.branches import check_component
from interp.errors import InterpError
from interp.model.gpt2 import HookedGPT2
from interp.progress import Progress, no_progress

Head = tuple[int, int]
"""(layer, head)."""
Class = Literal["A", "B", "C"]
Outcome = Literal["pass", "fail", "not measured"]
Shared = TypeVar("Shared")
STOPPED = "The run was stopped before."


@dataclass(frozen=True)
class Tolerance:
    """How far below and above the published value a measurement may be."""

    below: float
    above: float

    def accepts(self, published: float, measured: float) -> bool:
        """Whether a measurement agrees; NaN never does."""
        return published - self.below <= measured <= published + self.above

    def __str__(self) -> str:
        if self.below == self.above:
            return f"± {self.below:g}" if self.below else "exactly"
        if inf in (self.below, self.above):
            side, allowed = ("most", self.above) if self.below == inf else ("least", self.below)
            return f"at {side}" + (f", ± {allowed:g}" if allowed else "")
        return f"-{self.below:g} to +{self.above:g}"


def within(allowed: float) -> Tolerance:
    """The same on both sides."""
    return Tolerance(allowed, allowed)


EXACTLY, AT_LEAST, AT_MOST = within(0), Tolerance(0, inf), Tolerance(inf, 0)


@dataclass(frozen=True)
class Measured:
    """What was found, in the unit of the fact."""

    value: float
    note: str = ""
    """What the number is made of: an interval, an order, the parts."""


@dataclass
class Subject:
    """The model that is asked, and the size and seed of the samples.

    Runs that several facts need are kept, so that each is made once.
    """

    model: HookedGPT2
    n: int = 200
    """Prompts of a sample."""
    seed: int = 0
    _made: dict[Any, Any] = field(default_factory=dict, repr=False)

    def shared(self, make: Callable[..., Shared], *arguments: Hashable) -> Shared:
        """`make(self, *arguments)`, made at the first call with these arguments."""
        key = (make, *arguments)
        if key not in self._made:
            self._made[key] = make(self, *arguments)
        return self._made[key]

    def require(self, heads: Iterable[Head]) -> None:
        """Refuse heads that the model does not have.

        Raises:
            PromptError: names the first one and what there is.
        """
        for layer, head in heads:
            check_component(self.model, layer, head)


@dataclass(frozen=True)
class Fact:
    """A published number and how to measure it."""

    name: str
    """Short and unique, such as "ioi.logit_diff"."""
    kind: Class
    claim: str
    published: float
    tolerance: Tolerance
    unit: str
    source: str
    """Paper, or repository and file."""
    measure: Callable[[Subject], Measured]


@dataclass(frozen=True)
class Finding:
    """A fact, and what came of it."""

    fact: Fact
    measured: Measured | None
    """`None` if it could not be measured."""
    reason: str = ""
    """Why not."""

    @property
    def outcome(self) -> Outcome:
        """Whether the measurement agrees."""
        if self.measured is None:
            return "not measured"
        fact = self.fact
        agrees = fact.tolerance.accepts(fact.published, self.measured.value)
        return "pass" if agrees else "fail"


@torch.no_grad()
def measure_all(
    subject: Subject, facts: Sequence[Fact], *, progress: Progress = no_progress
) -> list[Finding]:
    """Measure every fact; one that the model cannot be asked about does not stop the others."""
    steps = progress(facts, "Measuring published numbers")
    findings = [_finding(subject, fact) for fact in steps]
    return findings + [Finding(fact, None, STOPPED) for fact in facts[len(findings) :]]


def _finding(subject: Subject, fact: Fact) -> Finding:
    try:
        return Finding(fact, fact.measure(subject))
    except InterpError as error:
        return Finding(fact, None, str(error))
