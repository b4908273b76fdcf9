"""What a method may ask of any model: `HookedGPT2` and `BridgedModel` both have it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

from interp.model.config import ModelConfig
from interp.model.hooks import HookList, NamesFilter
from interp.model.tokens import Prompt, TokenBatch, Tokenizer


@runtime_checkable
class HookedModel(Protocol):
    """A language model that runs with hooks; argument meanings as in `HookedGPT2`."""

    tokenizer: Tokenizer | None

    @property
    def cfg(self) -> ModelConfig:
        """Sizes."""
        ...

    def __call__(
        self, input: Prompt, return_type: str | None = "logits"
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """Logits `batch pos d_vocab`, the loss, or both."""
        ...

    def hooks(
        self, fwd_hooks: HookList = (), bwd_hooks: HookList = ()
    ) -> AbstractContextManager["HookedModel"]:
        """Inside the block, calls of this model in this thread run these hooks."""
        ...

    def run_with_hooks(
        self, input: Prompt, fwd_hooks: HookList = (), bwd_hooks: HookList = ()
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """Logits of a run with hooks."""
        ...

    def run_with_cache(
        self, input: Prompt, *, names_filter: NamesFilter = None
    ) -> tuple[Tensor | tuple[Tensor, Tensor] | None, Mapping[Any, Tensor]]:
        """Logits, and activations by name."""
        ...

    def generate(
        self, input: Prompt, max_new_tokens: int = 20, *, temperature: float = 1.0, seed: int = 0
    ) -> str | Int[Tensor, "batch pos"]:
        """Continue a prompt."""
        ...

    def as_batch(self, input: Prompt, prepend_bos: bool | None = None) -> TokenBatch:
        """Any prompt as padded ids with their mask."""
        ...

    def to_tokens(self, input: Prompt, prepend_bos: bool | None = None) -> Int[Tensor, "batch pos"]:
        """Token ids of a text or texts."""
        ...

    def to_str_tokens(self, input: str, prepend_bos: bool | None = None) -> list[str]:
        """The text of each token of one prompt."""
        ...

    def to_single_token(self, text: str) -> int:
        """Id of a text that must be one token."""
        ...

    def find_word(self, text: str, word: str, *, occurrence: int | None = None) -> int:
        """Position of a word in a text's tokens."""
        ...

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Token embedding."""
        ...

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights; `W_K`, `W_V` and `W_O` likewise."""
        ...

    @property
    def W_K(self) -> Float[Tensor, "layer kv_head d_model d_head"]:
        """Key weights."""
        ...

    @property
    def W_V(self) -> Float[Tensor, "layer kv_head d_model d_head"]:
        """Value weights."""
        ...

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights of attention."""
        ...

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """Unembedding."""
        ...

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """Bias of the unembedding."""
        ...
