"""What a run is judged by: one number per example, read from the logits of the last position.

A metric says which vocabulary rows it reads, so that a sweep need not unembed the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError

TokenIds = int | Sequence[int] | Int[Tensor, " example"]
"""One token id per example; a single one serves all."""


@dataclass(frozen=True)
class Metric:
    """A number per example, such as a logit difference; higher is better."""

    name: str
    unit: str
    reduce: Callable[[Float[Tensor, "batch read"]], Float[Tensor, " batch"]]
    """From the logits that are read to the number."""
    vocab_ids: Int[Tensor, "example read"] | None = None
    """Which logits are read, per example (one row serves all); `None` for the whole vocabulary."""

    def __call__(
        self, logits: Float[Tensor, "batch pos d_vocab"] | Float[Tensor, "batch d_vocab"]
    ) -> Float[Tensor, " batch"]:
        """The metric of logits; of the last position if there are several.

        For padded prompts ask the model for `positions="last"`, or the last row is padding.
        """
        final = logits[:, -1] if logits.ndim == 3 else logits
        if self.vocab_ids is None:
            return self.reduce(final)
        ids = self.vocab_ids.to(final.device)
        if len(ids) not in (1, len(final)):
            raise PromptError(f"{self.name} has answers for {len(ids)} examples, not {len(final)}.")
        if int(ids.max()) >= final.shape[-1]:
            raise PromptError(
                f"{self.name} reads token {int(ids.max())}; the logits have {final.shape[-1]}."
            )
        return self.reduce(final.gather(1, ids.expand(len(final), -1)))


def _column(ids: TokenIds, name: str) -> Int[Tensor, "example 1"]:
    column = torch.as_tensor(ids)
    if column.ndim > 1 or column.is_floating_point() or int(column.min()) < 0:
        raise PromptError(f"{name} must be token ids, one per example; got {ids!r}.")
    return column.reshape(-1, 1)


def logit_diff(answers: TokenIds, wrong: TokenIds) -> Metric:
    """logit(answer) - logit(wrong answer), in logits.

    Raises:
        PromptError: an answer equals its wrong answer, or the two differ in number.
    """
    right_ids, wrong_ids = _column(answers, "answers"), _column(wrong, "wrong")
    if len(right_ids) != len(wrong_ids) and 1 not in (len(right_ids), len(wrong_ids)):
        raise PromptError(f"{len(right_ids)} answers and {len(wrong_ids)} wrong answers.")
    right_ids, wrong_ids = torch.broadcast_tensors(right_ids, wrong_ids)
    equal = (right_ids == wrong_ids).flatten().nonzero().flatten().tolist()
    if equal:
        raise PromptError(f"Answer and wrong answer are the same token in examples {equal[:5]}.")
    ids = torch.cat([right_ids, wrong_ids], dim=1)
    return Metric("logit_diff", "logits", lambda read: read[:, 0] - read[:, 1], ids)


def logit(answers: TokenIds) -> Metric:
    """The answer's logit."""
    return Metric("logit", "logits", lambda read: read[:, 0], _column(answers, "answers"))


def logprob(answers: TokenIds) -> Metric:
    """Natural logarithm of the answer's probability."""
    ids = _column(answers, "answers")
    return Metric("logprob", "nats", lambda logits: _gather(logits.log_softmax(dim=-1), ids))


def prob(answers: TokenIds) -> Metric:
    """The answer's probability."""
    ids = _column(answers, "answers")
    return Metric("prob", "probability", lambda logits: _gather(logits.softmax(dim=-1), ids))


def kl_divergence(reference_logits: Float[Tensor, "batch d_vocab"]) -> Metric:
    """Minus the Kullback-Leibler divergence from a reference run's prediction, in nats; 0 is equal.

    Negative, so that higher is better here too: KL(reference || run), Kullback & Leibler 1951.
    """
    reference = reference_logits.log_softmax(dim=-1)

    def reduce(logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        difference = reference - logits.log_softmax(dim=-1)
        return -(reference.exp() * difference).sum(dim=-1)

    return Metric("negative_kl_divergence", "nats", reduce)


def _gather(
    values: Float[Tensor, "batch d_vocab"], ids: Int[Tensor, "example 1"]
) -> Float[Tensor, " batch"]:
    return values.gather(1, ids.to(values.device).expand(len(values), 1))[:, 0]
