import math

import numpy as np
import pytest
import torch

import interp
from interp import attention, attention_edges
from interp.errors import HookError, PromptError
from interp.metrics import logit_diff
from tests.comparison import assert_close

TOKENS = torch.tensor([[3, 7, 5, 2, 8, 11], [9, 1, 4, 4, 6, 2]])
METRIC = logit_diff([3, 4], [5, 6])


def test_knockout_reports_the_metric_with_and_without_the_edges(random_gpt2):
    result = attention.knockout(random_gpt2, TOKENS, [(0, 1, 5, 2), (2, None, 5, 3)], METRIC)
    hooks = attention_edges.cut_edges([(0, 1, 5, 2), (2, None, 5, 3)])
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


TEXTS = ["I love the color black", "The cat is black, John gave Mary a drink"]


def cut_one_by_one(model, tokens, edges, metric):
    """Each edge by a hooked run of the whole model."""
    return np.stack([attention.knockout(model, tokens, [e], metric)["cut"] for e in edges])


def test_edges_each_alone_are_the_knockouts_of_one_edge(our_model):
    every = [(0, head, 4, key) for head in range(our_model.cfg.n_heads) for key in (0, 3, 4)]
    edges = [*every, (0, None, 5, 2), (0, [1, 2], [5, 4], [2, 1]), (None, None, 5, 2)]
    result = attention.knockout_each(our_model, TOKENS, edges, METRIC)
    expected = cut_one_by_one(our_model, TOKENS, edges, METRIC)
    assert_close(torch.tensor(result["cut"].values), torch.tensor(expected))
    assert float(abs(result["effect"]).max()) > 0.01
    assert np.array_equal(result["effect"], result["cut"] - result["original"])


def test_edges_of_later_layers_and_unequal_prompts_are_cut_alone_too(random_gpt2):
    edges = [(2, 1, [5, 9], [2, 7]), (1, None, 3, 3), ([0, 2], 3, 4, 1), (None, 2, 5, 4)]
    result = attention.knockout_each(random_gpt2, TEXTS, edges, METRIC)
    expected = cut_one_by_one(random_gpt2, TEXTS, edges, METRIC)
    assert_close(torch.tensor(result["cut"].values), torch.tensor(expected))
    assert result["layer"].values.tolist() == [[2, 2], [1, 1], [0, 2], [-1, -1]]
    assert result["head"].values.tolist() == [[1, 1], [-1, -1], [3, 3], [2, 2]]
    second = random_gpt2.to_str_tokens(TEXTS[1])
    assert result["query_token"].values[0, 1] == second[9]
    assert result["key_token"].values[0, 1] == second[7]


def test_the_metric_is_read_where_it_says(random_gpt2):
    metric = logit_diff([3, 4], [5, 6], positions=[3, 2])
    edges = [(0, 1, 2, 1), (0, 1, 5, 1)]
    hooks = attention_edges.cut_edges(edges[:1])
    original, cut = metric(random_gpt2(TOKENS)), metric(random_gpt2.run_with_hooks(TOKENS, hooks))
    for result in (
        attention.knockout(random_gpt2, TOKENS, edges[:1], metric),
        attention.knockout_each(random_gpt2, TOKENS, edges, metric).isel(edge=0),
        attention.window_knockout(random_gpt2, TOKENS, [2], [1], metric, heads=[1]).isel(layer=0),
    ):
        assert result["original"].values == pytest.approx(original.numpy(), abs=1e-5)
        assert result["cut"].values == pytest.approx(cut.numpy(), abs=1e-5)
    assert float((cut - original).abs().min()) > 1e-3
    after = attention.knockout_each(random_gpt2, TOKENS, edges, metric)["effect"][1]
    assert not after.any()


def removed_between(queries, keys, heads):
    """Edges between positions removed from the pattern after the softmax."""

    def edit(pattern, hook):
        for example in range(len(pattern)):
            own = [[p if isinstance(p, int) else p[example] for p in x] for x in (queries, keys)]
            rows = pattern[example, :, own[0]].clone()
            for head in heads:
                for row, query in enumerate(own[0]):
                    rows[head, row, [key for key in own[1] if key <= query]] = 0
            pattern[example, :, own[0]] = rows / rows.sum(dim=-1, keepdim=True)

    return edit


