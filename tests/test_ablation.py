import torch

from interp.ablation import zero_heads
from tests.comparison import assert_close


def test_zeroing_heads_removes_exactly_their_part_of_the_output(random_gpt2):
    tokens = torch.tensor([[3, 7, 5, 2, 8]])
    heads = [(1, 0), (1, 3)]
    _, cache = random_gpt2.run_with_cache(tokens)
    parts = [cache["z", layer][:, :, head] @ random_gpt2.W_O[layer, head] for layer, head in heads]
    expected = cache["attn_out", 1] - sum(parts)

    with random_gpt2.hooks(zero_heads(heads)):
        _, ablated = random_gpt2.run_with_cache(tokens)

    assert_close(ablated["attn_out", 1], expected)
    assert torch.equal(ablated["attn_out", 0], cache["attn_out", 0])


def test_no_heads_change_nothing(random_gpt2):
    tokens = torch.tensor([[3, 7, 5]])
    assert torch.equal(random_gpt2.run_with_hooks(tokens, zero_heads([])), random_gpt2(tokens))
