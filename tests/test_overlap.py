"""How alike heads look, against weights compared by hand."""

import numpy as np
import pytest

from interp import patterns
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2

TEXTS = ["The cat is black.", "I love the color black, I hope"]


def test_overlap_is_the_attention_that_both_give_to_the_same_keys(random_gpt2: HookedGPT2) -> None:
    batch = random_gpt2.as_batch(TEXTS)
    _, cache = random_gpt2.run_with_cache(batch)
    shared = []
    for example, length in enumerate(batch.lengths.tolist()):
        one, other = (
            cache["pattern", layer][example, head].numpy() for layer, head in ((1, 2), (2, 0))
        )
        shared += [np.minimum(one[q], other[q]).sum() for q in range(1, length)]
    found = patterns.overlap(random_gpt2, TEXTS, 1, 2)
    assert float(found.sel(layer=2, head=0)) == pytest.approx(np.mean(shared), abs=1e-5)
    assert float(found.sel(layer=1, head=2)) == pytest.approx(1.0)
    back = patterns.overlap(random_gpt2, TEXTS, 2, 0)
    assert float(back.sel(layer=1, head=2)) == pytest.approx(np.mean(shared), abs=1e-5)


def test_heads_that_never_look_at_the_same_key_have_no_overlap(random_gpt2: HookedGPT2) -> None:
    def apart(pattern, hook):
        positions = np.arange(pattern.shape[-1])
        pattern[:, :2] = 0
        pattern[:, 0, positions, positions] = 1
        pattern[:, 1, positions, np.maximum(positions - 1, 0)] = 1

    with random_gpt2.hooks([("blocks.0.attn.hook_pattern", apart)]):
        found = patterns.overlap(random_gpt2, TEXTS, 0, 0)
    assert float(found.sel(layer=0, head=1)) == 0


def test_what_cannot_be_compared_is_an_error(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(PromptError, match="no head 9 in layer 0"):
        patterns.overlap(random_gpt2, TEXTS, 0, 9)
    with pytest.raises(PromptError, match="at least two tokens"):
        patterns.overlap(random_gpt2, [[3]], 0, 0)
