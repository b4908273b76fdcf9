"""Runs of a model with hooks, and with a cache of activations."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Literal, Self, TypedDict, Unpack

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from interp.errors import HookError, PromptError
from interp.model.cache import ActivationCache, attention_names, primary_names
from interp.model.hooks import (
    HookList,
    NamesFilter,
    Recording,
    Request,
    RunEnded,
    groups_that_must_fire,
    make_request,
    owned,
    requested,
    select_names,
)
from interp.model.key_values import KeyValueCache
from interp.model.tokens import Prompt, TextInterface, TokenBatch

SomePositions = int | Sequence[int] | Tensor | Literal["last"]
"""Shared positions, a row of positions per example (a tensor `batch chosen`), or each prompt's last
real token."""
Positions = SomePositions | None
"""Where logits are wanted; everywhere by default."""

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


def check_options(options: ForwardOptions) -> None:
    """Refuse an option that does not exist, instead of ignoring it."""
    known = ForwardOptions.__annotations__
    for name in options.keys() - known.keys():
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else f" Options: {', '.join(known)}."
        raise TypeError(f"forward() has no option {name!r}.{hint}")


def layers_between(n_layers: int, start: int | None, stop: int | None) -> range:
    """Blocks that run; negative numbers count from the end."""
    for option, layer in (("start_at_layer", start), ("stop_at_layer", stop)):
        if layer is not None and not -n_layers <= layer <= n_layers:
            raise PromptError(f"{option} is {layer}; the model has layers 0-{n_layers - 1}.")
    layers = slice(start, stop).indices(n_layers)
    if layers[0] > layers[1]:
        raise PromptError(f"start_at_layer {start} comes after stop_at_layer {stop}.")
    return range(*layers)


def choose_positions(
    x: Resid, positions: Positions, mask: Bool[Tensor, "batch key_pos"] | None
) -> Float[Tensor, "batch chosen d_model"]:
    """The positions at which logits are wanted; the mask may cover a prefix as well.

    Raises:
        PromptError: a position is outside the prompt, or would count from the end of padding.
    """
    if positions is None:
        return x
    chosen = _places(x.new_empty(x.shape[:2]), positions, mask)
    rows = repeat(chosen, "batch chosen -> batch chosen d_model", d_model=x.shape[2])
    return x.gather(1, rows)


def positions_in(batch: TokenBatch, positions: Positions) -> Int[Tensor, "batch chosen"]:
    """The same positions by their numbers in each prompt; one row of a tensor serves all prompts.

    Raises:
        PromptError: as `choose_positions`.
    """
    if isinstance(positions, Tensor):
        positions = positions.to(batch.tokens.device)
        positions = positions.expand(len(batch.tokens), -1) if len(positions) == 1 else positions
    everywhere = range(batch.tokens.shape[1])
    chosen = list(everywhere) if positions is None else positions
    return _places(batch.tokens, chosen, batch.attention_mask)


def _places(
    x: Shaped[Tensor, "batch pos"],
    positions: SomePositions,
    mask: Bool[Tensor, "batch key_pos"] | None,
) -> Int[Tensor, "batch chosen"]:
    """Positions of a tensor by number, counted from 0."""
    n_positions = x.shape[1]
    if isinstance(positions, str):
        chosen = _last_positions(x, mask)
    elif isinstance(positions, Tensor):
        chosen = positions
    else:
        shared = [positions] if isinstance(positions, int) else list(positions)
        chosen = torch.tensor(shared, device=x.device, dtype=torch.long).expand(len(x), -1)
    if chosen.ndim != 2 or len(chosen) != len(x) or chosen.is_floating_point():
        raise PromptError(
            f"positions must be whole numbers of shape [{len(x)}, chosen], one row per example; "
            f"got {chosen.dtype} of shape {list(chosen.shape)}."
        )
    beyond = chosen[(chosen < -n_positions) | (chosen >= n_positions)]
    if len(beyond):
        raise PromptError(
            f"Position {int(beyond[0])} is outside the prompt of {n_positions} tokens."
        )
    if mask is not None and bool((chosen < 0).any()) and not bool(mask.all()):
        raise PromptError(
            'In a padded batch the last position is padding. Use positions="last", or count from 0.'
        )
    return chosen % n_positions


def _last_positions(
    x: Shaped[Tensor, "batch pos"], mask: Bool[Tensor, "batch key_pos"] | None
) -> Int[Tensor, "batch 1"]:
    if mask is None:
        return torch.full((len(x), 1), x.shape[1] - 1, device=x.device)
    order = torch.arange(mask.shape[1], device=x.device)
    last = (mask * order).argmax(dim=-1, keepdim=True)
    return last - (mask.shape[1] - x.shape[1])


def with_gradients(values: Mapping[str, Tensor], output: object) -> dict[str, Tensor]:
    """Detached values, and the gradient of a scalar output at each, as `<name>_grad`."""
    if not isinstance(output, Tensor) or output.numel() != 1:
        raise HookError('incl_bwd needs a scalar output: use return_type="loss".')
    gradients = torch.autograd.grad(output, list(values.values()), allow_unused=True)
    cached = {name: owned(value.detach()) for name, value in values.items()}
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

        Raises:
            UnknownHookError: no such point.
            HookError: a hook failed or never fired, or the model did not run in the block.
        """
        request = make_request(self, self.cfg.n_layers, tuple(fwd_hooks), tuple(bwd_hooks))
        with requested(request):
            yield self
        if request.must_fire and not request.n_runs:
            raise HookError(
                "The hooks never ran: the block ended without a run of this model in this thread. "
                "Call the model inside the block (hooks are not seen by other threads)."
            )

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Do nothing: hook_q_input, hook_k_input and hook_v_input exist whenever a hook asks.

        TransformerLens' tools switch them on by this name before they use them.
        """

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

    def record(
        self, input: Prompt | Resid, names_filter: NamesFilter, **options: Unpack[ForwardOptions]
    ) -> dict[str, Tensor]:
        """The values at these points, from a run that ends when it has computed the last of them.

        Args:
            names_filter: As in `run_with_cache`; every name has to be computed by this run.
        """
        names = select_names(names_filter, self.cfg.n_layers)
        must_fire = [frozenset([name]) for name in names]
        recording = Recording(frozenset(names), must_fire, ends_run=True)
        with (
            requested(Request(self, recording=recording)),
            suppress(RunEnded),
            torch.no_grad(),
        ):
            self(input, None, **options)
        return recording.values

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
        n_layers, past = self.cfg.n_layers, options.get("past_kv_cache")
        compact = names_filter is None and not incl_bwd and not past
        names = primary_names(n_layers) if compact else select_names(names_filter, n_layers)
        recording = Recording(
            frozenset(names),
            groups_that_must_fire(names_filter, n_layers),
            keep_graph=incl_bwd,
            and_edited=compact,
            device=device,
        )
        with (
            requested(Request(self, recording=recording)),
            torch.set_grad_enabled(incl_bwd or torch.is_grad_enabled()),
        ):
            output = self(input, return_type, **options)
        values = with_gradients(recording.values, output) if incl_bwd else recording.values
        cache = ActivationCache(
            values,
            self.cfg,
            key_mask=recording.key_mask,
            model=self,
            underivable=recording.edited | (attention_names(n_layers) if past else set()),
        )
        cache = cache.to(device) if device is not None else cache
        return output, cache.remove_batch_dim() if remove_batch_dim else cache
