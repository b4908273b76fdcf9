"""Runs of a model with hooks, and with a cache of activations."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, Self, TypedDict, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import HookError
from interp.model.cache import ActivationCache, primary_names
from interp.model.hooks import (
    HookList,
    NamesFilter,
    Recording,
    Request,
    make_request,
    requested,
    select_names,
)
from interp.model.key_values import KeyValueCache
from interp.model.tokens import Prompt, TextInterface

Positions = int | Sequence[int] | Int[Tensor, "batch chosen"] | Literal["last"] | None
"""Where logits are wanted: everywhere (None), shared positions, a row of positions per example,
or each prompt's last real token."""


Resid = Float[Tensor, "batch pos d_model"]


class ForwardOptions(TypedDict, total=False):
    """What `HookedGPT2.forward` takes by keyword; documented there."""

    prepend_bos: bool | None
    attention_mask: Bool[Tensor, "batch key_pos"] | None
    start_at_layer: int | None
    stop_at_layer: int | None
    past_kv_cache: KeyValueCache | None
    positions: Positions
    loss_per_token: bool


def with_gradients(values: Mapping[str, Tensor], output: object) -> dict[str, Tensor]:
    """Detached values, and the gradient of a scalar output at each, as `<name>_grad`."""
    if not isinstance(output, Tensor) or output.numel() != 1:
        raise HookError('incl_bwd needs a scalar output: use return_type="loss".')
    gradients = torch.autograd.grad(output, list(values.values()), allow_unused=True)
    cached = {name: value.detach() for name, value in values.items()}
    for name, gradient in zip(values, gradients, strict=True):
        if gradient is not None:
            cached[f"{name}_grad"] = gradient
    return cached


class HookedRuns(TextInterface, nn.Module):
    """Runs of a model whose forward pass sends every named value through the call's hooks."""

    @contextmanager
    def hooks(self, fwd_hooks: HookList = (), bwd_hooks: HookList = ()) -> Iterator[Self]:
        """Inside the block, calls of this model in this thread run these hooks.

        Args:
            fwd_hooks: (name, function) pairs; a name may hold `*`, or be a list or predicate of
                names. The function takes (value, hook) and returns the new value, or None after
                looking or editing in place.
            bwd_hooks: The same for gradients, during the backward pass.
        """
        request = make_request(self, self.cfg.n_layers, tuple(fwd_hooks), tuple(bwd_hooks))
        with requested(request):
            yield self

    def run_with_hooks(
        self,
        input: Prompt | Resid,
        fwd_hooks: HookList = (),
        bwd_hooks: HookList = (),
        return_type: str | None = "logits",
        **options: Unpack[ForwardOptions],
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """`forward` with hooks for this one call; arguments as in `hooks` and `forward`."""
        with self.hooks(fwd_hooks, bwd_hooks):
            return self(input, return_type, **options)

    def run_with_cache(
        self,
        input: Prompt | Resid,
        *,
        names_filter: NamesFilter = None,
        return_type: str | None = "logits",
        remove_batch_dim: bool = False,
        device: str | torch.device | None = None,
        incl_bwd: bool = False,
        **options: Unpack[ForwardOptions],
    ) -> tuple[Tensor | tuple[Tensor, Tensor] | None, ActivationCache]:
        """`forward`, and the activations on the way.

        Args:
            names_filter: Which (see `hooks.select_names`); None keeps all default ones, storing
                only what the others do not follow from.
            device: Where the cache is kept.
            incl_bwd: Also the gradients of the output, which must be a scalar such as the loss, as
                `<name>_grad`. No parameter's `.grad` is touched.
        """
        n_layers = self.cfg.n_layers
        compact = names_filter is None and not incl_bwd and not options.get("past_kv_cache")
        names = primary_names(n_layers) if compact else select_names(names_filter, n_layers)
        recording = Recording(
            frozenset(names),
            required=names_filter is not None and not callable(names_filter),
            keep_graph=incl_bwd,
            and_edited=compact,
        )
        with (
            requested(Request(self, recording=recording)),
            torch.set_grad_enabled(incl_bwd or torch.is_grad_enabled()),
        ):
            output = self(input, return_type, **options)
        values = with_gradients(recording.values, output) if incl_bwd else recording.values
        cache = ActivationCache(values, self.cfg, key_mask=recording.key_mask, model=self)
        cache = cache.to(device) if device is not None else cache
        return output, cache.remove_batch_dim() if remove_batch_dim else cache
