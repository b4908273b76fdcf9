"""From a single token into a head, and from a head to a token's logit: no prompt, only weights.

A head's circuits are read off between these two ends (Elhage et al. 2021, "A Mathematical Framework
for Transformer Circuits"). Positions and all other components are left out.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from interp.model.gpt2 import HookedGPT2

CHUNK = 2048
"""Tokens that pass through the first MLP together."""


@torch.no_grad()
def token_inputs(
    model: HookedGPT2, layer: int, tokens: Int[Tensor, " token"]
) -> Float[Tensor, "token d_model"]:
    """What the heads of a layer read when the stream holds this one token and nothing else.

    Layer 0 reads W_E. Later layers read the effective embedding W_E + MLP0(W_E), since in GPT-2 the
    first MLP acts like a second embedding (Wang et al. 2022, arXiv:2211.00593, appendix on copying
    scores). Both pass through the layer's own LayerNorm, with its exact scale for that stream.
    """
    block, first = model.blocks[layer], model.blocks[0]
    inputs = []
    for chunk in tokens.split(CHUNK):
        stream = model.W_E[chunk]
        if layer:
            mlp = first.mlp
            post = mlp.activation(linear(first.ln2(stream), mlp.W_in.T, mlp.b_in))
            stream = stream + linear(post, mlp.W_out.T, mlp.b_out)
        inputs.append(block.ln1(stream))
    return torch.cat(inputs)


@torch.no_grad()
def logit_directions(
    model: HookedGPT2, tokens: Int[Tensor, " token"]
) -> Float[Tensor, "d_model token"]:
    """How each of these logits, minus the mean of all logits, reads the stream.

    The final LayerNorm's weight and centring are folded in; its scale is left at 1, so products
    with these are logits times that scale. Its bias adds the same to every run and is left out.
    """
    centred = model.W_U[:, tokens] - model.W_U.mean(dim=1, keepdim=True)
    folded = centred * model.ln_final.w[:, None]
    return folded - folded.mean(dim=0)
