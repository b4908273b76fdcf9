"""From generated documents to rows of token ids: which tokens does one training step see?

A row begins with a new document, goes on with others and is cut at its length; every document
begins with the end-of-text token, except that a few rows begin without it. A few documents are
random token ids repeated once, so that every token of the vocabulary, also those outside the
language, is seen and can be copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from interp.tiny.language import training_documents

ENCODED_AT_ONCE = 64
RANDOM_REPEATS = 0.05
"""Share of documents that are random token ids instead of text."""
LONGEST_REPEAT = 50
BARE_ROWS = 0.1
"""Share of rows that begin without the end-of-text token."""

WeightedTokens = tuple[list[int], list[bool]]
"""Token ids of one document, and which of them are answers."""


@dataclass(frozen=True)
class Batch:
    """The rows of one training step."""

    tokens: Int[Tensor, "row pos_and_next"]
    """One column more than the model reads: the last is only predicted."""
    is_answer: Float[Tensor, "row pos_and_next"]
    """1 where the token is an answer, else 0."""


def make_batch(tokenizer: Tokenizer, seed: str, n_rows: int, n_tokens: int) -> Batch:
    """`n_rows` rows of `n_tokens` + 1 tokens; equal seeds give equal batches."""
    documents = _encoded_documents(tokenizer, seed)
    random = Random(f"rows {seed}")
    rows = []
    for _ in range(n_rows):
        ids, answers = _fill_row(documents, n_tokens + 2)
        start = int(random.random() < BARE_ROWS)
        rows.append((ids[start : start + n_tokens + 1], answers[start : start + n_tokens + 1]))
    tokens = torch.tensor([ids for ids, _ in rows])
    return Batch(tokens, torch.tensor([answers for _, answers in rows], dtype=torch.float32))


def _fill_row(documents: Iterator[WeightedTokens], length: int) -> WeightedTokens:
    ids: list[int] = []
    answers: list[bool] = []
    while len(ids) < length:
        more_ids, more_answers = next(documents)
        ids += more_ids
        answers += more_answers
    return ids[:length], answers[:length]


def _encoded_documents(tokenizer: Tokenizer, seed: str) -> Iterator[WeightedTokens]:
    random = Random(f"batch {seed}")
    documents = training_documents(seed)
    while True:
        chunk = list(islice(documents, ENCODED_AT_ONCE))
        encodings = tokenizer.encode_batch([document.text for document in chunk])
        for document, encoding in zip(chunk, encodings, strict=True):
            if random.random() < RANDOM_REPEATS:
                yield _random_repeat(random, tokenizer.get_vocab_size())
            else:
                answers = [begin in document.answers for begin, _ in encoding.offsets]
                yield [0, *encoding.ids], [False, *answers]


def _random_repeat(random: Random, n_tokens: int) -> WeightedTokens:
    once = [random.randrange(1, n_tokens) for _ in range(random.randint(3, LONGEST_REPEAT))]
    is_second = [False] * (len(once) + 1) + [True] * (len(once) - 1)
    return [0, *once, *once], [False, *is_second]
