"""How often is the embedded model right, and which attention does the seed sentence depend on?

Right means that the likeliest token of the whole vocabulary is an accepted answer. Edges are cut by
setting the attention score from one query to one key to minus infinity before the softmax.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, HookFunction
from interp.tiny.language import SKILLS, Example, held_out_examples
from interp.tiny.lexicon import SEED_SENTENCE

SEED_PROMPT = f"{SEED_SENTENCE} The cat is"
BATCH_SIZE = 128

Head = tuple[int, int]
"""(layer, head)."""


@torch.no_grad()
def last_logits(model: HookedGPT2, texts: Sequence[str]) -> Float[Tensor, "batch d_vocab"]:
    """Logits after the last token of each text."""
    parts = [
        model(model.to_batch(texts[start : start + BATCH_SIZE]), positions="last")[:, 0]
        for start in range(0, len(texts), BATCH_SIZE)
    ]
    return torch.cat(parts)


def accuracy(model: HookedGPT2, examples: Sequence[Example]) -> float:
    """Share of prompts after which the likeliest token is an accepted answer."""
    likeliest = last_logits(model, [example.text for example in examples]).argmax(dim=-1)
    right = [
        model.to_string(token) in example.accepted
        for token, example in zip(likeliest.tolist(), examples, strict=True)
    ]
    return sum(right) / len(right)


def accepted_probability(model: HookedGPT2, examples: Sequence[Example]) -> float:
    """Mean probability of all accepted answers together."""
    probabilities = last_logits(model, [example.text for example in examples]).softmax(dim=-1)
    masses = [
        row[[model.to_single_token(answer) for answer in example.accepted]].sum()
        for row, example in zip(probabilities, examples, strict=True)
    ]
    return float(torch.stack(masses).mean())


def held_out_scores(model: HookedGPT2, n: int, seed: int) -> dict[str, float]:
    """Accuracy on `n` held-out prompts of each skill, and the probability of a later year."""
    examples = {skill: held_out_examples(skill, n, seed) for skill in sorted(SKILLS)}
    scores = {skill: accuracy(model, prompts) for skill, prompts in examples.items()}
    years = accepted_probability(model, examples["greater_than"])
    return scores | {"greater_than probability": years}


@dataclass(frozen=True)
class EdgeCut:
    """What the model says when some heads may not attend from one query to one key."""

    heads: tuple[Head, ...]
    """(layer, head) of each head in which the edge was cut; none: the model as it is."""
    attention: float
    """Sum of these heads' weights of the edge before the cut."""
    logit_diff: float
    """logit(answer) - logit(wrong), after the cut."""
    probability: float
    """Of the answer, after the cut."""
    likeliest: str
    """The likeliest word after the cut."""


@torch.no_grad()
def seed_sentence_cuts(model: HookedGPT2, *, colour: str = "black") -> list[EdgeCut]:
    """The edge from the first " cat" to the colour in the seed sentence, cut in different heads.

    First uncut, then cut in each head alone, last in all heads. Whatever the colour, " black"
    counts as answer and " white" as wrong, both after "The cat is".
    """
    prompt = SEED_PROMPT.replace("black", colour)
    tokens = model.to_tokens(prompt)
    query = model.find_word(prompt, " cat", occurrence=0)
    key = model.find_word(prompt, f" {colour}")
    black, white = model.to_single_token(" black"), model.to_single_token(" white")
    _, cache = model.run_with_cache(tokens)

    def cut(*heads: Head) -> EdgeCut:
        hooks = [cut_edge(layer, head, query, key) for layer, head in heads]
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
        assert isinstance(logits, Tensor)
        last = logits[0, -1]
        weights = [float(cache["pattern", layer][0, head, query, key]) for layer, head in heads]
        return EdgeCut(
            heads=heads,
            attention=float(sum(weights)),
            logit_diff=float(last[black] - last[white]),
            probability=float(last.softmax(dim=-1)[black]),
            likeliest=model.to_str_tokens([int(last.argmax())])[0],
        )

    heads = all_heads(model)
    return [cut(), *[cut(head) for head in heads], cut(*heads)]


@torch.no_grad()
def accuracy_with_cut_edges(model: HookedGPT2, examples: Sequence[Example]) -> float:
    """Accuracy when the first mention of each asked thing may not attend to its colour.

    The edge is cut in every head; prompts run one by one.
    """
    n_right = 0
    for example in examples:
        tokens = model.to_tokens(example.text)
        ids = tokens[0].tolist()
        query = ids.index(model.to_single_token(example.query_word))
        key = query - 1 - ids[:query][::-1].index(model.to_single_token(example.key_word))
        hooks = [cut_edge(layer, head, query, key) for layer, head in all_heads(model)]
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks, positions="last")
        assert isinstance(logits, Tensor)
        n_right += model.to_string(logits[0, -1].argmax()) == example.answer
    return n_right / len(examples)


def all_heads(model: HookedGPT2) -> list[Head]:
    """Every (layer, head)."""
    return [
        (layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)
    ]


def cut_edge(layer: int, head: int, query: int, key: int) -> tuple[str, HookFunction]:
    """A forward hook that forbids one head to attend from one position to another."""

    def cut(scores: Float[Tensor, "batch head query_pos key_pos"], hook: Hook) -> Tensor:  # noqa: ARG001
        scores = scores.clone()
        scores[:, head, query, key] = -torch.inf
        return scores

    return f"blocks.{layer}.attn.hook_attn_scores", cut
