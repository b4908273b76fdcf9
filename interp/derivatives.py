"""A run that can be differentiated: values on the way, and the gradient of a metric at each.

Examples of a batch do not see each other, so the gradient of the metric's sum holds each example's
own gradient. No parameter's `.grad` is touched.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook
from interp.model.tokens import TokenBatch

WRITES = ["blocks.*.hook_attn_out", "blocks.*.hook_mlp_out"]
"""What a layer adds to the residual stream."""


class DifferentiableRun:
    """A forward that keeps its autograd graph, as long as this object lives.

    Args:
        names: Full hook names of the values to keep.
    """

    metric: Float[Tensor, " example"]
    """The metric of the run, detached."""

    def __init__(
        self, model: HookedGPT2, batch: TokenBatch, metric: Metric, names: Sequence[str]
    ) -> None:
        self._kept: dict[str, Tensor] = {}
        self._dropped: int | None = None
        with torch.enable_grad(), model.hooks([(names, self._keep)], [(WRITES, self._drop)]):
            logits = model(batch, positions=read_positions(metric, len(batch.tokens)))
            assert isinstance(logits, Tensor)
            measured = metric(logits)
            self._total = measured.sum()
        self.metric = measured.detach()

    @property
    def values(self) -> dict[str, Tensor]:
        """The kept values by full hook name, detached."""
        return {name: value.detach() for name, value in self._kept.items()}

    def gradients(self, *, dropped: int | None = None) -> dict[str, Tensor]:
        """One backward: ∂metric/∂value of each example, by full hook name.

        Args:
            dropped: A layer through whose attention and MLP output no gradient flows: only what
                the residual stream carries around it.
        """
        self._dropped = dropped
        values = list(self._kept.values())
        found = torch.autograd.grad(self._total, values, retain_graph=True)
        return dict(zip(self._kept, found, strict=True))

    def _keep(self, value: Tensor, hook: Hook) -> None:
        # Weights of a loaded model are frozen, so the first kept value begins the graph.
        self._kept[hook.name] = value.requires_grad_()

    def _drop(self, gradient: Tensor, hook: Hook) -> Tensor | None:
        return torch.zeros_like(gradient) if hook.layer() == self._dropped else None


def read_positions(
    metric: Metric, n_examples: int
) -> Literal["last"] | int | Int[Tensor, "example chosen"] | None:
    """The metric's positions as the model's option of that name takes them: a row per example."""
    positions = metric.positions
    return positions.expand(n_examples, -1) if isinstance(positions, Tensor) else positions
