"""From documents to the sequences that a model is given.

`documents`: each document by itself; a longer one is cut into pieces of `ctx` tokens. `packed`: all
documents, joined by one end-of-text token, cut into sequences of `ctx`, the last one shorter;
attention then crosses documents, as in GPT-2's training. Either way each sequence may begin with a
token that the store adds, and no token of a document is dropped or repeated.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

import numpy as np
import xxhash
from jaxtyping import Bool, Int
from tokenizers import Tokenizer as Backend

from interp.errors import StoreError
from interp.model.tokens import Tokenizer
from interp.store.texts import MAX_DOCUMENT_CHARACTERS

Packing = Literal["documents", "packed"]

DOCUMENTS_PER_BATCH = 4096
CHARACTERS_PER_BATCH = 1_000_000
"""Tokenized together, on all cores; a token takes some 200 bytes meanwhile."""
ADDED = -1
"""Position in its document of a token that the store added."""


class TokenSequence(NamedTuple):
    """What the model is given at once; all arrays have a value for each token."""

    token_id: Int[np.ndarray, " pos"]
    document: Int[np.ndarray, " pos"]
    document_pos: Int[np.ndarray, " pos"]
    """Position among the document's own tokens; `ADDED` for tokens of the store."""
    bos: Bool[np.ndarray, " pos"]
    """The first token, where the store added it."""
    special: Bool[np.ndarray, " pos"]
    """Any special token, of the store or of the text."""


class Fingerprint:
    """One number for a run of documents, in their order."""

    def __init__(self) -> None:
        self.n_documents = 0
        self._digest = xxhash.xxh3_128()

    def add(self, text: str) -> None:
        """Take in the next document."""
        data = text.encode()
        self._digest.update(len(data).to_bytes(8, "little"))
        self._digest.update(data)
        self.n_documents += 1

    @property
    def digest(self) -> str:
        """The number of the documents so far, 32 hexadecimal digits."""
        return self._digest.hexdigest()


def fingerprint(documents: Iterable[str], n_documents: int | None) -> str:
    """The number of a corpus, or of its first documents."""
    found = Fingerprint()
    for number, text in enumerate(islice(documents, n_documents)):
        found.add(checked(text, number))
    return found.digest


def checked(text: object, number: int) -> str:
    """A document that can be tokenized.

    Raises:
        StoreError: it is not text, not valid Unicode, or too long; names the document.
    """
    if not isinstance(text, str):
        raise StoreError(f"Document {number} is {type(text).__name__}; expected str.")
    if len(text) > MAX_DOCUMENT_CHARACTERS:
        raise StoreError(
            f"Document {number} has {len(text):,} characters; at most {MAX_DOCUMENT_CHARACTERS:,} "
            "are read as one. Split it."
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise StoreError(
            f"Document {number} is not valid Unicode at character {error.start}."
        ) from error
    return text


@dataclass
class SequenceReader:
    """Reads documents once and cuts them into sequences.

    Raises:
        StoreError: there is no token to add; while it is read: a document is not text.
    """

    documents: Iterable[str]
    tokenizer: Tokenizer
    ctx: int
    packing: Packing
    prepend_bos: bool

    def __post_init__(self) -> None:
        self.fingerprint = Fingerprint()
        """Of the documents whose sequences have been asked for."""
        self._backend = without_limits(self.tokenizer.backend)
        self._is_special = special_ids(self._backend)
        if (self.prepend_bos or self.packing == "packed") and self.tokenizer.bos_token_id is None:
            raise StoreError(
                "The tokenizer has no end-of-text token to begin or to separate with. Use packing "
                "'documents' and prepend_bos=False."
            )
        if self.ctx <= self.prepend_bos:
            raise StoreError(f"ctx is {self.ctx}: no room for a token of the text.")

    def __iter__(self) -> Iterator[TokenSequence]:
        capacity = self.ctx - self.prepend_bos
        pieces = self._packed if self.packing == "packed" else self._by_document
        for piece in pieces(capacity):
            yield self._begun(piece) if self.prepend_bos else piece

    def _by_document(self, capacity: int) -> Iterator[TokenSequence]:
        for document in self._tokenized():
            for start in range(0, len(document.token_id), capacity):
                yield _part(document, start, start + capacity)

    def _packed(self, capacity: int) -> Iterator[TokenSequence]:
        waiting: TokenSequence | None = None
        for document in self._tokenized():
            if waiting is None:
                waiting = document
            else:
                waiting = _joined([waiting, self._added(document.document[:1]), document])
            while len(waiting.token_id) > capacity:
                start = self._first(waiting)
                yield _part(waiting, start, start + capacity)
                waiting = _part(waiting, start + capacity, None)
        if waiting is not None and len(waiting.token_id):
            yield _part(waiting, self._first(waiting), None)

    def _first(self, waiting: TokenSequence) -> int:
        """1 where a separator would stand right after the token that begins the sequence."""
        is_separator = len(waiting.token_id) and waiting.document_pos[0] == ADDED
        return int(bool(self.prepend_bos and is_separator))

    def _begun(self, piece: TokenSequence) -> TokenSequence:
        first = self._added(piece.document[:1])
        return _joined([first._replace(bos=np.array([True])), piece])

    def _added(self, document: Int[np.ndarray, " one"]) -> TokenSequence:
        """One end-of-text token of the store."""
        return TokenSequence(
            np.array([self.tokenizer.bos_token_id]),
            document,
            np.array([ADDED]),
            np.array([False]),
            np.array([True]),
        )

    def _tokenized(self) -> Iterator[TokenSequence]:
        """Each document that has tokens, whole."""
        for texts in self._batches():
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
            for text, encoding in zip(texts, encodings, strict=True):
                number = self.fingerprint.n_documents
                self.fingerprint.add(text)
                ids = np.array(encoding.ids, dtype=np.int64)
                if len(ids):
                    yield TokenSequence(
                        ids,
                        np.full(len(ids), number),
                        np.arange(len(ids)),
                        np.zeros(len(ids), dtype=bool),
                        self._is_special[ids],
                    )

    def _batches(self) -> Iterator[list[str]]:
        """Documents that are tokenized together."""
        batch, n_characters = [], 0
        for number, text in enumerate(self.documents):
            batch.append(checked(text, number))
            n_characters += len(text)
            if len(batch) == DOCUMENTS_PER_BATCH or n_characters >= CHARACTERS_PER_BATCH:
                yield batch
                batch, n_characters = [], 0
        if batch:
            yield batch


def without_limits(backend: Backend) -> Backend:
    """The tokenizer without the cutting and padding that its file may ask for."""
    if backend.truncation is None and backend.padding is None:
        return backend
    backend = Backend.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    return backend


def special_ids(backend: Backend) -> Bool[np.ndarray, " token_id"]:
    """Whether each token id is a special token."""
    is_special = np.zeros(max(backend.get_vocab().values(), default=0) + 1, dtype=bool)
    decoder = backend.get_added_tokens_decoder()
    is_special[[token_id for token_id, token in decoder.items() if token.special]] = True
    return is_special


def _part(sequence: TokenSequence, start: int, stop: int | None) -> TokenSequence:
    return TokenSequence(*(values[start:stop] for values in sequence))


def _joined(parts: Sequence[TokenSequence]) -> TokenSequence:
    return TokenSequence(*(np.concatenate(values) for values in zip(*parts, strict=True)))
