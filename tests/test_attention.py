import math

import numpy as np
import pytest
import torch

from interp import attention
from interp.errors import HookError, PromptError
from interp.metrics import logit_diff
from tests.comparison import assert_close

TOKENS = torch.tensor([[3, 7, 5, 2, 8, 11], [9, 1, 4, 4, 6, 2]])
METRIC = logit_diff([3, 4], [5, 6])


def removed_and_renormalised(layer, head, query, key):
    """The cut, done the other way: on the pattern after the softmax."""

    def edit(pattern, hook):
        row = pattern[:, head, query].clone()
        row[:, key] = 0
        pattern[:, head, query] = row / row.sum(dim=-1, keepdim=True)

    return [(f"blocks.{layer}.attn.hook_pattern", edit)]


def test_cutting_an_edge_equals_removing_and_renormalising_it_in_the_pattern(random_gpt2):
    cut = random_gpt2.run_with_hooks(TOKENS, attention.cut_edges([(1, 2, 4, 3)]))
    expected = random_gpt2.run_with_hooks(TOKENS, removed_and_renormalised(1, 2, 4, 3))
    assert_close(cut, expected)
    assert not torch.allclose(cut, random_gpt2(TOKENS))


def test_each_example_may_have_an_edge_of_its_own(random_gpt2):
    together = random_gpt2.run_with_hooks(
        TOKENS, attention.cut_edges([([1, 0], [2, 0], [4, 5], [3, 1])])
    )
    for index, edge in enumerate([(1, 2, 4, 3), (0, 0, 5, 1)]):
        alone = random_gpt2.run_with_hooks(TOKENS[index : index + 1], attention.cut_edges([edge]))
        assert_close(together[index : index + 1], alone)


def test_none_stands_for_every_layer_and_head(random_gpt2):
    every = [(layer, head, 4, 3) for layer in range(3) for head in range(4)]
    together = random_gpt2.run_with_hooks(TOKENS, attention.cut_edges([(None, None, 4, 3)]))
    one_by_one = random_gpt2.run_with_hooks(TOKENS, attention.cut_edges(every))
    assert torch.equal(together, one_by_one)


def test_knockout_reports_the_metric_with_and_without_the_edges(random_gpt2):
    result = attention.knockout(random_gpt2, TOKENS, [(0, 1, 5, 2), (2, None, 5, 3)], METRIC)
    hooks = attention.cut_edges([(0, 1, 5, 2), (2, None, 5, 3)])
    assert result["original"].values == pytest.approx(METRIC(random_gpt2(TOKENS)).numpy(), abs=1e-5)
    cut = METRIC(random_gpt2.run_with_hooks(TOKENS, hooks))
    assert result["cut"].values == pytest.approx(cut.numpy(), abs=1e-5)
    assert np.array_equal(result["effect"], result["cut"] - result["original"])
    assert result.attrs["unit"] == "logits"


def test_edge_effects_are_the_knockouts_of_each_head_alone(random_gpt2):
    queries, keys = [5, 4], [2, 1]
    result = attention.edge_effects(random_gpt2, TOKENS, queries, keys, METRIC)
    _, cache = random_gpt2.run_with_cache(TOKENS)
    for layer in range(3):
        for head in range(4):
            edge = (layer, head, queries, keys)
            effect = attention.knockout(random_gpt2, TOKENS, [edge], METRIC)["effect"]
            found = result.sel(layer=layer, head=head)
            assert found["effect"].values == pytest.approx(effect.values, abs=1e-6)
            for example in range(2):
                row = cache["pattern", layer][example, head, queries[example]]
                weight = float(row[keys[example]])
                assert float(found["weight"][example]) == pytest.approx(weight, abs=1e-6)
                rank = sorted(row.tolist(), reverse=True).index(weight) + 1
                assert int(found["rank"][example]) == rank
                lift = weight * (queries[example] + 1)
                assert float(found["lift"][example]) == pytest.approx(lift, abs=1e-5)


def test_padded_prompts_give_what_each_gives_alone(random_gpt2):
    texts = ["I love the color black", "The cat is black, John gave Mary a drink"]
    metric = logit_diff(3, 4)
    together = attention.edge_effects(random_gpt2, texts, [3, 6], [1, 2], metric)
    for index, (text, query, key) in enumerate(zip(texts, [3, 6], [1, 2], strict=True)):
        alone = attention.edge_effects(random_gpt2, text, query, key, metric).isel(example=0)
        for name in ("weight", "effect"):
            values = together[name].isel(example=index).values
            assert values == pytest.approx(alone[name].values, abs=1e-5)


