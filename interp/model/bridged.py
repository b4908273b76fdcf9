"""A model of TransformerLens' bridge, run the way `HookedGPT2` is.

TransformerLens keeps hooks on the model, where every thread meets them; so one lock is held for a
whole run, and the call's own hooks (see `hooks.py`) are put on before it and taken off after it.
Names are those of the hook points that fired when the model was loaded: GPT-2's where the
architecture has them, and TransformerLens' for the rest.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import HookError, PromptError
from interp.model import formula
from interp.model.bridged_cache import BridgedCache, HookNames
from interp.model.config import ModelConfig, check_settings
from interp.model.generation import continue_prompt
from interp.model.hooks import (
    HookFunction,
    HookList,
    Hooks,
    NamesFilter,
    Recording,
    Request,
    requested,
)
from interp.model.key_values import KeyValueCache
from interp.model.running import with_gradients
from interp.model.tokens import Prompt, TextInterface, TokenBatch, Tokenizer


@dataclass(frozen=True)
class BridgedConfig(ModelConfig):
    """Sizes of a model of any architecture."""

    n_weights: int = 0
    width_of_head: int = 1
    normalization_type: str = "LN"  # pyright: ignore[reportIncompatibleVariableOverride]
    """"LN" or "RMS"; a constant for GPT-2, as are the next two."""
    positional_embedding_type: str = "rotary"  # pyright: ignore[reportIncompatibleVariableOverride]
    n_key_value_heads: int | None = None  # pyright: ignore[reportIncompatibleVariableOverride]

    def __post_init__(self) -> None:
        check_settings(vars(self))

    @property
    def n_params(self) -> int:
        """Number of weights, counting tied ones once."""
        return self.n_weights

    @property
    def d_head(self) -> int:
        """Width of one head's q, k, v and z; not always `d_model / n_heads`."""
        return self.width_of_head


@runtime_checkable
class Bridge(Protocol):
    """What is used of a `TransformerBridge`."""

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Hook points by all their names."""
        ...

    def run_with_hooks(self, input: Tensor, **options: Any) -> Tensor:
        """Run with hooks that are on the model for as long as the call lasts."""
        ...


class BridgedWeight:
    """A weight as TransformerLens has it, stacked over layers where it belongs to one."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, model: "BridgedModel", owner: type | None = None) -> Tensor:
        """The weight itself, not a copy."""
        return getattr(model.bridge, self.name).detach()


