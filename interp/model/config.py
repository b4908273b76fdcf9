"""What a GPT-2 is made of: sizes and the few switches that change a number.

Field names are TransformerLens'; Hugging Face's are translated in `huggingface.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from interp.errors import ConfigError

SIZE_LIMITS = {
    "n_layers": 512,
    "n_heads": 1024,
    "d_model": 65_536,
    "d_mlp": 1_048_576,
    "d_vocab": 1_048_576,
    "n_ctx": 1_048_576,
}
"""Largest value of each size; beyond it a configuration file is taken for damaged."""


SWITCHES = (
    "scale_attn_weights",
    "scale_attn_by_inverse_layer_idx",
    "reorder_and_upcast_attn",
    "tie_word_embeddings",
)
CPU = torch.device("cpu")


def check_settings(settings: Mapping[str, object]) -> None:
    """Refuse values that no model can have; they may come from a damaged file.

    Raises:
        ConfigError: naming the field, what it must be, and what it is.
    """
    for name, limit in SIZE_LIMITS.items():
        size = settings[name]
        if type(size) is not int or not 1 <= size <= limit:
            raise ConfigError(f"{name} must be a whole number from 1 to {limit}, got {size!r}.")
    eps = settings.get("eps", 1e-5)
    if not (isinstance(eps, float) and 0 < eps < 1):
        raise ConfigError(f"eps must be a number between 0 and 1, got {eps!r}.")
    for name in SWITCHES:
        if type(settings.get(name, True)) is not bool:
            raise ConfigError(f"{name} must be true or false, got {settings[name]!r}.")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of one GPT-2; immutable.

    Raises:
        ConfigError: a size is not a positive whole number or is absurdly large, or `d_model` is
            not a multiple of `n_heads`.
    """

    n_layers: int
    n_heads: int
    d_model: int
    d_mlp: int
    d_vocab: int
    n_ctx: int
    """Longest sequence, in tokens: there are this many position embeddings."""
    act_fn: str = "gelu_new"
    """Hugging Face's name of the MLP's activation; `gelu_new` is the tanh approximation."""
    eps: float = 1e-5
    """Added to the variance in every LayerNorm."""
    scale_attn_weights: bool = True
    """Divide q·k by sqrt(d_head)."""
    scale_attn_by_inverse_layer_idx: bool = False
    """Divide q·k in layer l by l + 1 as well."""
    reorder_and_upcast_attn: bool = False
    """Compute scores and softmax in float32 if the weights' type is coarser."""
    tie_word_embeddings: bool = True
    """The unembedding is the transposed token embedding."""
    n_classes: int | None = None
    """Width of a classifier head in place of the unembedding; `None` for a language model."""
    model_name: str = "gpt2"
    init_range: float = 0.02
    """Standard deviation of freshly initialised weights."""
    default_prepend_bos: bool = True
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32

    attn_only: ClassVar[bool] = False
    normalization_type: ClassVar[str] = "LN"
    positional_embedding_type: ClassVar[str] = "standard"
    n_key_value_heads: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        check_settings(vars(self))
        if self.d_model % self.n_heads:
            raise ConfigError(
                f"d_model ({self.d_model}) must be a multiple of n_heads ({self.n_heads})."
            )

    @property
    def d_head(self) -> int:
        """Width of one head's q, k, v and z."""
        return self.d_model // self.n_heads

    @property
    def d_vocab_out(self) -> int:
        """Width of the output: the vocabulary, or the classes of a classifier."""
        return self.n_classes or self.d_vocab

    @property
    def n_params(self) -> int:
        """Number of weights, counting tied ones once."""
        block = 4 * self.d_model**2 + 2 * self.d_model * self.d_mlp + 9 * self.d_model + self.d_mlp
        untied = self.n_classes is not None or not self.tie_word_embeddings
        unembed = self.d_vocab_out * self.d_model if untied else 0
        embeddings = (self.d_vocab + self.n_ctx) * self.d_model
        return embeddings + self.n_layers * block + 2 * self.d_model + unembed

    def score_factor(self, layer: int) -> float:
        """What q·k is multiplied by before the softmax: 1/sqrt(d_head) in a plain GPT-2."""
        factor = 1 / math.sqrt(self.d_head) if self.scale_attn_weights else 1.0
        return factor / (layer + 1) if self.scale_attn_by_inverse_layer_idx else factor
