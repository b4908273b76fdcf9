"""The count of the least work, against counts by hand."""

import pytest

from benchmarks.least_work import least_flops
from interp.model.config import ModelConfig


def micro(n_layers: int) -> ModelConfig:
    return ModelConfig(n_layers=n_layers, n_heads=1, d_model=2, d_mlp=8, d_vocab=9, n_ctx=4)


# Multiplications of the micro model: a row of queries, keys, values or attention's output 4, of the
# MLP 32, two logits 4. The last layer of a run of two rows: k, v 16, q 4, output 4, MLP 32 = 56.
ONE_LAYER = 2 * (56 + 4)


@pytest.mark.parametrize(
    ("site", "branches"),
    [
        ("resid_pre", (8 + 4 + 32 + 4) + (8 + 4 + 4 + 32 + 4)),
        ("attn_out", 32 + 4),
        ("mlp_out", 4),
        ("z", 4 + 32 + 4),
    ],
)
def test_least_work_of_one_layer_is_the_count_by_hand(site: str, branches: int) -> None:
    least = least_flops(micro(1), site, n_examples=3, n_positions=2, first_difference=0)
    assert least == 3 * 2 * (ONE_LAYER + branches)


def test_least_work_of_two_layers_is_the_count_by_hand() -> None:
    inner, last = 2 * (16 + 32), 56  # of a run of both rows
    base, source = inner + last + 4, (16 + 32) + (8 + 4 + 4 + 32) + 4
    born_at_0 = (12 + 4 + 32) + (8 + 4 + 4 + 32) + 4  # only the second position differs
    born_at_1 = (8 + 4 + 4 + 32) + 4
    least = least_flops(micro(2), "resid_pre", n_examples=1, n_positions=2, first_difference=1)
    assert least == 2 * (base + source + born_at_0 + born_at_1)
