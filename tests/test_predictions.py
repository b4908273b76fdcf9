"""Next tokens before and after an intervention, against the logits themselves."""

import pytest
import torch

from interp import ablation
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.predictions import before_and_after, token_name


def test_both_runs_top_tokens_are_compared(random_gpt2: HookedGPT2) -> None:
    tokens = torch.tensor([[0, 7, 5, 2, 8]])
    hooks = ablation.zero_heads([(1, 0), (0, 2)])
    table = before_and_after(random_gpt2, tokens, hooks, n_top=4)
    before = random_gpt2(tokens)[0, -1].softmax(dim=-1)
    after = random_gpt2.run_with_hooks(tokens, hooks)[0, -1].softmax(dim=-1)
    expected = set(before.topk(4).indices.tolist()) | set(after.topk(4).indices.tolist())
    assert set(table["token_id"]) == expected
    assert len(expected) > 4
    for row in table.itertuples():
        assert row.before == pytest.approx(float(before[row.token_id]), abs=1e-6)
        assert row.after == pytest.approx(float(after[row.token_id]), abs=1e-6)
        assert row.change == pytest.approx(row.after - row.before, abs=1e-6)
        assert row.rank_before == 1 + int((before > before[row.token_id]).sum())
        assert row.rank_after == 1 + int((after > after[row.token_id]).sum())
        assert row.token == token_name(random_gpt2, row.token_id)
    assert table["rank_before"].is_monotonic_increasing
    assert table["token_id"].iloc[0] == int(before.argmax())


def test_predictions_are_compared_for_one_prompt(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(PromptError, match="for one prompt, got 2"):
        before_and_after(random_gpt2, [[1, 2], [3, 4]], [])
