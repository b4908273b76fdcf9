"""Which of the rows are stored: chosen positions, and a sample that the seed alone decides.

Every token has a hash of (seed, document, position in it, position in the sequence). A sample of
rows or documents keeps small hashes, so it does not depend on how the work is divided. At most n
rows of each token id are those with the n smallest hashes, a uniform choice; they are known only
when the whole corpus has been seen.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int, UInt64

from interp.errors import StoreError

LARGEST = np.uint64(2**64 - 1)
Hashes = UInt64[np.ndarray, " token"]


@dataclass(frozen=True)
class Tokens:
    """What the choice is made from, for each token of some whole sequences."""

    token_id: Int[np.ndarray, " token"]
    document: Int[np.ndarray, " token"]
    document_pos: Int[np.ndarray, " token"]
    pos: Int[np.ndarray, " token"]
    length: Int[np.ndarray, " token"]
    """Of the token's sequence."""


@dataclass(frozen=True)
class Subsample:
    """How many rows are stored; exactly one of these, or none for all."""

    rows: float | None = None
    """Share of all rows."""
    documents: float | None = None
    """Share of the documents, of which all rows are stored."""
    per_token: int | None = None
    """Most rows of one token id."""

    @classmethod
    def parse(cls, text: str) -> "Subsample":
        """`0.1`, `documents:0.1`, `per-token:100`, or nothing for all.

        Raises:
            StoreError: it is something else.
        """
        kind, _, number = text.rpartition(":")
        try:
            if not text:
                return cls()
            if kind == "per-token" and int(number) > 0:
                return cls(per_token=int(number))
            if kind in ("", "documents") and 0 < float(number) <= 1:
                share = float(number)
                return cls(documents=share) if kind else cls(rows=share)
        except ValueError:
            pass
        raise StoreError(
            f"subsample is {text!r}; expected a share like 0.1, documents:0.1, or per-token:100."
        )


def parse_positions(text: str) -> tuple[int, ...] | None:
    """`all` (None), `last`, or numbers as in `0,1,-1`, negative ones from the sequence's end.

    Raises:
        StoreError: it is something else.
    """
    if text == "all":
        return None
    if text == "last":
        return (-1,)
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise StoreError(
            f"positions is {text!r}; expected all, last, or numbers as in 0,1,-1."
        ) from error


@dataclass
class Thinning:
    """The choice of rows, for a whole corpus."""

    positions: tuple[int, ...] | None
    subsample: Subsample
    seed: int
    _candidates: tuple[Int[np.ndarray, " n"], Hashes] = field(
        default_factory=lambda: (np.empty(0, np.int64), np.empty(0, np.uint64))
    )

    @property
    def sees_all_first(self) -> bool:
        """Whether all tokens have to be observed before any row can be chosen."""
        return self.subsample.per_token is not None

    def observe(self, tokens: Tokens) -> None:
        """Take note of tokens among which will be chosen; needed if `sees_all_first`."""
        limit = self.subsample.per_token
        if limit is None:
            return
        allowed = self._at_positions(tokens)
        ids = np.concatenate([self._candidates[0], tokens.token_id[allowed]])
        hashes = np.concatenate([self._candidates[1], self._hashes(tokens)[allowed]])
        order = np.lexsort((hashes, ids))
        ids, hashes = ids[order], hashes[order]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        rank = np.arange(len(ids)) - np.repeat(starts, np.diff(starts, append=len(ids)))
        self._candidates = ids[rank < limit], hashes[rank < limit]

    def stored(self, tokens: Tokens) -> Bool[np.ndarray, " token"]:
        """Whether the row of each token is stored."""
        allowed, sample = self._at_positions(tokens), self.subsample
        if sample.rows is not None:
            return allowed & (self._hashes(tokens) <= _threshold(sample.rows))
        if sample.documents is not None:
            hashes = mixed(np.uint64(self.seed), tokens.document)
            return allowed & (hashes <= _threshold(sample.documents))
        if sample.per_token is not None:
            ids, hashes = self._candidates
            last = np.flatnonzero(np.diff(ids, append=-1))
            largest = np.zeros(int(ids.max(initial=-1)) + 1, dtype=np.uint64)
            largest[ids[last]] = hashes[last]
            return allowed & (self._hashes(tokens) <= largest[tokens.token_id])
        return allowed

    def _at_positions(self, tokens: Tokens) -> Bool[np.ndarray, " token"]:
        if self.positions is None:
            return np.ones(len(tokens.pos), dtype=bool)
        from_end = tokens.pos - tokens.length
        return np.isin(tokens.pos, self.positions) | np.isin(from_end, self.positions)

    def _hashes(self, tokens: Tokens) -> Hashes:
        hashes = mixed(np.uint64(self.seed), tokens.document)
        return mixed(mixed(hashes, tokens.document_pos), tokens.pos)


def mixed(state: Hashes | np.uint64, number: Int[np.ndarray, " token"]) -> Hashes:
    """A hash of a hash and a number: the finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = state + number.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _threshold(share: float) -> np.uint64:
    return np.uint64(min(int(share * 2**64), int(LARGEST)))
