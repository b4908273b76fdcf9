"""Clean and corrupted prompts, position by position: what activation patching compares.

A pair has the same number of tokens, so that a position of one is a position of the other; pairs
of a batch may differ in length. Before the first token in which a pair differs, both runs are the
same, and no patch there can have an effect.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import Prompt, TokenBatch, visible

Direction = Literal["denoising", "noising"]
"""Denoising patches clean values into the corrupted run; noising, corrupted ones into the clean."""


NamedPositions = Mapping[str, Sequence[int] | Int[Tensor, " example"]]
"""Each with a position for every example."""
Positions = Sequence[int] | NamedPositions | None
"""Shared by all examples; or named; or all."""
Place = tuple[tuple[int, ...], tuple[int, ...]]
"""Examples, and the positions at which they are edited together."""


@dataclass(frozen=True)
class TokenPairs:
    """A batch of clean prompts and the corrupted prompt of each."""

    clean: TokenBatch
    corrupted: TokenBatch

    @property
    def first_difference(self) -> Int[Tensor, " example"]:
        """Position of the first token in which each pair differs."""
        return self.differs.int().argmax(dim=-1)

    @property
    def differs(self) -> Bool[Tensor, "example pos"]:
        """Where the tokens of a pair differ."""
        return (self.clean.tokens != self.corrupted.tokens) & self.clean.attention_mask

    def base(self, direction: str) -> TokenBatch:
        """The prompts whose run is patched, in this `Direction`."""
        return self.corrupted if _checked(direction) == "denoising" else self.clean

    def source(self, direction: str) -> TokenBatch:
        """The prompts whose activations are patched in, in this `Direction`."""
        return self.clean if _checked(direction) == "denoising" else self.corrupted


def _checked(direction: str) -> str:
    if direction not in get_args(Direction):
        raise PromptError(
            f"direction is {direction!r}; use 'denoising' (clean values into the corrupted run) or "
            "'noising' (corrupted values into the clean run)."
        )
    return direction


def token_pairs(model: HookedGPT2, clean: Prompt, corrupted: Prompt) -> TokenPairs:
    """Tokenize and check pairs; row i of one belongs to row i of the other.

    Raises:
        PromptError: another number of prompts; a pair of unequal token length (with its alignment
            and where it diverges); a pair that does not differ.
    """
    batches = model.as_batch(clean), model.as_batch(corrupted)
    n_clean, n_corrupted = (len(batch.tokens) for batch in batches)
    if n_clean != n_corrupted:
        raise PromptError(
            f"{n_clean} clean and {n_corrupted} corrupted prompts; each needs its partner."
        )
    ids = [_real_ids(batch) for batch in batches]
    for example, (one, other) in enumerate(zip(*ids, strict=True)):
        if len(one) != len(other):
            raise PromptError(
                f"Pair {example} has {len(one)} clean and {len(other)} corrupted tokens; patching "
                f"compares position by position.\n{alignment(model, one, other)}"
            )
        if one == other:
            raise PromptError(
                f"Pair {example} does not differ: clean and corrupted are the same tokens."
            )
    return TokenPairs(*map(_right_padded, batches))


def _real_ids(batch: TokenBatch) -> list[list[int]]:
    rows = zip(batch.tokens, batch.attention_mask, strict=True)
    return [tokens[mask].tolist() for tokens, mask in rows]


def _right_padded(batch: TokenBatch) -> TokenBatch:
    """Real tokens first, in their order; padding after them."""
    order = (~batch.attention_mask).int().argsort(dim=-1, stable=True)
    width = int(batch.lengths.max())
    tokens, mask = (x.gather(1, order)[:, :width] for x in (batch.tokens, batch.attention_mask))
    return TokenBatch(tokens, mask)


def alignment(model: HookedGPT2, clean: list[int], corrupted: list[int]) -> str:
    """Two prompts token under token, and the position of the first difference."""
    pieces = [
        [visible(model.tokenizer.piece(i)) if model.tokenizer else str(i) for i in row]
        for row in (clean, corrupted)
    ]
    same = [a == b for a, b in zip(clean, corrupted, strict=False)]
    first = same.index(False) if False in same else len(same)
    shown = slice(max(0, first - 3), first + 6)
    columns = list(zip(*(row[shown] + [""] * 9 for row in pieces), strict=False))
    widths = [max(map(len, column)) for column in columns]
    lines = [
        f"{name:>9}: " + " ".join(f"{c[row]:<{w}}" for c, w in zip(columns, widths, strict=True))
        for row, name in enumerate(("clean", "corrupted"))
    ]
    return "\n".join([f"They diverge at position {first}:", *(line.rstrip() for line in lines)])


def chosen_positions(
    pairs: TokenPairs, positions: Positions
) -> dict[Hashable, Int[Tensor, " example"]]:
    """Positions by their number or name, each as one position for every example.

    Raises:
        PromptError: one is out of range, or a named one does not fit the examples.
    """
    n_examples, n_positions = pairs.clean.tokens.shape
    if positions is None:
        positions = range(n_positions)
    if isinstance(positions, Mapping):
        columns: dict[Hashable, Tensor] = {n: torch.as_tensor(p) for n, p in positions.items()}
        ends = pairs.clean.lengths.cpu()
    else:
        columns = {p: torch.tensor(p).expand(n_examples) for p in sorted(set(positions))}
        ends = torch.tensor(n_positions)
    if not columns:
        raise PromptError("Positions to patch are missing; give at least one.")
    for name, column in columns.items():
        if column.shape != (n_examples,):
            raise PromptError(
                f"Position {name!r} has {column.numel()} values for {n_examples} examples."
            )
        outside = (column < 0) | (column >= ends)
        if bool(outside.any()):
            example = int(outside.nonzero()[0])
            raise PromptError(
                f"Position {name!r} is {int(column[example])} in example {example}; the prompt "
                f"has positions 0-{int(ends.expand(n_examples)[example]) - 1}."
            )
    return columns


def places_of(pairs: TokenPairs, columns: Sequence[Int[Tensor, " example"]]) -> list[Place]:
    """Examples by which of these positions are theirs and can matter.

    Before the first differing token both runs are the same, and after its end a prompt is padding.
    """
    starts, ends = pairs.first_difference.tolist(), pairs.clean.lengths.tolist()
    return grouped_places(torch.stack(list(columns)).T.tolist(), starts, ends)


def grouped_places(
    positions: Sequence[Sequence[int]], starts: Sequence[int], ends: Sequence[int]
) -> list[Place]:
    """Examples by which of their positions lie from their start to before their end."""
    together: dict[tuple[int, ...], list[int]] = {}
    for example, (row, start, end) in enumerate(zip(positions, starts, ends, strict=True)):
        own = sorted({position for position in row if start <= position < end})
        if own:
            together.setdefault(tuple(own), []).append(example)
    return [(tuple(examples), own) for own, examples in together.items()]
