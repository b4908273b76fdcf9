"""Cut into sequences and put together again, every document is its own encoding."""

from collections.abc import Iterable, Iterator
from itertools import count, islice

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models

from interp.errors import StoreError
from interp.model.tokens import MAX_CHARACTERS, Tokenizer
from interp.store import sequences as module
from interp.store.sequences import ADDED, Fingerprint, SequenceReader, TokenSequence, fingerprint

DOCUMENTS = st.lists(
    st.one_of(
        st.text(st.characters(codec="utf-8"), max_size=60),
        st.sampled_from(
            ["", "The cat is black. " * 9, "🎉🐈" * 8, "<|endoftext|>", "a<|endoftext|>b"]
        ),
    ),
    max_size=8,
)
PACKINGS = st.sampled_from(["documents", "packed"])


def read(
    tokenizer: Tokenizer,
    documents: Iterable,
    *,
    ctx: int = 8,
    packing: module.Packing = "documents",
    prepend_bos: bool = True,
) -> list[TokenSequence]:
    return list(SequenceReader(documents, tokenizer, ctx, packing, prepend_bos))


def ids(found: list[TokenSequence]) -> list[list[int]]:
    return [sequence.token_id.tolist() for sequence in found]


@given(documents=DOCUMENTS, ctx=st.integers(2, 40), packing=PACKINGS, prepend_bos=st.booleans())
def test_tokens_in_order_are_each_documents_encoding(
    tokenizer, documents, ctx, packing, prepend_bos
):
    found = read(tokenizer, documents, ctx=ctx, packing=packing, prepend_bos=prepend_bos)
    assert all(1 + prepend_bos <= len(sequence.token_id) <= ctx for sequence in found)
    joined = [np.concatenate([sequence[i] for sequence in found] or [[]]) for i in range(5)]
    token_id, document, document_pos, bos, special = joined
    own = document_pos != ADDED
    for number, text in enumerate(documents):
        is_here = own & (document == number)
        expected = tokenizer.encode(text)
        assert token_id[is_here].tolist() == expected
        assert document_pos[is_here].tolist() == list(range(len(expected)))
    assert own.sum() == sum(len(tokenizer.encode(text)) for text in documents)
    assert (token_id[~own] == tokenizer.bos_token_id).all()
    assert (special.astype(bool) == (token_id == tokenizer.bos_token_id)).all()
    assert bos.sum() == (len(found) if prepend_bos else 0)
    assert not (bos.astype(bool) & own).any()


@given(documents=DOCUMENTS, ctx=st.integers(2, 40), prepend_bos=st.booleans())
def test_packed_sequences_are_one_stream_cut_at_ctx(tokenizer, documents, ctx, prepend_bos):
    found = read(tokenizer, documents, ctx=ctx, packing="packed", prepend_bos=prepend_bos)
    assert all(len(sequence.token_id) == ctx for sequence in found[:-1])
    parts = [tokenizer.encode(text) for text in documents if tokenizer.encode(text)]
    n_separators = max(0, len(parts) - 1)
    added = [sequence for sequence in found for _ in sequence.document_pos[int(prepend_bos) :]]
    if not prepend_bos:
        stream = [i for k, part in enumerate(parts) for i in ([0] if k else []) + part]
        assert [i for sequence in ids(found) for i in sequence] == stream
    else:
        left_out = sum(map(len, parts)) + n_separators - len(added)
        assert 0 <= left_out <= len(found), "only separators right after a BOS"


def test_a_long_document_is_cut_and_each_piece_begins_with_bos(tokenizer):
    a, b, bos = tokenizer.encode("a")[0], tokenizer.encode("b")[0], tokenizer.bos_token_id
    found = read(tokenizer, ["ababa", "", "b"], ctx=3)
    assert ids(found) == [[bos, a, b], [bos, a, b], [bos, a], [bos, b]]
    assert [sequence.document.tolist() for sequence in found] == [
        [0] * 3,
        [0] * 3,
        [0] * 2,
        [2] * 2,
    ]
    positions = [sequence.document_pos.tolist() for sequence in found]
    assert positions == [[ADDED, 0, 1], [ADDED, 2, 3], [ADDED, 4], [ADDED, 0]]
    assert ids(read(tokenizer, ["ababa"], ctx=3, prepend_bos=False)) == [[a, b, a], [b, a]]


def test_packed_documents_are_separated_but_not_right_after_bos(tokenizer):
    a, b, c = (tokenizer.encode(letter)[0] for letter in "abc")
    bos = tokenizer.bos_token_id
    found = read(tokenizer, ["aa", "b", "", "ccc"], ctx=3, packing="packed")
    assert ids(found) == [[bos, a, a], [bos, b, bos], [bos, c, c], [bos, c]]
    assert [sequence.bos.tolist() for sequence in found[:2]] == [[True, False, False]] * 2
    assert ids(read(tokenizer, ["aa", "b"], ctx=3, packing="packed")) == [[bos, a, a], [bos, b]]
    assert found[1].document.tolist() == [1, 1, 3], "a separator belongs to what it begins"
    found = read(tokenizer, ["aa", "b", "ccc"], ctx=3, packing="packed", prepend_bos=False)
    assert ids(found) == [[a, a, bos], [b, bos, c], [c, c]]
    assert not any(sequence.bos.any() for sequence in found)


