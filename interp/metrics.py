"""What a run is judged by: one number per example, read from the logits of one position each.

A metric says which positions and which rows of the vocabulary it reads, so that a sweep need not
compute the others: `model(tokens, positions=metric.positions)`, and only `metric.vocab_ids`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.formula import at_least_float32

TokenIds = int | Sequence[int] | Int[Tensor, "*example"]
"""One token id per example; a single one serves all."""
Position = Literal["last"] | int | Sequence[int] | Int[Tensor, " example"]
"""Where the logits are read: each prompt's last real token, or a position, shared or one each."""
Final = Float[Tensor, "batch d_vocab"]


@dataclass(frozen=True)
class Metric:
    """A number per example, such as a logit difference."""

    name: str
    unit: str
    reduce: Callable[[Float[Tensor, "batch read"]], Float[Tensor, " batch"]]
    """From the logits that are read (at least float32) to the number."""
    vocab_ids: Int[Tensor, "example read"] | None = None
    """Which logits are read, per example (one row serves all); `None` for the whole vocabulary."""
    positions: Literal["last"] | int | Int[Tensor, "batch 1"] = "last"
    """Where; as the model's option of that name."""

    def __call__(
        self, logits: Float[Tensor, "batch pos d_vocab"] | Final
    ) -> Float[Tensor, " batch"]:
        """The metric of logits: of the chosen position alone, or of the whole prompt.

        For padded prompts ask the model for `positions=metric.positions`: the whole prompt's last
        row may be padding.

        Raises:
            PromptError: answers for another number of examples, or outside the vocabulary.
        """
        final = at_least_float32(self._final(logits))
        return self.reduce(final if self.vocab_ids is None else _read(final, self.vocab_ids))

    def _final(self, logits: Tensor) -> Final:
        if logits.ndim == 2 or logits.shape[1] == 1:
            return logits.reshape(len(logits), -1)
        chosen = torch.as_tensor(-1 if self.positions == "last" else self.positions)
        n_examples, n_positions = logits.shape[:2]
        if int(chosen.min()) < -n_positions or int(chosen.max()) >= n_positions:
            raise PromptError(
                f"{self.name} reads positions {chosen.flatten().tolist()}; the logits have "
                f"{n_positions}."
            )
        rows = _one_row_each(chosen.reshape(-1, 1) % n_positions, n_examples, "positions")
        return logits[torch.arange(n_examples), rows[:, 0]]


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
    ids, where = torch.cat([right_ids, wrong_ids], dim=1), _position(positions)
    return Metric("logit_diff", "logits", lambda read: read[:, 0] - read[:, 1], ids, where)


def logit(answers: TokenIds, *, positions: Position = "last") -> Metric:
    """The answer's logit."""
    ids, where = _column(answers, "answers"), _position(positions)
    return Metric("logit", "logits", lambda read: read[:, 0], ids, where)


def logprob(answers: TokenIds, *, positions: Position = "last") -> Metric:
    """Natural logarithm of the answer's probability, in nats."""
    ids, where = _column(answers, "answers"), _position(positions)
    return Metric("logprob", "nats", lambda x: _read(x.log_softmax(-1), ids)[:, 0], None, where)


def prob(answers: TokenIds, *, positions: Position = "last") -> Metric:
    """The answer's probability."""
    ids, where = _column(answers, "answers"), _position(positions)
    return Metric("prob", "probability", lambda x: _read(x.softmax(-1), ids)[:, 0], None, where)


def kl_divergence(reference_logits: Final, *, positions: Position = "last") -> Metric:
    """KL(reference || run) of the predictions, in nats: 0 if equal, the lower the closer.

    Args:
        reference_logits: Of the run to compare with, at the same positions, a row per example.

    Source: Kullback & Leibler 1951.
    """
    reference = at_least_float32(reference_logits.detach()).log_softmax(dim=-1)

    def reduce(logits: Final) -> Float[Tensor, " batch"]:
        if logits.shape != reference.shape:
            raise PromptError(
                f"kl_divergence compares with logits of shape {list(reference.shape)}; these have "
                f"{list(logits.shape)}."
            )
        expected = reference.to(logits.device)
        return (expected.exp() * (expected - logits.log_softmax(dim=-1))).sum(dim=-1)

    return Metric("kl_divergence", "nats", reduce, positions=_position(positions))


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


def _one_row_each(rows: Int[Tensor, "example read"], n_examples: int, what: str) -> Tensor:
    if len(rows) not in (1, n_examples):
        raise PromptError(f"The metric has {what} for {len(rows)} examples, not {n_examples}.")
    return rows.expand(n_examples, -1)


def _read(values: Final, ids: Int[Tensor, "example read"]) -> Float[Tensor, "batch read"]:
    """Each example's values at its own ids."""
    if int(ids.max()) >= values.shape[-1]:
        raise PromptError(
            f"The metric reads token {int(ids.max())}; the logits have {values.shape[-1]}."
        )
    return values.gather(1, _one_row_each(ids, len(values), "answers").to(values.device))
