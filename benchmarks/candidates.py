"""The same random GPT-2 in our library and in the peers'."""

import torch
from tokenizers import Tokenizer as Backend
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import END_OF_TEXT, Tokenizer

logging.set_verbosity_error()


def huggingface(config: GPT2Config | None = None) -> GPT2LMHeadModel:
    """Random weights, by default in GPT-2 small's shape, ready for inference."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(config or GPT2Config()).eval().requires_grad_(False)


def ours(config: GPT2Config | None = None) -> HookedGPT2:
    """The same weights in our model."""
    return HookedGPT2.from_huggingface(huggingface(config))


def tokenizer(n_tokens: int = 50257) -> Tokenizer:
    """A byte-level tokenizer of GPT-2's size; only the tokens of single bytes can occur."""
    alphabet = sorted(ByteLevel.alphabet())
    fillers = (f"filler{index}" for index in range(n_tokens - len(alphabet) - 1))
    vocabulary = {token: index for index, token in enumerate([*alphabet, *fillers, END_OF_TEXT])}
    backend = Backend(BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens([END_OF_TEXT])
    return Tokenizer(backend)


def transformer_lens(config: GPT2Config | None = None):
    """The same weights behind TransformerLens' bridge, without weight processing."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    model = huggingface(config)
    return build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=model.config)


def tokens(batch: int, n_positions: int) -> torch.Tensor:
    """Random token ids."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 50_000, (batch, n_positions), generator=generator)
