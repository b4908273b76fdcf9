"""Reference prompts: as long as asked, and of the text they are said to be."""

import pytest
import torch

import interp
from interp import prompts
from interp.errors import PromptError


def test_other_sentences_have_the_length_and_are_plain_text():
    model = interp.load()
    tokens = prompts.other_sentences(model, 5, 40)
    assert tokens.shape == (5, 40)
    bos = model.tokenizer.bos_token_id
    assert bool((tokens[:, 0] == bos).all())
    assert not bool((tokens[:, 1:] == bos).any())
    text = model.to_string(tokens[0, 1:])
    assert torch.equal(model.to_tokens(text)[0], tokens[0])
    assert prompts.unknown_words(model, [text]) == ()
    assert len({tuple(row) for row in tokens.tolist()}) == 5
    bare = prompts.other_sentences(model, 5, 39, prepend_bos=False)
    assert torch.equal(bare, tokens[:, 1:])


def test_the_seed_decides_which_sentences():
    model = interp.load()
    first = prompts.other_sentences(model, 3, 20, seed=1)
    assert torch.equal(first, prompts.other_sentences(model, 3, 20, seed=1))
    assert not torch.equal(first, prompts.other_sentences(model, 3, 20, seed=2))


def test_a_shuffled_prompt_keeps_its_tokens_and_its_bos(random_gpt2):
    tokens = torch.tensor([[random_gpt2.tokenizer.bos_token_id, 5, 7, 9, 11, 13]])
    found = prompts.shuffled(random_gpt2, tokens, 20, seed=3)
    assert bool((found.sort(dim=1).values == tokens.sort().values).all())
    assert bool((found[:, 0] == tokens[0, 0]).all())
    assert len({tuple(row) for row in found.tolist()}) > 10
    assert torch.equal(found, prompts.shuffled(random_gpt2, tokens, 20, seed=3))
    bare = prompts.shuffled(random_gpt2, tokens[:, 1:], 20, seed=3)
    assert len(set(bare[:, 0].tolist())) > 1


def test_what_cannot_be_drawn_is_an_error(random_gpt2, our_model):
    with pytest.raises(PromptError, match="got 0 of 5"):
        prompts.other_sentences(random_gpt2, 0, 5)
    with pytest.raises(PromptError, match="has no tokenizer"):
        prompts.other_sentences(our_model, 2, 5)
    with pytest.raises(PromptError, match="One prompt is shuffled, got 2"):
        prompts.shuffled(random_gpt2, torch.tensor([[1, 2], [3, 4]]), 2)


def test_everyday_words_are_one_token_each_and_come_once(our_model):
    model = interp.load()
    ids = prompts.everyday_words(model)
    words = [model.to_string([token]) for token in ids]
    assert len(set(ids)) == len(ids) > 100
    assert {" black", " cat", " Mary"} <= set(words)
    assert prompts.unknown_words(model, words) == ()
    with pytest.raises(PromptError, match="must be one token after a space"):
        prompts.everyday_words(our_model)
