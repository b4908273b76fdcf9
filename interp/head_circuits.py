"""What a head looks for and what it writes, read from its weights alone (QK and OV circuits).

    QK = W_Q W_Kᵀ: which key tokens a query token prefers
    OV = W_V W_O:  which logits rise when the head reads a token

`qk_top_pairs`, `ov_top_pairs` and `ov_top_tokens` follow the direct path between tokens, through
the effective embedding of `token_inputs`. `singular_values` and `composition_scores` compare the
products themselves: ln1's weight is folded into W_Q, W_K and W_V, and everything is centred over
d_model, because every LayerNorm removes the mean. Neither a d_model x d_model nor a d_vocab x
d_vocab matrix is ever held.

Source: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits". Not covered:
positions, and paths through other heads or later MLPs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.token_paths import logit_directions, token_inputs
from interp.results import provenance

CHUNK = 512
"""Rows of a vocabulary x vocabulary product that are held at once."""
SCORE_UNIT = "attention score, minus its mean over the key tokens"
LOGIT_UNIT = (
    "logit times the final LayerNorm's scale, minus its mean over the outputs and over the tokens "
    "that are read"
)


@torch.no_grad()
def qk_top_pairs(
    model: HookedGPT2,
    layer: int,
    head: int,
    vocabulary: Sequence[int] | None = None,
    *,
    n_pairs: int = 10,
) -> xr.Dataset:
    """The pairs of tokens where the first looks for the second most.

    The score is the head's own, q·k times the score factor, if the two tokens were alone in the
    stream. Its mean over the key tokens is taken off for each query: softmax does not see it.

    Args:
        vocabulary: Token ids that may be query or key; by default all.

    Returns:
        Over `pair`, best first: `query` and `key` (ids), `query_token`, `key_token` and `score`.
    """
    _check_head(model, layer, head)
    tokens = _tokens(model, vocabulary)
    inputs = token_inputs(model, layer, tokens)
    attn = model.blocks[layer].attn
    q = (inputs @ attn.W_QKV[:, 0, head] + attn.b_QKV[0, head]) * model.cfg.score_factor(layer)
    k = inputs @ attn.W_QKV[:, 1, head]
    queries, keys, scores = _top_pairs(q, k - k.mean(dim=0), n_pairs)
    values = {
        "query": tokens[queries],
        "key": tokens[keys],
        "query_token": _texts(model, tokens[queries]),
        "key_token": _texts(model, tokens[keys]),
        "score": scores,
    }
    return _dataset(model, layer, head, "pair", values, SCORE_UNIT)


@torch.no_grad()
def ov_top_pairs(
    model: HookedGPT2,
    layer: int,
    head: int,
    vocabulary: Sequence[int] | None = None,
    *,
    n_pairs: int = 10,
) -> xr.Dataset:
    """The pairs of tokens where reading the first raises the second's logit most.

    Logits are relative to the mean output and to reading an average token, so that neither biases
    nor what the head always writes count.

    Args:
        vocabulary: Token ids that may be read or raised; by default all.

    Returns:
        Over `pair`, best first: `read` and `raised` (ids), `read_token`, `raised_token` and `logit`
        (for a final LayerNorm scale of 1).

    Raises:
        PromptError: a classifier, whose outputs are not tokens.
    """
    _check_head(model, layer, head)
    tokens = _tokens(model, vocabulary)
    outputs, values = _outputs(model, layer, head, tokens), _values(model, layer, head, tokens)
    read, raised, logits = _top_pairs(values - values.mean(dim=0), outputs, n_pairs)
    found = {
        "read": tokens[read],
        "raised": tokens[raised],
        "read_token": _texts(model, tokens[read]),
        "raised_token": _texts(model, tokens[raised]),
        "logit": logits,
    }
    return _dataset(model, layer, head, "pair", found, LOGIT_UNIT)


@torch.no_grad()
def ov_top_tokens(
    model: HookedGPT2,
    layer: int,
    head: int,
    token: str | int,
    vocabulary: Sequence[int] | None = None,
    *,
    n_tokens: int = 10,
) -> xr.Dataset:
    """The tokens whose logits rise most when the head reads this token.

    Args:
        token: A text that is one token, or its id.
        vocabulary: Token ids that may be raised, and whose mean stands for an average token; by
            default all.

    Returns:
        Over `rank`, best first: `raised` (ids), `raised_token` and `logit`, as in `ov_top_pairs`.

    Raises:
        PromptError: a classifier, or a token outside the vocabulary.
    """
    _check_head(model, layer, head)
    tokens = _tokens(model, vocabulary)
    own = _tokens(model, [model.to_single_token(token) if isinstance(token, str) else token])
    outputs = _outputs(model, layer, head, tokens)
    average = _values(model, layer, head, tokens).mean(dim=0)
    value = _values(model, layer, head, own)[0] - average
    top = at_least_float32(outputs @ value).topk(min(n_tokens, len(tokens)))
    raised = tokens[top.indices]
    found = {"raised": raised, "raised_token": _texts(model, raised), "logit": top.values}
    dataset = _dataset(model, layer, head, "rank", found, LOGIT_UNIT)
    return dataset.assign_attrs(token=_texts(model, own)[0])


def _values(
    model: HookedGPT2, layer: int, head: int, tokens: Int[Tensor, " token"]
) -> Float[Tensor, "token d_head"]:
    """What the head reads of each token, without bias."""
    return token_inputs(model, layer, tokens) @ model.blocks[layer].attn.W_QKV[:, 2, head]


def _outputs(
    model: HookedGPT2, layer: int, head: int, tokens: Int[Tensor, " token"]
) -> Float[Tensor, "token d_head"]:
    """What each coordinate of the head's z does to each token's logit."""
    if model.cfg.n_classes is not None:
        raise PromptError(
            f"{model.cfg.model_name!r} is a classifier: its outputs are classes, so no token's "
            "logit can rise."
        )
    return (model.blocks[layer].attn.W_O[head] @ logit_directions(model, tokens)).T


def _top_pairs(
    left: Float[Tensor, "row d_head"], right: Float[Tensor, "column d_head"], n_pairs: int
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"], Float[Tensor, " pair"]]:
    """Rows, columns and values of the largest entries of left @ right.T."""
    left, right = at_least_float32(left), at_least_float32(right)
    maxima = torch.cat([(chunk @ right.T).amax(dim=1) for chunk in left.split(CHUNK)])
    # The n largest entries lie in the n rows with the largest maxima.
    rows = maxima.topk(min(n_pairs, len(left))).indices
    products = left[rows] @ right.T
    top = products.flatten().topk(min(n_pairs, products.numel()))
    return rows[top.indices // len(right)], top.indices % len(right), top.values


@dataclass(frozen=True)
class _Circuits:
    """Factors of all heads' circuits, as maps of the centred, normalised stream.

    A triangular factor R of a QR decomposition stands for the other side of a product: it has the
    same norms and singular values as the d_model x d_head matrix it comes from.
    """

    Q: Float[Tensor, "layer head d_model d_head"]
    K: Float[Tensor, "layer head d_model d_head"]
    V: Float[Tensor, "layer head d_model d_head"]
    O: Float[Tensor, "layer head d_model d_head"]  # noqa: E741  the field's letter

    @classmethod
    def of(cls, model: HookedGPT2) -> "_Circuits":
        norms = torch.stack([block.ln1.w for block in model.blocks])[:, None, :, None]
        W_O = rearrange(model.W_O, "layer head d_head d_model -> layer head d_model d_head")
        sides = (model.W_Q * norms, model.W_K * norms, model.W_V * norms, W_O)
        exact = [at_least_float32(side) for side in sides]
        return cls(*(side - side.mean(dim=2, keepdim=True) for side in exact))


def _triangular(side: Float[Tensor, "*any d_model d_head"]) -> Float[Tensor, "*any rank d_head"]:
    return torch.linalg.qr(side, mode="r").R


@torch.no_grad()
def singular_values(model: HookedGPT2) -> xr.DataArray:
    """How strongly, and in how many directions, each head's circuits act.

    QK includes the score factor: its unit is attention score per unit of normalised query and key.
    OV is the length written per unit of normalised stream that is read.

    Returns:
        Over (`circuit`, `layer`, `head`, `component`), largest first; circuits are QK and OV.
    """
    circuits = _Circuits.of(model)
    Q, K, V, O = map(_triangular, (circuits.Q, circuits.K, circuits.V, circuits.O))  # noqa: E741
    layers = range(model.cfg.n_layers)
    factors = torch.tensor([model.cfg.score_factor(layer) for layer in layers])
    qk = torch.linalg.svdvals(Q @ K.mT) * factors.to(Q)[:, None, None]
    values = torch.stack([qk, torch.linalg.svdvals(V @ O.mT)])
    return xr.DataArray(
        values.numpy(force=True),
        dims=("circuit", "layer", "head", "component"),
        coords={"circuit": ["QK", "OV"], "layer": layers, "head": range(model.cfg.n_heads)},
        attrs=provenance(model)
        | {"unit": "QK: attention score; OV: length, per unit that is read"},
    )


@torch.no_grad()
def composition_scores(model: HookedGPT2) -> xr.DataArray:
    """How much of what one head writes another head's query, key or value reads.

    ‖OV_sender · C‖ / (‖OV_sender‖ ‖C‖), Frobenius norms, where C is the receiver's circuit entered
    by its query (Q: W_Q W_Kᵀ), its key (K: W_K W_Qᵀ) or its value (V: W_V W_O). 0: nothing is read;
    1: the only direction that is written is the only one that is read.

    Returns:
        Over (`kind`, `sender_layer`, `sender_head`, `receiver_layer`, `receiver_head`), each in
        [0, 1]; NaN where the sender is not in an earlier layer than the receiver. The attribute
        `baseline`, 1/√(d_model - 1), is the root mean square score of randomly rotated circuits.

    Source: Elhage et al. 2021, who subtract a baseline that is sampled; this one is exact.
    """
    circuits, cfg = _Circuits.of(model), model.cfg
    written = _triangular(circuits.V) @ circuits.O.mT
    read = {
        "Q": circuits.Q @ _triangular(circuits.K).mT,
        "K": circuits.K @ _triangular(circuits.Q).mT,
        "V": circuits.V @ _triangular(circuits.O).mT,
    }
    shape = (len(read), cfg.n_layers, cfg.n_heads, cfg.n_layers, cfg.n_heads)
    scores = written.new_full(shape, torch.nan)
    norms = written.norm(dim=(-2, -1))
    for index, side in enumerate(read.values()):
        for layer in range(1, cfg.n_layers):
            through = einsum(
                written[:layer],
                side[layer],
                "layer sender row d_model, receiver d_model column "
                "-> layer sender receiver row column",
            ).norm(dim=(-2, -1))
            both = norms[:layer, :, None] * side[layer].norm(dim=(-2, -1))
            scores[index, :layer, :, layer] = through / both
    layers, heads = range(cfg.n_layers), range(cfg.n_heads)
    return xr.DataArray(
        scores.numpy(force=True),
        dims=("kind", "sender_layer", "sender_head", "receiver_layer", "receiver_head"),
        coords={
            "kind": list(read),
            "sender_layer": layers,
            "sender_head": heads,
            "receiver_layer": layers,
            "receiver_head": heads,
        },
        attrs=provenance(model) | {"baseline": (cfg.d_model - 1) ** -0.5},
    )


def _check_head(model: HookedGPT2, layer: int, head: int) -> None:
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    if not (0 <= layer < n_layers and 0 <= head < n_heads):
        raise PromptError(
            f"There is no head L{layer}H{head}: layers are 0-{n_layers - 1}, heads 0-{n_heads - 1}."
        )


def _tokens(model: HookedGPT2, vocabulary: Sequence[int] | None) -> Int[Tensor, " token"]:
    chosen = torch.tensor(range(model.cfg.d_vocab) if vocabulary is None else vocabulary)
    if len(chosen) == 0:
        raise PromptError("The vocabulary is empty. Pass token ids, or None for all.")
    return model.to_tokens(chosen[None])[0].to(model.cfg.device)


def _texts(model: HookedGPT2, tokens: Int[Tensor, " token"]) -> list[str]:
    """The tokens' texts; without a tokenizer, their ids."""
    ids = tokens.tolist()
    return model.to_str_tokens(ids) if model.tokenizer else [str(token) for token in ids]


def _dataset(
    model: HookedGPT2, layer: int, head: int, dim: str, values: dict[str, Any], unit: str
) -> xr.Dataset:
    """Columns of numbers and texts over one dimension."""
    columns = {
        name: (dim, x.numpy(force=True) if isinstance(x, Tensor) else x)
        for name, x in values.items()
    }
    attrs = {"layer": layer, "head": head, "unit": unit, "effective_embedding": bool(layer)}
    return xr.Dataset(columns, attrs=provenance(model) | attrs)
