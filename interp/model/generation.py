"""Continuing a text token by token, with keys and values of the past kept."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import PromptError
from interp.model.key_values import KeyValueCache
from interp.model.tokens import Prompt, TextInterface, TokenBatch

NextLogits = Callable[[Tensor, KeyValueCache], Float[Tensor, "batch d_vocab"]]


def sample(
    logits: Float[Tensor, "batch d_vocab"],
    *,
    temperature: float,
    top_k: int | None,
    generator: torch.Generator,
) -> Int[Tensor, " batch"]:
    """One token per row; temperature 0 takes the most likely."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = drawing_probabilities(logits, temperature=temperature, top_k=top_k)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def drawing_probabilities(
    logits: Float[Tensor, "batch d_vocab"], *, temperature: float, top_k: int | None
) -> Float[Tensor, "batch d_vocab"]:
    """How probable `sample` makes each token; at temperature 0 the most likely one has 1."""
    if temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits, dtype=torch.float32).scatter(-1, best, 1.0)
    if top_k is not None:
        threshold = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, float("-inf"))
    return (logits.float() / temperature).softmax(dim=-1)


def check_sampling(
    n_tokens: int, n_ctx: int, *, max_new_tokens: int, temperature: float, top_k: int | None
) -> None:
    """Refuse settings that cannot work, before anything is computed."""
    if max_new_tokens < 0:
        raise PromptError(f"max_new_tokens must not be negative, got {max_new_tokens}.")
    if n_tokens + max_new_tokens > n_ctx:
        raise PromptError(
            f"{n_tokens} prompt tokens and {max_new_tokens} new ones are more than the model's "
            f"{n_ctx}. Ask for at most {max(n_ctx - n_tokens, 0)} new tokens."
        )
    if temperature < 0:
        raise PromptError(f"temperature must be 0 (greedy) or positive, got {temperature}.")
    if top_k is not None and top_k < 1:
        raise PromptError(f"top_k must be at least 1, got {top_k}.")


def continue_tokens(
    next_logits: NextLogits,
    tokens: Int[Tensor, "batch pos"],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    stop_token: int | None,
) -> Int[Tensor, "batch new_pos"]:
    """Prompt and continuation; rows that ended are filled with `stop_token`.

    Args:
        next_logits: Takes the tokens not seen yet and the past; returns logits after the last.
        stop_token: Ends a row; `None` never ends one.
    """
    for _, chosen in draws(
        next_logits, tokens, max_new_tokens=max_new_tokens, temperature=temperature, top_k=top_k,
        seed=seed, stop_token=stop_token,
    ):  # fmt: skip
        tokens = torch.cat([tokens, chosen[:, None]], dim=1)
    return tokens


def draws(
    next_logits: NextLogits,
    tokens: Int[Tensor, "batch pos"],
    *,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    stop_token: int | None,
) -> Iterator[tuple[Float[Tensor, "batch d_vocab"], Int[Tensor, " batch"]]]:
    """The steps of `continue_tokens`: the logits that each token was drawn from, and the token."""
    generator = torch.Generator(device=tokens.device).manual_seed(seed)
    past = KeyValueCache()
    unseen = tokens
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for _ in range(max_new_tokens):
        logits = next_logits(unseen, past)
        chosen = sample(logits, temperature=temperature, top_k=top_k, generator=generator)
        if stop_token is not None:
            chosen = chosen.masked_fill(ended, stop_token)
            ended |= chosen == stop_token
        unseen = chosen[:, None]
        yield logits, chosen
        if bool(ended.all()):
            return


def continue_prompt(
    model: TextInterface,
    batch: TokenBatch,
    next_logits: NextLogits,
    *,
    as_text: bool,
    max_new_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
    stop_at_eos: bool,
) -> str | Int[Tensor, "batch pos"]:
    """Check the settings, continue a batch of equal lengths, and decode it if text is wanted.

    Args:
        as_text: Return the first row as text, without the leading special token.
    """
    if not bool(batch.attention_mask.all()):
        raise PromptError("Prompts of unequal length: generate for one prompt at a time.")
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_k": top_k}
    check_sampling(batch.tokens.shape[1], model.cfg.n_ctx, **settings)
    bos = model.tokenizer.bos_token_id if model.tokenizer else None
    stop = bos if stop_at_eos else None
    tokens = continue_tokens(next_logits, batch.tokens, seed=seed, stop_token=stop, **settings)
    if not as_text:
        return tokens
    row = tokens[0].tolist()
    return str(model.to_string(row[int(row[0] == bos) :]))


def cached_logits(model: Callable[..., Tensor]) -> NextLogits:
    """Runs a model on what it has not seen yet, with the keys and values of the past."""

    def next_logits(unseen: Tensor, past: KeyValueCache) -> Float[Tensor, "batch d_vocab"]:
        batch = TokenBatch(unseen, torch.ones_like(unseen, dtype=torch.bool))
        return model(batch, past_kv_cache=past, positions=-1)[:, -1]

    return next_logits


class Generates(TextInterface, nn.Module):
    """`generate` of a model that runs forward with a key-value cache."""

    @torch.no_grad()
    def generate(
        self,
        input: Prompt,
        max_new_tokens: int = 20,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        stop_at_eos: bool = True,
        prepend_bos: bool | None = None,
    ) -> str | Int[Tensor, "batch pos"]:
        """Continue a prompt.

        Args:
            input: A text (a text comes back, without the leading special token) or token ids of
                equal lengths (ids come back).
            temperature: Divides the logits; 0 takes the most likely token each time.
            top_k: Sample among the k most likely only.
            seed: Same seed, same continuation.

        Raises:
            PromptError: the result would be longer than `n_ctx`, or the settings make no sense.
        """
        return continue_prompt(
            self,
            self.as_batch(input, prepend_bos),
            cached_logits(self),
            as_text=isinstance(input, str),
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            seed=seed,
            stop_at_eos=stop_at_eos,
        )
