"""The formulas of GPT-2, each in one place.

    Attention(Q, K, V) = softmax(Q Kᵀ / √d_head) V        Vaswani et al. 2017, arXiv:1706.03762
    LayerNorm(x) = w · (x - mean) / √(variance + eps) + b Ba et al. 2016, arXiv:1607.06450

The forward pass, the activation cache (which computes what follows exactly from stored values
when somebody looks) and the explanations of single attention weights all use these.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError


def quick_gelu(x: Tensor) -> Tensor:
    """`x · sigmoid(1.702 x)`."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
"""Hugging Face's activation names that we compute."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function of that name; an unknown one is an error that lists the known."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"Unknown activation {name!r}; known: {', '.join(sorted(ACTIVATIONS))}.")
    return ACTIVATIONS[name]


def at_least_float32(x: Tensor) -> Tensor:
    """The same numbers, in float32 if their own type is coarser."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def layer_norm_scale(x: Float[Tensor, "*any d_model"], eps: float) -> Float[Tensor, "*any 1"]:
    """The denominator of a LayerNorm, √(variance + eps)."""
    return (x.var(dim=-1, unbiased=False, keepdim=True) + eps).sqrt()


def layer_norm_normalized(
    x: Float[Tensor, "*any d_model"], scale: Float[Tensor, "*#any 1"]
) -> Float[Tensor, "*any d_model"]:
    """Centred and divided by `scale`; before the LayerNorm's own weight and bias."""
    return (x - x.mean(dim=-1, keepdim=True)) / scale


def allowed_keys(
    n_queries: int, key_mask: Bool[Tensor, "batch key_pos"]
) -> Bool[Tensor, "batch 1 query_pos key_pos"]:
    """Which keys each of the last `n_queries` positions may read: earlier, and not padding.

    A padding query reads itself, so that no row is empty and no softmax is NaN.
    """
    n_keys = key_mask.shape[-1]
    causal = torch.ones(n_queries, n_keys, dtype=torch.bool, device=key_mask.device)
    causal = causal.tril(n_keys - n_queries)
    itself = causal & ~causal.tril(n_keys - n_queries - 1)
    visible = rearrange(key_mask, "batch key_pos -> batch 1 1 key_pos")
    return (causal & visible) | itself


def attention_scores(
    q: Float[Tensor, "batch query_pos head d_head"],
    k: Float[Tensor, "batch key_pos head d_head"],
    factor: float,
    allowed: Bool[Tensor, "#batch 1 query_pos key_pos"],
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """q·k times `factor`, with -inf where a query may not look."""
    dot = einsum(
        q,
        k,
        "batch query_pos head d_head, batch key_pos head d_head -> batch head query_pos key_pos",
    )
    return (dot * factor).masked_fill(~allowed, float("-inf"))


def attention_pattern(
    scores: Float[Tensor, "batch head query_pos key_pos"],
) -> Float[Tensor, "batch head query_pos key_pos"]:
    """Softmax over the keys: each row is non-negative and sums to 1."""
    return scores.softmax(dim=-1)


def weighted_values(
    pattern: Float[Tensor, "batch head query_pos key_pos"],
    v: Float[Tensor, "batch key_pos head d_head"],
) -> Float[Tensor, "batch query_pos head d_head"]:
    """z: the mean of the values, weighted by the pattern."""
    return einsum(
        pattern,
        v,
        "batch head query_pos key_pos, batch key_pos head d_head -> batch query_pos head d_head",
    )


def hides_a_key(mask: Bool[Tensor, "batch key_pos"]) -> bool:
    """Whether some padding comes before a real token, where causality does not hide it."""
    return bool((mask[:, 1:] > mask[:, :-1]).any())


def predicted(mask: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch next_pos"]:
    """Which next tokens a prompt predicts: real ones that follow a real one."""
    return mask[:, 1:] & mask[:, :-1]


def next_token_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    tokens: Int[Tensor, "batch pos"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, "batch next_pos"]:
    """Cross-entropy in nats of each next token; 0 where padding is predicted, or predicts."""
    loss = F.cross_entropy(
        rearrange(at_least_float32(logits[:, :-1]), "batch pos d_vocab -> (batch pos) d_vocab"),
        rearrange(tokens[:, 1:], "batch pos -> (batch pos)"),
        reduction="none",
    )
    return loss.reshape(len(tokens), -1) * predicted(mask)
