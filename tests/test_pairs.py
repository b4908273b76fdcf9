"""Pairs of prompts: where they differ, and the pairs that cannot be compared."""

import pytest
import torch

from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import TokenBatch
from interp.pairs import chosen_positions, token_pairs


def test_pairs_know_where_they_first_differ(random_gpt2: HookedGPT2) -> None:
    clean = ["The cat is black.", "I love the color"]
    corrupted = ["The cat is black!", "I hope the color"]
    pairs = token_pairs(random_gpt2, clean, corrupted)
    for row, position in enumerate(pairs.first_difference.tolist()):
        one, other = (b.tokens[row] for b in (pairs.clean, pairs.corrupted))
        assert torch.equal(one[:position], other[:position])
        assert one[position] != other[position]
    assert pairs.base("denoising") is pairs.corrupted
    assert pairs.source("denoising") is pairs.clean
    assert pairs.base("noising") is pairs.clean
    assert pairs.source("noising") is pairs.corrupted


def test_padding_on_the_left_moves_to_the_right(random_gpt2: HookedGPT2) -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, True, False]])
    clean = TokenBatch(torch.tensor([[0, 0, 5, 6], [7, 8, 9, 0]]), mask)
    corrupted = TokenBatch(torch.tensor([[0, 0, 5, 7], [7, 1, 9, 0]]), mask)
    pairs = token_pairs(random_gpt2, clean, corrupted)
    assert pairs.clean.tokens[:, :2].tolist() == [[5, 6], [7, 8]]
    assert pairs.clean.attention_mask.tolist() == [[True, True, False], [True, True, True]]
    assert pairs.first_difference.tolist() == [1, 1]


def test_a_difference_in_padding_is_none(random_gpt2: HookedGPT2) -> None:
    mask = torch.tensor([[True, True, False], [True, True, True]])
    clean = TokenBatch(torch.tensor([[5, 6, 0], [5, 6, 7]]), mask)
    corrupted = TokenBatch(torch.tensor([[5, 6, 9], [5, 6, 8]]), mask)
    with pytest.raises(PromptError, match="Pair 0 does not differ"):
        token_pairs(random_gpt2, clean, corrupted)


def test_pairs_of_unequal_length_show_their_alignment(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(PromptError) as caught:
        token_pairs(random_gpt2, ["I love", "The cat is black"], ["I hope", "The cat is so black"])
    message = str(caught.value)
    assert message.startswith("Pair 1 has 5 clean and ")
    assert "They diverge at position 4" in message
    assert "\n    clean: " in message
    assert "·black" in message


@pytest.mark.parametrize(
    ("clean", "corrupted", "message"),
    [
        (["I love", "The cat"], ["I hope"], "2 clean and 1 corrupted prompts"),
        (["I love", "The cat"], ["I hope", "The cat"], "Pair 1 does not differ"),
        ([""], ["I"], "empty"),
    ],
)
def test_prompts_that_are_no_pairs_are_an_error(
    random_gpt2: HookedGPT2, clean: list[str], corrupted: list[str], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        token_pairs(random_gpt2, clean, corrupted)


def test_named_positions_may_be_tensors(random_gpt2: HookedGPT2) -> None:
    pairs = token_pairs(random_gpt2, ["The cat", "I love"], ["The to", "I hope"])
    rows = {"word": [1, 2], "END": [2, 2]}
    tensors = {name: torch.tensor(row) for name, row in rows.items()}
    chosen = (chosen_positions(pairs, named) for named in (rows, tensors))
    of_lists, of_tensors = ({k: v.tolist() for k, v in one.items()} for one in chosen)
    assert of_lists == of_tensors == rows


def test_an_unknown_direction_is_an_error(random_gpt2: HookedGPT2) -> None:
    pairs = token_pairs(random_gpt2, "I love", "I hope")
    with pytest.raises(PromptError, match=r"use 'denoising' .* or 'noising'"):
        pairs.base("sideways")