def test_a_special_token_in_the_text_is_the_texts_own(tokenizer):
    (sequence,) = read(tokenizer, ["a<|endoftext|>b"])
    assert sequence.special.tolist() == [True, False, True, False]
    assert sequence.bos.tolist() == [True, False, False, False]
    assert sequence.document_pos.tolist() == [ADDED, 0, 1, 2]


@pytest.mark.parametrize("packing", ["documents", "packed"])
def test_batches_of_the_tokenizer_leave_no_trace(tokenizer, packing, monkeypatch):
    documents = [n * "The cat is black. " for n in range(12)]
    expected = ids(read(tokenizer, documents, packing=packing))
    for name, value in (("DOCUMENTS_PER_BATCH", 1), ("CHARACTERS_PER_BATCH", 100)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, value)
            assert ids(read(tokenizer, documents, packing=packing)) == expected


def test_what_a_tokenizer_file_cuts_or_pads_is_ignored(tokenizer):
    limited = Tokenizer(tokenizers.Tokenizer.from_str(tokenizer.backend.to_str()))
    limited.backend.enable_truncation(2)
    limited.backend.enable_padding(length=50)
    documents = ["a", "The cat is black."]
    assert ids(read(limited, documents)) == ids(read(tokenizer, documents))
    assert limited.backend.truncation is not None, "the user's tokenizer stays as it is"


def test_a_document_that_no_prompt_may_be_is_read(tokenizer):
    text = "The cat is black. " * (MAX_CHARACTERS // 18 + 100)
    found = read(tokenizer, [text], ctx=1000, prepend_bos=False)
    one = tokenizer.encode("The cat is black. " * 50)
    joined = np.concatenate([sequence.token_id for sequence in found])
    assert len(text) > MAX_CHARACTERS
    assert joined[: len(one) - 3].tolist() == one[:-3]
    assert tokenizer.decode(joined.tolist()) == text


def test_an_endless_corpus_can_be_begun(tokenizer):
    reader = SequenceReader((f"Number {n}" for n in count()), tokenizer, 8, "documents", True)
    assert len(list(islice(reader, 10_000))) == 10_000


def counted() -> Iterator[str]:
    return (f"Number {n}" for n in range(50))


def test_the_fingerprint_is_of_the_documents_that_were_asked_for(tokenizer):
    reader = SequenceReader(counted(), tokenizer, 80, "documents", False)
    assert len(list(islice(reader, 20))) == 20
    assert reader.fingerprint.n_documents == 20
    assert reader.fingerprint.digest == fingerprint(counted(), 20)
    assert fingerprint(counted(), None) == fingerprint(counted(), 50)


def test_fingerprints_tell_documents_apart():
    corpora = [[], [""], ["", ""], ["ab"], ["a", "b"], ["b", "a"], ["", "ab"], ["a", "b", ""]]
    assert len({fingerprint(corpus, None) for corpus in corpora}) == len(corpora)
    assert len(Fingerprint().digest) == 32


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b"bytes", "Document 1 is bytes; expected str"),
        (None, "Document 1 is NoneType; expected str"),
        ("ab\ud800", "Document 1 is not valid Unicode at character 2"),
        (21 * "a", "Document 1 has 21 characters; at most 20 are read as one. Split it"),
    ],
)
def test_a_document_that_cannot_be_read_is_named(tokenizer, document, message, monkeypatch):
    monkeypatch.setattr(module, "MAX_DOCUMENT_CHARACTERS", 20)
    with pytest.raises(StoreError, match=message):
        read(tokenizer, iter([20 * "a", document]))
    with pytest.raises(StoreError, match=message):
        fingerprint(iter([20 * "a", document]), None)


@pytest.mark.parametrize(("packing", "prepend_bos"), [("documents", True), ("packed", False)])
def test_what_cannot_be_begun_or_separated_is_an_error(tokenizer, packing, prepend_bos):
    bare = Tokenizer(tokenizers.Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    assert ids(read(bare, ["a"], prepend_bos=False)) == [[0]]
    with pytest.raises(StoreError, match="no end-of-text token to begin or to separate with"):
        read(bare, ["a"], packing=packing, prepend_bos=prepend_bos)
    with pytest.raises(StoreError, match="ctx is 1: no room for a token of the text"):
        read(tokenizer, ["a"], ctx=1)
    assert len(read(tokenizer, ["ab"], ctx=1, prepend_bos=False)) == 2
