"""What a run is judged by: one number per example, read from logits.

A metric says which positions and which rows of the vocabulary it reads, so that a sweep need not
compute the others: `model(tokens, positions=metric.positions)`, and only `metric.vocab_ids`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.model import formula
from interp.model.formula import at_least_float32
from interp.model.tokens import TokenBatch

TokenIds = int | Sequence[int] | Int[Tensor, "*example"]
"""One token id per example; a single one serves all."""
Position = Literal["last"] | int | Sequence[int] | Int[Tensor, " example"]
"""Where the logits are read: each prompt's last real token, or a position, shared or one each."""
Final = Float[Tensor, "batch d_vocab"]
Read = Float[Tensor, "batch chosen read"]
"""The logits that a metric reads: of its positions, of its tokens."""


@dataclass(frozen=True)
class Metric:
    """A number per example, such as a logit difference."""

    name: str
    unit: str
    reduce: Callable[..., Float[Tensor, " batch"]]
    """From the logits that are read (`Read`, at least float32), and what `per_example` holds, to
    the number."""
    vocab_ids: Int[Tensor, "#example read"] | None = None
    """Which logits are read, per example (one row serves all); `None` for the whole vocabulary."""
    positions: Literal["last"] | int | Int[Tensor, "#example chosen"] | None = "last"
    """Where; as the model's option of that name. `None` reads the whole prompt."""
    per_example: tuple[Tensor, ...] = ()
    """What else `reduce` needs: tensors with a row per example (one row serves all)."""
    weights: tuple[float, ...] | None = None
    """For a metric that is linear in the logits: the weight of each token that is read."""

    def __call__(
        self, logits: Float[Tensor, "batch pos d_vocab"] | Final
    ) -> Float[Tensor, " batch"]:
        """The metric of logits: of the chosen positions alone, or of the whole prompt.

        For padded prompts ask the model for `positions=metric.positions`: the whole prompt's last
        row may be padding.

        Raises:
            PromptError: answers for another number of examples, or outside the vocabulary.
        """
        chosen = at_least_float32(self._chosen(logits))
        return self.of_read(chosen if self.vocab_ids is None else _read(chosen, self.vocab_ids))

    def of_read(self, read: Read) -> Float[Tensor, " batch"]:
        """The metric of exactly the logits that it reads."""
        rows = (_one_row_each(x, len(read), "answers") for x in self.per_example)
        return self.reduce(read, *(own.to(read.device) for own in rows))

    def of_examples(self, index: Int[Tensor, " batch"]) -> "Metric":
        """The same metric for some of its examples, in this order; they may repeat."""

        def chosen(rows: Tensor) -> Tensor:
            return rows if len(rows) == 1 else rows[index.to(rows.device)]

        return replace(
            self,
            vocab_ids=None if self.vocab_ids is None else chosen(self.vocab_ids),
            positions=chosen(self.positions)
            if isinstance(self.positions, Tensor)
            else self.positions,
            per_example=tuple(map(chosen, self.per_example)),
        )

    def _chosen(self, logits: Tensor) -> Float[Tensor, "batch chosen d_vocab"]:
        if logits.ndim == 2:
            logits = logits[:, None]
        if self.positions is None:
            return logits
        where = -1 if self.positions == "last" else self.positions
        chosen = torch.as_tensor(where, device=logits.device)
        chosen = chosen.reshape(1, 1) if chosen.ndim == 0 else chosen
        n_examples, n_positions = logits.shape[:2]
        if n_positions == chosen.shape[1]:
            return logits
        if int(chosen.min()) < -n_positions or int(chosen.max()) >= n_positions:
            raise PromptError(
                f"{self.name} reads positions {chosen.flatten().tolist()}; the logits have "
                f"{n_positions}."
            )
        rows = _one_row_each(chosen % n_positions, n_examples, "positions")
        return logits[torch.arange(n_examples, device=logits.device)[:, None], rows]


def logit_diff(answers: TokenIds, wrong: TokenIds, *, positions: Position = "last") -> Metric:
    """logit(answer) - logit(wrong answer), in logits; higher favours the answer.

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
    return _linear("logit_diff", (1.0, -1.0), ids, positions)


def logit(answers: TokenIds, *, positions: Position = "last") -> Metric:
    """The answer's logit."""
    return _linear("logit", (1.0,), _column(answers, "answers"), positions)


def _linear(name: str, weights: tuple[float, ...], ids: Tensor, positions: Position) -> Metric:
    def weighted(read: Read) -> Float[Tensor, " batch"]:
        return (read[:, 0] * read.new_tensor(weights)).sum(dim=-1)

    return Metric(name, "logits", weighted, ids, _position(positions), weights=weights)


