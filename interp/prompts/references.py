"""Prompts to compare one prompt with: whose values stand for "any other text" in an ablation?

All have exactly as many tokens as they are asked for, so that a mean by position and a resampled
value have something at every position.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.prompts.drawing import single_tokens
from interp.tiny.language import LIST_WORDS, training_documents


def other_sentences(
    model: HookedGPT2, n: int, length: int, *, seed: int = 0, prepend_bos: bool | None = None
) -> Int[Tensor, "prompt pos"]:
    """Plain English of the embedded model's language, joined and cut to `length` tokens.

    Args:
        prepend_bos: As in `model.to_tokens`.

    Raises:
        PromptError: no prompt, or no token; a model without a tokenizer.
    """
    _check_size(n, length)
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise PromptError(f"{model.cfg.model_name!r} has no tokenizer, so no sentence can be read.")
    bos = model.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
    documents = training_documents(f"reference {seed}")
    rows = []
    for _ in range(n):
        row = [tokenizer.bos_token_id] if bos else []
        text = next(documents).text
        while len(row) < length:
            row += tokenizer.encode(text)
            text = f" {next(documents).text}"
        rows.append(row[:length])
    return torch.tensor(rows, device=model.cfg.device)


def shuffled(
    model: HookedGPT2, tokens: Int[Tensor, "one pos"], n: int, *, seed: int = 0
) -> Int[Tensor, "prompt pos"]:
    """The prompt's own tokens in random orders; a BOS at the beginning stays there.

    Raises:
        PromptError: no prompt is asked for, or several are given.
    """
    if len(tokens) != 1:
        raise PromptError(f"One prompt is shuffled, got {len(tokens)}.")
    _check_size(n, tokens.shape[1])
    bos = model.tokenizer.bos_token_id if model.tokenizer else None
    n_kept = int(int(tokens[0, 0]) == bos)
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(tokens.shape[1] - n_kept, generator=generator) for _ in range(n)]
    kept = torch.arange(n_kept)
    order = torch.stack([torch.cat([kept, order + n_kept]) for order in orders])
    return tokens[0].cpu()[order].to(tokens.device)


def _check_size(n: int, length: int) -> None:
    if n < 1 or length < 1:
        raise PromptError(f"Ask for at least one prompt of one token, got {n} of {length}.")


def everyday_words(model: HookedGPT2) -> list[int]:
    """Token ids of plain words that are one token after a space: colours, things, names and others.

    Raises:
        PromptError: fewer than two of them are.
    """
    words = single_tokens(model, LIST_WORDS, at_least=2)
    return [model.to_single_token(f" {word}") for word in words]
