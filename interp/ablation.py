"""Removing a component's output: zero ablation of heads."""

from collections.abc import Iterable

from torch import Tensor

from interp.model.hooks import Hook, HookFunction, NamesFilter, block_name


def zero_heads(heads: Iterable[tuple[int, int]]) -> list[tuple[NamesFilter, HookFunction]]:
    """Forward hooks that replace the z of each (layer, head) by zero.

    Zero is far from what a head usually writes, so effects can be overstated; see the literature
    on mean and resample ablation (Wang et al. 2022, arXiv:2211.00593).
    """
    return [_zero_head(layer, head) for layer, head in heads]


def _zero_head(layer: int, head: int) -> tuple[NamesFilter, HookFunction]:
    def zero(z: Tensor, hook: Hook) -> None:  # noqa: ARG001
        z[:, :, head] = 0

    return block_name(layer, "attn.hook_z"), zero
