"""Which other prompts stand for "any text" where an ablation needs them."""

import torch
from jaxtyping import Int
from torch import Tensor

from dashboards.measurements.basics import Tokens
from interp import prompts
from interp.model.gpt2 import HookedGPT2

POSITIONS = 300
"""Of all reference prompts together, about: they are run once for each question."""
FEWEST, MOST = 4, 32

SOURCES = {
    "sentences": "other sentences",
    "shuffled": "this prompt's words in random order",
}
"""Where reference prompts come from."""


def n_references(tokens: Tokens) -> int:
    """How many reference prompts are used for a prompt: fewer for a longer one."""
    return max(FEWEST, min(MOST, POSITIONS // len(tokens)))


def sources(model: HookedGPT2) -> dict[str, str]:
    """Those of `SOURCES` that a model can have: sentences need a tokenizer."""
    return {name: text for name, text in SOURCES.items() if model.tokenizer or name == "shuffled"}


def begins_with_bos(model: HookedGPT2, tokens: Tokens) -> bool:
    """Whether the first token is the one between documents."""
    return model.tokenizer is not None and tokens[0] == model.tokenizer.bos_token_id


def reference(
    model: HookedGPT2, tokens: Tokens, source: str, seed: int
) -> Int[Tensor, "prompt pos"]:
    """Reference prompts as long as the prompt, with a BOS where it has one."""
    n = n_references(tokens)
    if source == "shuffled":
        return prompts.shuffled(model, torch.tensor([tokens]), n, seed=seed)
    bos = begins_with_bos(model, tokens)
    return prompts.other_sentences(model, n, len(tokens), seed=seed, prepend_bos=bos)


def reference_code(model: HookedGPT2, tokens: Tokens, source: str, seed: int) -> str:
    """The line of Python that makes the same prompts."""
    n = n_references(tokens)
    if source == "shuffled":
        ids = "model.to_tokens(tokens)"
        return f"reference = interp.prompts.shuffled(model, {ids}, {n}, seed={seed})\n"
    bos = begins_with_bos(model, tokens)
    return (
        f"reference = interp.prompts.other_sentences(\n    model, {n}, {len(tokens)}, seed={seed}, "
        f"prepend_bos={bos}\n)\n"
    )
