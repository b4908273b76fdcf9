"""Other weights for the same function, and a hash that says which weights were used.

Log-probabilities stay what they were, up to rounding, while single activations become easier to
read: LayerNorms without weight and bias, a residual stream without its mean, logits that sum to
zero, no value biases. Each function returns a new model, which shares nothing with the given one.
The four in a row are TransformerLens' compatibility mode (Nanda and Bloom 2022, `ProcessWeights`).
"""

import json
from dataclasses import replace

import torch
import xxhash
from einops import einsum
from torch import Tensor

from interp.errors import ConfigError
from interp.model.gpt2 import HookedGPT2

NOT_HASHED = ("model_name", "device", "init_range", "default_prepend_bos")
"""Fields of the configuration that change no activation."""


def fold_layer_norm(model: HookedGPT2) -> HookedGPT2:
    """Move each LayerNorm's weight and bias into the weights that read from it.

    What is left divides the centred stream by its scale. The reading weights are centred too, as
    in TransformerLens: their mean over `d_model` never sees anything but zero.
    """
    weights = _own_weights(model)
    for layer in range(model.cfg.n_layers):
        block = f"blocks.{layer}"
        for norm, weight, bias in (
            ("ln1", "attn.W_QKV", "attn.b_QKV"),
            ("ln2", "mlp.W_in", "mlp.b_in"),
        ):
            w, b = _take_norm(weights, f"{block}.{norm}")
            reading = weights[f"{block}.{weight}"]
            weights[f"{block}.{bias}"] += einsum(b, reading, "d_model, d_model ... -> ...")
            scaled = einsum(w, reading, "d_model, d_model ... -> d_model ...")
            weights[f"{block}.{weight}"] = _centred(scaled, dim=0)
    w, b = _take_norm(weights, "ln_final")
    unembed = weights["unembed.weight"]
    weights["unembed.b_U"] += einsum(unembed, b, "d_vocab d_model, d_model -> d_vocab")
    weights["unembed.weight"] = _centred(unembed * w, dim=1)
    return _rebuilt(model, weights)


def center_writing_weights(model: HookedGPT2) -> HookedGPT2:
    """Write nothing along the all-ones direction, which every LayerNorm removes anyway."""
    weights = _own_weights(model)
    names = ["embed.W_E", "pos_embed.W_pos"]
    for layer in range(model.cfg.n_layers):
        parts = ("attn.W_O", "attn.b_O", "mlp.W_out", "mlp.b_out")
        names += [f"blocks.{layer}.{part}" for part in parts]
    return _rebuilt(model, weights | {name: _centred(weights[name], dim=-1) for name in names})


def center_unembed(model: HookedGPT2) -> HookedGPT2:
    """Shift the logits of each position so that they sum to zero; softmax does not see it.

    Raises:
        ConfigError: a classifier, whose outputs need not go through a softmax.
    """
    if model.cfg.n_classes is not None:
        raise ConfigError(
            f"{model.cfg.model_name!r} is a classifier: shifting its outputs would change what "
            "they mean unless they go through a softmax."
        )
    weights = _own_weights(model)
    centred = {n: _centred(weights[n], dim=0) for n in ("unembed.weight", "unembed.b_U")}
    return _rebuilt(model, weights | centred)


def fold_value_biases(model: HookedGPT2) -> HookedGPT2:
    """Move each head's value bias into b_O: a pattern's rows sum to 1, so it always adds the same.

    Activations differ from then on when a pattern is edited so that its rows do not sum to 1.
    """
    weights = _own_weights(model)
    for layer in range(model.cfg.n_layers):
        attn = f"blocks.{layer}.attn"
        b_V = weights[f"{attn}.b_QKV"][2]
        equation = "head d_head, head d_head d_model -> d_model"
        weights[f"{attn}.b_O"] += einsum(b_V, weights[f"{attn}.W_O"], equation)
        b_V.zero_()
    return _rebuilt(model, weights)


def _own_weights(model: HookedGPT2) -> dict[str, Tensor]:
    """Copies of all weights by our names, with an unembedding and a bias of their own."""
    weights = {name: x.detach().clone() for name, x in model.state_dict().items()}
    return {"unembed.b_U": model.b_U.detach().clone()} | weights


def _take_norm(weights: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of a LayerNorm, which becomes the identity."""
    w, b = weights[f"{name}.w"], weights[f"{name}.b"]
    weights[f"{name}.w"], weights[f"{name}.b"] = torch.ones_like(w), torch.zeros_like(b)
    return w, b


def _centred(x: Tensor, dim: int) -> Tensor:
    return x - x.mean(dim=dim, keepdim=True)


def _rebuilt(model: HookedGPT2, weights: dict[str, Tensor]) -> HookedGPT2:
    cfg = replace(model.cfg, tie_word_embeddings=False)
    return HookedGPT2.from_weights(cfg, weights, model.tokenizer)


def model_hash(model: HookedGPT2) -> str:
    """32 hexadecimal digits that stand for configuration and weights, on any device and machine.

    The model's name, where it came from and how its weights lie in memory do not matter; their
    floating-point type does.
    """
    fields = {name: str(value) for name, value in vars(model.cfg).items() if name not in NOT_HASHED}
    digest = xxhash.xxh3_128(json.dumps(fields, sort_keys=True).encode())
    for name, x in sorted(model.named_parameters()):
        digest.update(f"{name} {list(x.shape)} {x.dtype}".encode())
        digest.update(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
