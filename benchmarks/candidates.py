"""The same random GPT-2 in our library and in the peers'."""

import os

os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "disabled"

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from interp.model.gpt2 import HookedGPT2

logging.set_verbosity_error()


def huggingface(seed: int = 0) -> GPT2LMHeadModel:
    """GPT-2 small's shape with random weights, ready for inference."""
    torch.manual_seed(seed)
    return GPT2LMHeadModel(GPT2Config()).eval().requires_grad_(False)


def ours() -> HookedGPT2:
    """The same weights in our model."""
    return HookedGPT2.from_huggingface(huggingface())


def transformer_lens():
    """The same weights behind TransformerLens' bridge, without weight processing."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = huggingface()
    return build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=model.config)


def tokens(batch: int, n_positions: int) -> torch.Tensor:
    """Random token ids."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 50_000, (batch, n_positions), generator=generator)
