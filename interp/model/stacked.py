"""Weights under TransformerLens' names, stacked over layers: copies, for reading and analysis."""

from operator import attrgetter
from typing import Any

import torch
from einops import rearrange
from torch import Tensor


def stacked(path: str, index: int | None = None, pattern: str | None = None) -> property:
    """A property that stacks one weight of every block.

    Args:
        path: Attribute path inside a block.
        index: 0, 1, 2 for the query, key and value part of a fused weight.
        pattern: einops pattern from our layout to TransformerLens'.
    """

    def collect(model: "StackedWeights") -> Tensor:
        weights = [attrgetter(path)(block) for block in model.blocks]
        if index is not None:
            weights = [weight.select(weight.ndim - 3, index) for weight in weights]
        return torch.stack([rearrange(w, pattern) if pattern else w for w in weights])

    return property(collect, doc=f"`{path}` of all blocks, stacked on a leading layer axis.")


PER_HEAD = "d_model head d_head -> head d_model d_head"


class StackedWeights:
    """W_Q, W_K, W_V `layer head d_model d_head`, W_O `layer head d_head d_model`, and so on."""

    # Modules of the model that this class becomes a part of; `Any`, since torch does not know
    # that their attributes are tensors.
    blocks: Any
    embed: Any
    pos_embed: Any
    unembed: Any

    W_Q = stacked("attn.W_QKV", 0, PER_HEAD)
    W_K = stacked("attn.W_QKV", 1, PER_HEAD)
    W_V = stacked("attn.W_QKV", 2, PER_HEAD)
    b_Q = stacked("attn.b_QKV", 0)
    b_K = stacked("attn.b_QKV", 1)
    b_V = stacked("attn.b_QKV", 2)
    W_O = stacked("attn.W_O")
    b_O = stacked("attn.b_O")
    W_in = stacked("mlp.W_in")
    b_in = stacked("mlp.b_in")
    W_out = stacked("mlp.W_out")
    b_out = stacked("mlp.b_out")

    @property
    def W_E(self) -> Tensor:
        """Token embedding, `d_vocab d_model`."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Tensor:
        """Position embedding, `n_ctx d_model`."""
        return self.pos_embed.W_pos

    @property
    def W_U(self) -> Tensor:
        """Unembedding, `d_model d_vocab`."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Tensor:
        """Bias of the unembedding, `d_vocab`; zeros in an unprocessed GPT-2."""
        bias = self.unembed.b_U
        return bias if bias is not None else self.unembed.weight.new_zeros(len(self.unembed.weight))

    def accumulated_bias(
        self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
    ) -> Tensor:
        """Sum of the output biases written before `layer` (or before its MLP), `d_model`."""
        blocks = list(self.blocks)
        biases = [block.attn.b_O for block in blocks[: layer + int(mlp_input)]]
        if include_mlp_biases:
            biases += [block.mlp.b_out for block in blocks[:layer]]
        return sum(biases, start=torch.zeros_like(self.unembed.weight[0]))
