"""Which of the rows are stored: chosen positions, and a sample that the seed alone decides.

Every token has a hash of (seed, document, position in it). A sample of rows or documents keeps
small hashes, so it does not depend on how the work is divided. At most n rows of each token id are
those with the n smallest hashes, a uniform choice; they are known only when the whole corpus has
been seen.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt64

from interp.errors import StoreError

LARGEST = np.uint64(2**64 - 1)
RECENT_CANDIDATES = 2**20
"""Tokens that are held before the smallest hashes among them are found."""
Hashes = UInt64[np.ndarray, " token"]
Candidates = tuple[Int[np.ndarray, " candidate"], UInt64[np.ndarray, " candidate"]]
"""Token ids and hashes of tokens that may be chosen."""


@dataclass(frozen=True)
class Tokens:
    """What the choice is made from, for each token of some whole sequences."""

    token_id: Int[np.ndarray, " token"]
    document: Int[np.ndarray, " token"]
    place: Int[np.ndarray, " token"]
    """Different for each token of a document, also for those that the store added."""
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

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**64:
            raise StoreError(f"seed is {self.seed}; expected 0 or more.")
        self._candidates: Candidates = np.empty(0, np.int64), np.empty(0, np.uint64)
        self._recent: list[Candidates] = []

    @property
    def sees_all_first(self) -> bool:
        """Whether all tokens have to be observed before any row can be chosen."""
        return self.subsample.per_token is not None

    def observe(self, tokens: Tokens) -> None:
        """Take note of tokens among which will be chosen; needed if `sees_all_first`."""
        allowed = self._at_positions(tokens)
        self._recent.append((tokens.token_id[allowed], self._hashes(tokens)[allowed]))
        n_recent = sum(len(ids) for ids, _ in self._recent)
        if n_recent > max(len(self._candidates[0]), RECENT_CANDIDATES):
            self._settle()

    def _settle(self) -> None:
        """Keep the smallest hashes of each token id, in the order of ids and hashes."""
        both = zip(self._candidates, *self._recent, strict=True)
        ids, hashes = (np.concatenate(arrays) for arrays in both)
        order = np.lexsort((hashes, ids))
        ids, hashes = ids[order], hashes[order]
        starts = np.flatnonzero(np.diff(ids, prepend=-1))
        rank = np.arange(len(ids)) - np.repeat(starts, np.diff(starts, append=len(ids)))
        is_kept = rank < (self.subsample.per_token or 0)
        self._candidates, self._recent = (ids[is_kept], hashes[is_kept]), []

    def stored(self, tokens: Tokens) -> Bool[np.ndarray, " token"]:
        """Whether the row of each token is stored."""
        allowed, sample = self._at_positions(tokens), self.subsample
        if sample.rows is not None:
            return allowed & (self._hashes(tokens) <= _threshold(sample.rows))
        if sample.documents is not None:
            return allowed & (self._document_hashes(tokens) <= _threshold(sample.documents))
        if sample.per_token is not None:
            if self._recent:
                self._settle()
            ids, hashes = self._candidates
            last = np.flatnonzero(np.diff(ids, append=-1))
            n_ids = 1 + max(ids.max(initial=0), tokens.token_id.max(initial=0))
            largest = np.zeros(n_ids, dtype=np.uint64)
            largest[ids[last]] = hashes[last]
            return allowed & (self._hashes(tokens) <= largest[tokens.token_id])
        return allowed

    def _at_positions(self, tokens: Tokens) -> Bool[np.ndarray, " token"]:
        if self.positions is None:
            return np.ones(len(tokens.pos), dtype=bool)
        from_end = tokens.pos - tokens.length
        return np.isin(tokens.pos, self.positions) | np.isin(from_end, self.positions)

    def _hashes(self, tokens: Tokens) -> Hashes:
        return mixed(self._document_hashes(tokens), tokens.place)

    def _document_hashes(self, tokens: Tokens) -> Hashes:
        seed = mixed(np.zeros(1, np.uint64), np.array([self.seed], np.uint64))
        return mixed(seed, tokens.document)


def mixed(state: UInt64[np.ndarray, " #token"], number: Integer[np.ndarray, " token"]) -> Hashes:
    """A hash of a hash and a number: the finaliser of splitmix64 (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        x = state + number.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _threshold(share: float) -> np.uint64:
    return np.uint64(min(int(share * 2**64), int(LARGEST)))