def test_explained_steps_are_the_formula_and_end_in_the_models_own_pattern(random_gpt2):
    text = "I love the color black"
    steps = attention.explain(random_gpt2, text, 1, 2, query=4, key=3)
    _, cache = random_gpt2.run_with_cache(text)
    q, k = cache["q", 1][0, 4, 2], cache["k", 1][0, 3, 2]
    assert float(steps["dot"]) == pytest.approx(float(q @ k), rel=1e-5)
    assert float(steps["product"].sum()) == pytest.approx(float(q @ k), rel=1e-5)
    assert float(steps["scaled"]) == pytest.approx(float(q @ k) / math.sqrt(6), rel=1e-5)
    assert steps["weight"].values == pytest.approx(cache["pattern", 1][0, 2, 4].numpy(), abs=1e-6)
    assert np.isneginf(steps["score"].values[5:]).all()
    assert float(steps["difference"]) < 1e-6


def test_shares_of_the_output_sum_to_one_and_rebuild_what_the_head_writes(random_gpt2):
    text = "I love the color black"
    steps = attention.explain(random_gpt2, text, 1, 2, query=4, key=3)
    _, cache = random_gpt2.run_with_cache(text, names_filter="blocks.1.attn.hook_result")
    output = cache["result", 1][0, 4, 2]
    _, cache = random_gpt2.run_with_cache(text)
    written = cache["pattern", 1][0, 2, 4, 3] * cache["v", 1][0, 3, 2] @ random_gpt2.W_O[1, 2]
    share = float(written @ output / (output @ output))
    assert float(steps["share"].sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(steps["share"][3]) == pytest.approx(share, abs=1e-5)


def test_the_control_edge_is_the_nearest_weight_among_the_allowed(random_gpt2):
    found = attention.control_edges(random_gpt2, TOKENS, 1, 2, [5, 4], [2, 3])
    _, cache = random_gpt2.run_with_cache(TOKENS)
    for example, (query, key) in enumerate([(5, 2), (4, 3)]):
        pattern = torch.stack([cache["pattern", layer][example] for layer in range(3)])
        candidates = [
            (abs(float(pattern[layer, h, q, k] - pattern[1, 2, query, key])), layer, h, q, k)
            for layer in range(3)
            for h in range(4)
            for q in range(5)
            for k in range(1, q + 1)
            if not {q, k} & {query, key}
        ]
        _, *control = min(candidates)
        edge = found.isel(example=example)
        assert [int(edge[name]) for name in ("layer", "head", "query", "key")] == control
        weight = float(pattern[tuple(control)])
        assert float(edge["weight"]) == pytest.approx(weight, abs=1e-6)


def test_control_edges_never_touch_padding(random_gpt2):
    texts = ["The cat is black", "When Mary and John went to the store, John gave a drink to"]
    lengths = random_gpt2.to_batch(texts).lengths
    found = attention.control_edges(random_gpt2, texts, 0, 1, [3, 5], [2, 4])
    assert (found["query"].values < lengths.numpy() - 1).all()


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ((0, 0, 2, 4), "never looks ahead"),
        ((0, 0, 9, 4), "query position 9 is outside 0-5"),
        ((0, 0, 3, -1), "key position -1 is outside 0-5"),
        ((0, 0, 0, 0), "without any key"),
    ],
)
def test_edges_that_cannot_be_cut_are_errors(random_gpt2, edge, message):
    with pytest.raises((PromptError, HookError), match=message):
        attention.knockout(random_gpt2, TOKENS, [edge], METRIC)


def test_explain_refuses_a_batch(random_gpt2):
    with pytest.raises(PromptError, match="one prompt, got 2"):
        attention.explain(random_gpt2, TOKENS, 0, 0, 1, 0)


def test_a_prompt_too_short_for_a_control_says_so(random_gpt2):
    with pytest.raises(PromptError, match="too short"):
        attention.control_edges(random_gpt2, TOKENS[:, :2], 0, 0, 1, 1)