def logprob(answers: TokenIds, *, positions: Position = "last") -> Metric:
    """Natural logarithm of the answer's probability, in nats."""

    def reduce(logits: Read, ids: Tensor) -> Float[Tensor, " batch"]:
        return logits[:, 0].log_softmax(dim=-1).gather(1, ids)[:, 0]

    return _of_answers("logprob", "nats", reduce, answers, positions)


def prob(answers: TokenIds, *, positions: Position = "last") -> Metric:
    """The answer's probability."""

    def reduce(logits: Read, ids: Tensor) -> Float[Tensor, " batch"]:
        return logits[:, 0].softmax(dim=-1).gather(1, ids)[:, 0]

    return _of_answers("prob", "probability", reduce, answers, positions)


def _of_answers(
    name: str, unit: str, reduce: Callable[..., Tensor], answers: TokenIds, positions: Position
) -> Metric:
    """A metric of the answers' place in the whole distribution."""

    def checked(logits: Read, ids: Tensor) -> Float[Tensor, " batch"]:
        _check_ids(ids, logits.shape[-1])
        return reduce(logits, ids)

    ids = _column(answers, "answers")
    return Metric(name, unit, checked, positions=_position(positions), per_example=(ids,))


def kl_divergence(reference_logits: Final, *, positions: Position = "last") -> Metric:
    """KL(reference || run) of the predictions, in nats: 0 if equal, the lower the closer.

    Args:
        reference_logits: Of the run to compare with, at the same positions; a row per example, or
            one that serves all.

    Source: Kullback & Leibler 1951.
    """
    reference = at_least_float32(reference_logits.detach()).log_softmax(dim=-1)

    def reduce(logits: Read, expected: Final) -> Float[Tensor, " batch"]:
        final = logits[:, 0]
        if final.shape[-1] != expected.shape[-1]:
            raise PromptError(
                f"kl_divergence compares with logits of shape {list(reference.shape)}; these have "
                f"{list(final.shape)}."
            )
        return (expected.exp() * (expected - final.log_softmax(dim=-1))).sum(dim=-1)

    where = _position(positions)
    return Metric("kl_divergence", "nats", reduce, positions=where, per_example=(reference,))


def next_token_loss(batch: TokenBatch) -> Metric:
    """Mean cross-entropy of each prompt's next tokens, in nats; the lower the better.

    It reads the logits of the whole prompt.

    Args:
        batch: The prompts whose tokens are predicted, as `model.as_batch` gives them.

    Raises:
        PromptError: a prompt of one token, which predicts nothing.
    """
    n_predicted = formula.predicted(batch.attention_mask).sum(dim=-1)
    if not bool(n_predicted.all()):
        raise PromptError("One token predicts nothing; a loss needs at least two in each prompt.")

    def reduce(logits: Read, tokens: Tensor, mask: Tensor) -> Float[Tensor, " batch"]:
        loss = formula.next_token_loss(logits, tokens, mask).sum(dim=-1)
        return loss / formula.predicted(mask).sum(dim=-1)

    own = (batch.tokens, batch.attention_mask)
    return Metric("next_token_loss", "nats", reduce, positions=None, per_example=own)


def _column(ids: TokenIds, name: str) -> Int[Tensor, "example 1"]:
    column = torch.as_tensor(ids)
    whole = not column.is_floating_point() and column.dtype != torch.bool
    if column.ndim > 1 or not whole or column.numel() == 0 or int(column.min()) < 0:
        raise PromptError(f"{name} must be token ids, one per example; got {ids!r}.")
    return column.reshape(-1, 1)


def _position(positions: Position) -> Literal["last"] | int | Int[Tensor, "batch 1"]:
    if isinstance(positions, Tensor | Sequence) and not isinstance(positions, str):
        return torch.as_tensor(positions).reshape(-1, 1)
    return positions


def _one_row_each(rows: Tensor, n_examples: int, what: str) -> Tensor:
    if len(rows) not in (1, n_examples):
        raise PromptError(f"The metric has {what} for {len(rows)} examples, not {n_examples}.")
    return rows.expand(n_examples, *rows.shape[1:])


def _check_ids(ids: Int[Tensor, "example read"], n_logits: int) -> None:
    if int(ids.max()) >= n_logits:
        raise PromptError(f"The metric reads token {int(ids.max())}; the logits have {n_logits}.")


def _read(values: Float[Tensor, "batch chosen d_vocab"], ids: Int[Tensor, "example read"]) -> Read:
    """Each example's values at its own ids."""
    _check_ids(ids, values.shape[-1])
    rows = _one_row_each(ids, len(values), "answers").to(values.device)
    return values.gather(2, rows[:, None].expand(-1, values.shape[1], -1))
