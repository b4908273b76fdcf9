"""The exact change of a pattern, against one softmax for each patch."""

import pytest
import torch
from torch import Tensor

from interp.model import formula
from interp.patched_patterns import effects_by_query, effects_of_single_keys
from tests.comparison import FLOAT64, assert_close

HEADS = (1, 2, 1, 1)  # example pos head d_head


def test_weight_that_moves_from_one_key_to_another_gains_the_gradients_difference():
    """The second query's weights go from ½ ½ to ¼ ¾, where the gradients are 1 and 5."""
    ones, zeros = torch.ones(HEADS), torch.zeros(HEADS)
    ln3 = torch.tensor([1.0, 3.0]).log().reshape(HEADS)
    gradient = torch.tensor([[0.0, 9.0], [1.0, 5.0]]).reshape(1, 1, 2, 2)
    expected = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(1, 2, 1)
    assert_close(effects_by_query(ones, zeros, ones, ln3, gradient, 1.0), expected, 1e-7)
    assert_close(effects_by_query(zeros, ln3, ones, ln3, gradient, 1.0), expected, 1e-7)
    assert_close(effects_of_single_keys(ones, zeros, ln3, gradient, 1.0), expected, 1e-7)


@pytest.mark.parametrize("sharpness", [0.1, 10.0, 1000.0])
def test_a_single_key_moves_the_pattern_as_a_new_softmax_would(sharpness):
    generator = torch.Generator().manual_seed(0)
    q, k, source = (torch.randn(2, 7, 3, 5, generator=generator).double() for _ in range(3))
    q = q * sharpness
    gradient = torch.randn(2, 3, 7, 7, generator=generator).double()
    allowed = torch.ones(1, 1, 7, 7, dtype=torch.bool).tril()

    def pattern(keys: Tensor) -> Tensor:
        return formula.attention_pattern(formula.attention_scores(q, keys, 0.5, allowed))

    ours = effects_of_single_keys(q, k, source, gradient, 0.5)
    for position in range(7):
        replaced = k.clone()
        replaced[:, position] = source[:, position]
        expected = ((pattern(replaced) - pattern(k)) * gradient).sum(dim=(2, 3))
        assert_close(ours[:, position], expected, FLOAT64)