class BridgedModel(TextInterface):
    """A model of another architecture with `HookedGPT2`'s surface; made by `load_bridge`."""

    W_E = BridgedWeight("W_E")
    W_U = BridgedWeight("W_U")  # pyright: ignore[reportAssignmentType]
    b_U = BridgedWeight("b_U")
    W_Q = BridgedWeight("W_Q")
    W_K = BridgedWeight("W_K")
    W_V = BridgedWeight("W_V")
    W_O = BridgedWeight("W_O")
    b_Q = BridgedWeight("b_Q")
    b_K = BridgedWeight("b_K")
    b_V = BridgedWeight("b_V")
    b_O = BridgedWeight("b_O")
    W_in = BridgedWeight("W_in")
    W_out = BridgedWeight("W_out")
    b_in = BridgedWeight("b_in")
    b_out = BridgedWeight("b_out")

    def __init__(
        self,
        bridge: Bridge,
        cfg: BridgedConfig,
        tokenizer: Tokenizer | None,
        fired: Sequence[str],
    ) -> None:
        self.bridge, self.cfg, self.tokenizer = bridge, cfg, tokenizer
        self.names = HookNames(bridge.hook_dict, fired)
        self._lock = threading.RLock()

    def __call__(
        self, input: Prompt, return_type: str | None = "logits", *, prepend_bos: bool | None = None
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """Logits, loss, both or nothing, as `HookedGPT2.forward`."""
        if return_type not in ("logits", "loss", "both", None):
            raise PromptError(
                f'return_type must be "logits", "loss", "both" or None, got {return_type!r}.'
            )
        batch = self._checked_batch(input, prepend_bos)
        hooks = Hooks(self)
        padded = not bool(batch.attention_mask.all())
        mask = {"attention_mask": batch.attention_mask.long()} if padded else {}
        wanted = [name for name in self.names.all if hooks.wants(name)]
        with self._lock:  # TransformerLens' hooks are the model's, not the call's
            logits = self.bridge.run_with_hooks(
                batch.tokens,
                fwd_hooks=[(name, self._passing_through(hooks, name)) for name in wanted],
                return_type="logits",
                **mask,
            )
        hooks.check_all_fired()
        if return_type in ("logits", None):
            return logits if return_type else None
        losses = formula.next_token_loss(logits, batch.tokens, batch.attention_mask)
        n_predicted = formula.predicted(batch.attention_mask).sum()
        if not n_predicted:
            raise PromptError("One token predicts nothing; a loss needs at least two.")
        loss = losses.sum() / n_predicted
        return loss if return_type == "loss" else (logits, loss)

    @staticmethod
    def _passing_through(hooks: Hooks, name: str) -> Callable[..., Tensor | None]:
        def pass_through(value: Tensor, hook: object) -> Tensor | None:  # noqa: ARG001
            # What is recorded must not be what later code could change in place; and what nobody
            # edits goes on as it is, because TransformerLens computes otherwise after an edit.
            own = value.clone()
            passed = hooks(name, own)
            return None if passed is own else passed.clone()

        return pass_through

    def _checked_batch(self, input: Prompt, prepend_bos: bool | None) -> TokenBatch:
        batch = self.as_batch(input, prepend_bos)
        n_tokens = batch.tokens.shape[1]
        if n_tokens > self.cfg.n_ctx:
            raise PromptError(
                f"The prompt has {n_tokens} tokens; the model takes {self.cfg.n_ctx}."
            )
        if isinstance(input, Tensor) and self.looks_padded(batch.tokens):
            raise PromptError(
                "The tokens look padded. Pass the texts themselves, or a TokenBatch, whose mask "
                "says where."
            )
        return batch

    @contextmanager
    def hooks(self, fwd_hooks: HookList = (), bwd_hooks: HookList = ()) -> Iterator[Self]:
        """Inside the block, calls of this model in this thread run these hooks."""
        forward, backward = list(fwd_hooks), list(bwd_hooks)
        groups = [g for names, _ in (*forward, *backward) for g in self.names.must_fire(names)]
        request = Request(self, self._expanded(forward), self._expanded(backward), groups)
        with requested(request):
            yield self
        if request.must_fire and not request.n_runs:
            raise HookError(
                "The hooks never ran: the block ended without a run of this model in this thread."
            )

    def _expanded(self, hooks: HookList) -> list[tuple[str, HookFunction]]:
        return [
            (name, function)
            for names_filter, function in hooks
            for name in self.names.select(names_filter)
        ]

    def run_with_hooks(
        self,
        input: Prompt,
        fwd_hooks: HookList = (),
        bwd_hooks: HookList = (),
        return_type: str | None = "logits",
        *,
        prepend_bos: bool | None = None,
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """A run with hooks for this one call."""
        with self.hooks(fwd_hooks, bwd_hooks):
            return self(input, return_type, prepend_bos=prepend_bos)

    def run_with_cache(
        self,
        input: Prompt,
        *,
        names_filter: NamesFilter = None,
        return_type: str | None = "logits",
        incl_bwd: bool = False,
        prepend_bos: bool | None = None,
    ) -> tuple[Tensor | tuple[Tensor, Tensor] | None, BridgedCache]:
        """A run and its activations; with `incl_bwd`, gradients of a scalar output as well."""
        recording = Recording(
            frozenset(self.names.select(names_filter)),
            self.names.must_fire(names_filter),
            keep_graph=incl_bwd,
        )
        with (
            requested(Request(self, recording=recording)),
            torch.set_grad_enabled(incl_bwd or torch.is_grad_enabled()),
        ):
            output = self(input, return_type, prepend_bos=prepend_bos)
        values = with_gradients(recording.values, output) if incl_bwd else recording.values
        return output, BridgedCache(values, self.names, self.cfg.n_layers)

    @torch.no_grad()
    def generate(
        self,
        input: Prompt,
        max_new_tokens: int = 20,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        stop_at_eos: bool = True,
        prepend_bos: bool | None = None,
    ) -> str | Int[Tensor, "batch pos"]:
        """Continue a prompt, as `HookedGPT2.generate`; the whole text is run for every token."""
        batch = self._checked_batch(input, prepend_bos)
        seen = batch.tokens[:, :0]

        def next_logits(unseen: Tensor, _: KeyValueCache) -> Float[Tensor, "batch d_vocab"]:
            nonlocal seen
            seen = torch.cat([seen, unseen], dim=1)
            logits = self(TokenBatch(seen, torch.ones_like(seen, dtype=torch.bool)))
            assert isinstance(logits, Tensor)
            return logits[:, -1]

        return continue_prompt(
            self,
            batch,
            next_logits,
            as_text=isinstance(input, str),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            stop_at_eos=stop_at_eos,
        )
