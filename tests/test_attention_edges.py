"""Which edges there are, and cutting them, against the pattern itself."""

import pytest
import torch

from interp import attention_edges
from interp.errors import PromptError
from tests.comparison import assert_close

TOKENS = torch.tensor([[3, 7, 5, 2, 8, 11], [9, 1, 4, 4, 6, 2]])


def removed_and_renormalised(layer, head, query, key):
    """The cut, done the other way: on the pattern after the softmax."""

    def edit(pattern, hook):
        row = pattern[:, head, query].clone()
        row[:, key] = 0
        pattern[:, head, query] = row / row.sum(dim=-1, keepdim=True)

    return [(f"blocks.{layer}.attn.hook_pattern", edit)]


def test_cutting_an_edge_equals_removing_and_renormalising_it_in_the_pattern(random_gpt2):
    cut = random_gpt2.run_with_hooks(TOKENS, attention_edges.cut_edges([(1, 2, 4, 3)]))
    expected = random_gpt2.run_with_hooks(TOKENS, removed_and_renormalised(1, 2, 4, 3))
    assert_close(cut, expected)
    assert not torch.allclose(cut, random_gpt2(TOKENS))


def test_each_example_may_have_an_edge_of_its_own(random_gpt2):
    together = random_gpt2.run_with_hooks(
        TOKENS, attention_edges.cut_edges([([1, 0], [2, 0], [4, 5], [3, 1])])
    )
    for index, edge in enumerate([(1, 2, 4, 3), (0, 0, 5, 1)]):
        alone = random_gpt2.run_with_hooks(
            TOKENS[index : index + 1], attention_edges.cut_edges([edge])
        )
        assert_close(together[index : index + 1], alone)


def test_none_stands_for_every_layer_and_head(random_gpt2):
    every = [(layer, head, 4, 3) for layer in range(3) for head in range(4)]
    together = random_gpt2.run_with_hooks(TOKENS, attention_edges.cut_edges([(None, None, 4, 3)]))
    one_by_one = random_gpt2.run_with_hooks(TOKENS, attention_edges.cut_edges(every))
    assert torch.equal(together, one_by_one)


def test_edges_between_two_words_are_all_pairs_that_look_back():
    assert attention_edges.edges_between([5, 2], [1, 4]) == [
        (None, None, 5, 1), (None, None, 5, 4), (None, None, 2, 1),
    ]  # fmt: skip
    assert attention_edges.edges_between([3], [3, 2], layers=range(1, 3), heads=[0]) == [
        (1, 0, 3, 3), (1, 0, 3, 2), (2, 0, 3, 3), (2, 0, 3, 2),
    ]  # fmt: skip
    one_each = attention_edges.edges_between([[4, 5]], [[1, 3], [5, 6]])
    assert one_each == [(None, None, [4, 5], [1, 3])]


@pytest.mark.parametrize(
    ("queries", "keys", "message"),
    [
        ([1, 2], [3], r"No query \[1, 2\] comes after a key \[3\]"),
        ([[4, 5]], [[1, 6]], r"Key \[1, 6\] comes after query \[4, 5\] in some examples only"),
        ([], [1], "No query"),
    ],
)
def test_edges_that_are_not_there_cannot_be_between(queries, keys, message):
    with pytest.raises(PromptError, match=message):
        attention_edges.edges_between(queries, keys)


def test_a_placed_edge_knows_its_place_in_every_example(random_gpt2):
    batch = random_gpt2.as_batch(TOKENS)
    edge = attention_edges.placed(random_gpt2, batch, (None, [3, 0], 5, [2, 4]))
    assert [column.tolist() for column in edge] == [[-1, -1], [3, 0], [5, 5], [2, 4]]


@pytest.mark.parametrize(
    ("edge", "message"),
    [
        ((3, 0, 2, 1), "layer 3 is outside 0-2 of example 0"),
        (([0, -1], 0, 2, 1), "layer -1 is outside 0-2 of example 1"),
        ((0, 4, 2, 1), "head 4 is outside 0-3 of example 0"),
        ((0, -1, 2, 1), "head -1 is outside 0-3"),
        ((0, 0, [2, 9], 1), r"query position 9 is outside 0-\d of example 1"),
        ((0, 0, [8, 2], [8, 1]), "query position 8 is outside 0-5 of example 0"),
        ((0, 0, 3, [1, -1]), "key position -1 is outside"),
        ((0, 0, 2, [1, 4]), r"Key \[1, 4\] comes after query \[2, 2\]"),
        ((0, 0, [2, 3, 4], 1), "query position has 3 values for 2 examples"),
        (([0, 1, 2], 0, 3, 1), "layer has 3 values for 2 examples"),
    ],
)
def test_an_edge_that_is_not_there_cannot_be_placed(random_gpt2, edge, message):
    batch = random_gpt2.as_batch(["I love the color black", "I love the color black, I"])
    assert batch.lengths.tolist() == [6, 8]
    with pytest.raises(PromptError, match=message):
        attention_edges.placed(random_gpt2, batch, edge)


def test_the_control_edge_is_the_nearest_weight_among_the_allowed(random_gpt2):
    found = attention_edges.control_edges(random_gpt2, TOKENS, 1, 2, [5, 4], [2, 3])
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
    found = attention_edges.control_edges(random_gpt2, texts, 0, 1, [3, 5], [2, 4])
    assert (found["query"].values < lengths.numpy() - 1).all()


def test_a_prompt_too_short_for_a_control_says_so(random_gpt2):
    with pytest.raises(PromptError, match="too short"):
        attention_edges.control_edges(random_gpt2, TOKENS[:, :2], 0, 0, 1, 1)
