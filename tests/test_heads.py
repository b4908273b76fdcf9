import numpy as np
import pytest
import torch

import interp
from interp import heads
from interp.errors import PromptError

SIZES = {"n_tokens": 10, "n_sequences": 3}


def attend(n_back: int):
    """A hook that makes head 2 look exactly `n_back` positions back."""

    def edit(pattern, hook):
        positions = torch.arange(pattern.shape[-1])
        pattern[:, 2] = 0
        pattern[:, 2, positions, (positions - n_back).clamp(min=0)] = 1

    return [("blocks.1.attn.hook_pattern", edit)]


@pytest.mark.parametrize(
    ("kind", "n_back"), [("previous_token", 1), ("duplicate_token", 10), ("induction", 9)]
)
def test_a_planted_head_is_found_and_no_other_kind_claims_it(random_gpt2, kind, n_back):
    with random_gpt2.hooks(attend(n_back)):
        scores = heads.scores(random_gpt2, **SIZES)
    planted = scores.sel(layer=1, head=2)
    assert float(planted.sel(kind=kind)) == pytest.approx(1.0)
    others = [other for other in heads.KINDS if other != kind]
    assert planted.sel(kind=others).values == pytest.approx([0.0, 0.0])
    assert float(heads.scores(random_gpt2, **SIZES).sel(kind=kind, layer=1, head=2)) < 0.9


def test_the_embedded_model_has_an_induction_head():
    model = interp.load()
    words = range(300, 500)
    scores = heads.scores(model, words, n_tokens=12)
    assert float(scores.sel(kind="induction").max()) > 0.5


def test_tokens_repeat_and_begin_with_bos_that_is_never_drawn(random_gpt2):
    tokens = heads.repeated_tokens(random_gpt2, n_tokens=10, n_sequences=50)
    assert torch.equal(tokens[:, 1:11], tokens[:, 11:])
    assert bool((tokens[:, 0] == 0).all())
    only_bos_and_another = heads.repeated_tokens(random_gpt2, [0, 4], **SIZES)
    assert set(only_bos_and_another[:, 1:].flatten().tolist()) == {4}


def test_only_the_given_vocabulary_is_drawn_and_the_seed_decides(random_gpt2):
    tokens = heads.repeated_tokens(random_gpt2, [4, 9], seed=1, **SIZES)
    assert set(tokens[:, 1:].flatten().tolist()) == {4, 9}
    assert torch.equal(tokens, heads.repeated_tokens(random_gpt2, [4, 9], seed=1, **SIZES))
    assert not torch.equal(tokens, heads.repeated_tokens(random_gpt2, [4, 9], seed=2, **SIZES))


def test_results_say_how_they_were_made(random_gpt2):
    scores = heads.scores(random_gpt2, seed=5, **SIZES)
    assert scores.dims == ("kind", "layer", "head")
    assert scores.attrs["seed"] == 5
    assert scores.attrs["model_hash"] == interp.model_hash(random_gpt2)
    assert np.isfinite(scores.values).all()


def test_a_sequence_that_does_not_fit_is_refused(random_gpt2):
    with pytest.raises(PromptError, match="do not fit into 32"):
        heads.repeated_tokens(random_gpt2, n_tokens=16)
