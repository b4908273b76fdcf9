"""The plain way to patch: one hooked forward pass per edit. Slow, short, and what exact means."""

from collections.abc import Sequence

import torch
from torch import Tensor

from interp.base_run import Edit
from interp.metrics import Metric
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, HookFunction, full_name
from interp.model.tokens import TokenBatch


def hook_of(edit: Edit, examples: Sequence[int]) -> tuple[str, HookFunction]:
    """An edit as a forward hook."""

    def replace(value: Tensor, hook: Hook) -> None:
        head = () if edit.head is None else (edit.head,)
        for row, example in enumerate(examples):
            for column, position in enumerate(edit.positions):
                value[(example, position, *head)] = edit.values[row, column]

    return full_name(edit.point, edit.layer), replace


@torch.no_grad()
def plain_run(
    model: HookedGPT2,
    batch: TokenBatch,
    edits: Sequence[Edit],
    examples: Sequence[int],
    metric: Metric,
) -> Tensor:
    """The metric of every example, with some of them edited."""
    hooks = [hook_of(edit, examples) for edit in edits]
    logits = model.run_with_hooks(batch, hooks, positions=metric.positions)
    assert isinstance(logits, Tensor)
    return metric(logits)


def random_model(seed: int, n_layers: int, n_heads: int, act_fn: str = "gelu_new") -> HookedGPT2:
    """Six-dimensional heads, 30 tokens, 12 positions, and no trivial weight."""
    cfg = ModelConfig(
        n_layers=n_layers, n_heads=n_heads, d_model=6 * n_heads, d_mlp=20, d_vocab=30, n_ctx=12,
        act_fn=act_fn,
    )  # fmt: skip
    model = HookedGPT2(cfg).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        centre = 1.0 if name.endswith(".w") else 0.0
        parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model
