"""How far a long computation is: what every method that takes a while accepts."""

from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any

Progress = Callable[[Sequence[Any], str], Iterable[Any]]
"""Wraps the steps of a long computation and shows how far it is; takes (steps, description).

To cancel, stop giving out steps: what is finished is kept, and marked partial.
"""

StoppableProgress = Annotated[Progress, "may stop early"]
"""The `progress` of a study that marks its report partial when steps stop early. On the command
line, Ctrl-C then stops the steps and keeps what is finished; elsewhere it ends the study."""


def no_progress(steps: Sequence[Any], description: str) -> Iterable[Any]:  # noqa: ARG001
    """Show nothing."""
    return steps