@pytest.mark.parametrize(
    ("window", "layers"), [(1, [[0], [1], [2]]), (3, [[0, 1], [0, 1, 2], [1, 2]])]
)
def test_a_window_cuts_all_edges_between_two_words_around_each_layer(random_gpt2, window, layers):
    queries, keys, heads = [[4, 8], [5, 9]], [1, [2, 7]], [0, 2]
    result = attention.window_knockout(
        random_gpt2, TEXTS, queries, keys, METRIC, window=window, heads=heads
    )
    edit = removed_between(queries, keys, heads)
    for layer, own in enumerate(layers):
        hooks = [(f"blocks.{each}.attn.hook_pattern", edit) for each in own]
        logits = random_gpt2.run_with_hooks(TEXTS, hooks, positions="last")
        assert_close(torch.tensor(result["cut"].values[layer]), METRIC(logits))
    assert float(abs(result["effect"][0]).min()) > 1e-2
    assert (result.attrs["window"], result.attrs["partial"]) == (window, 0)


def test_a_window_of_all_layers_and_heads_is_the_cut_of_every_edge(random_gpt2):
    edges = attention_edges.edges_between([5, 4], [2, 3])
    together = attention.knockout(random_gpt2, TOKENS, edges, METRIC)
    result = attention.window_knockout(random_gpt2, TOKENS, [5, 4], [2, 3], METRIC, window=3)
    assert_close(torch.tensor(result["cut"].values[1]), torch.tensor(together["cut"].values))


def test_cancelled_cuts_are_marked_partial(random_gpt2):
    def stop(steps, description):
        return steps[:1]

    edges = [(None, None, 5, 2), (0, 1, 5, 3), (None, 1, 5, 2)]
    each = attention.knockout_each(random_gpt2, TOKENS, edges, METRIC, progress=stop)
    windows = attention.window_knockout(random_gpt2, TOKENS, [5], [2], METRIC, progress=stop)
    for result, finished in ((each, [True, True, False]), (windows, [True, False, False])):
        assert result["cut"].notnull().all("example").values.tolist() == finished
        assert result.attrs["partial"] == 1


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
    with pytest.raises((PromptError, HookError), match=message):
        attention.knockout_each(random_gpt2, TOKENS, [edge], METRIC)
    with pytest.raises((PromptError, HookError), match=message):
        attention.edge_effects(random_gpt2, TOKENS, *edge[2:], METRIC)


def test_an_edge_beyond_the_model_or_the_prompt_is_not_just_left_uncut(random_gpt2):
    for edge, message in (
        (([0, 9], 0, 3, 1), "layer 9 is outside 0-2 of example 1"),
        ((0, -1, 3, 1), "head -1 is outside"),
        ((0, 0, 7, 1), "query position 7 is outside 0-5 of example 0"),
    ):
        with pytest.raises(PromptError, match=message):
            attention.knockout(random_gpt2, TEXTS, [edge], METRIC)


def test_a_query_that_loses_all_its_keys_together_is_an_error(random_gpt2):
    edges = [(1, 2, 1, 0), (1, 2, 1, 1)]
    attention.knockout_each(random_gpt2, TOKENS, edges, METRIC)
    with pytest.raises((PromptError, HookError), match="without any key"):
        attention.knockout(random_gpt2, TOKENS, edges, METRIC)
    with pytest.raises((PromptError, HookError), match="without any key"):
        attention.window_knockout(random_gpt2, TOKENS, [1], [0, 1], METRIC)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0; use 1 to 3"),
        ({"window": 4}, "window is 4; use 1 to 3"),
        ({"heads": [4]}, "head 4 is outside 0-3"),
    ],
)
def test_windows_that_are_not_there_are_errors(random_gpt2, options, message):
    with pytest.raises(PromptError, match=message):
        attention.window_knockout(random_gpt2, TOKENS, [5], [2], METRIC, **options)


def test_explain_refuses_a_batch(random_gpt2):
    with pytest.raises(PromptError, match="one prompt, got 2"):
        attention.explain(random_gpt2, TOKENS, 0, 0, 1, 0)


def test_no_edges_at_all_give_an_empty_result(random_gpt2: interp.HookedGPT2) -> None:
    ds = attention.knockout_each(random_gpt2, [[1, 2, 3]], [], logit_diff(1, 2))
    assert ds["effect"].shape == (0, 1)
    assert ds["query_token"].shape == (0, 1)
