import copy

import numpy as np
import pytest
import torch
from einops import einsum

import interp
from interp import head_circuits
from interp.errors import PromptError
from interp.head_circuits import (
    composition_scores,
    ov_top_pairs,
    ov_top_tokens,
    qk_top_pairs,
    singular_values,
)
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import center_unembed, center_writing_weights, fold_layer_norm
from interp.tiny.language import WORDS
from tests.comparison import BFLOAT16, assert_close
from tests.test_token_paths import lone_tokens

SIZES = {"n_layers": 2, "n_heads": 4, "d_model": 4, "d_mlp": 8, "d_vocab": 6, "n_ctx": 4}


@pytest.fixture(scope="module")
def tiny():
    return interp.load()


def naive_scores(model, layer, head, tokens):
    """All scores of lone tokens, each row without its mean."""
    cache = lone_tokens(model, tokens)
    q, k = (cache[letter, layer][:, 0, head] for letter in "qk")
    scores = q @ k.T * model.cfg.score_factor(layer)
    return scores - scores.mean(dim=1, keepdim=True)


def naive_logits(model, layer, head, tokens):
    """What reading each token does to each one's logit, relative to reading an average one."""
    v = lone_tokens(model, tokens)["v", layer][:, 0, head]
    W_U = center_unembed(fold_layer_norm(model)).W_U[:, tokens]
    return (v - v.mean(dim=0)) @ model.W_O[layer, head] @ W_U


def highest(matrix, n):
    top = matrix.flatten().topk(n)
    return top.indices // matrix.shape[1], top.indices % matrix.shape[1], top.values


def products(model):
    """W_QK and W_OV of all heads as d_model x d_model matrices of the centred stream."""
    model = center_writing_weights(fold_layer_norm(model))
    equation = "layer head read d_head, layer head write d_head -> layer head read write"
    return einsum(model.W_Q, model.W_K, equation), einsum(model.W_V, model.W_O.mT, equation)


@pytest.mark.parametrize("chunk", [7, 512])
def test_the_best_pairs_of_a_query_and_a_key_are_those_of_the_whole_matrix(
    our_model, monkeypatch, chunk
):
    monkeypatch.setattr(head_circuits, "CHUNK", chunk)
    tokens, layer = torch.arange(3, 60), our_model.cfg.n_layers - 1
    found = qk_top_pairs(our_model, layer, 1, tokens.tolist(), n_pairs=12)
    queries, keys, scores = highest(naive_scores(our_model, layer, 1, tokens), 12)
    assert found["query"].values.tolist() == tokens[queries].tolist()
    assert found["key"].values.tolist() == tokens[keys].tolist()
    assert_close(torch.tensor(found["score"].values), scores)


def test_pairs_of_read_and_raised_tokens_are_those_of_the_whole_matrix(our_model):
    tokens, layer = torch.arange(3, 60), our_model.cfg.n_layers - 1
    found = ov_top_pairs(our_model, layer, 1, tokens.tolist(), n_pairs=12)
    read, raised, logits = highest(naive_logits(our_model, layer, 1, tokens), 12)
    assert found["read"].values.tolist() == tokens[read].tolist()
    assert found["raised"].values.tolist() == tokens[raised].tolist()
    assert_close(torch.tensor(found["logit"].values), logits)


def test_what_one_token_raises_is_a_row_of_the_same_matrix(random_gpt2):
    tokens = torch.arange(3, 60)
    found = ov_top_tokens(random_gpt2, 1, 2, 10, tokens.tolist(), n_tokens=5)
    top = naive_logits(random_gpt2, 1, 2, tokens)[10 - 3].topk(5)
    assert found["raised"].values.tolist() == tokens[top.indices].tolist()
    assert_close(torch.tensor(found["logit"].values), top.values)
    (text,) = random_gpt2.to_str_tokens([10])
    assert found.attrs["token"] == text


def test_the_numbers_of_a_bfloat16_model_are_float32(random_gpt2):
    model = copy.deepcopy(random_gpt2).to(torch.bfloat16)
    assert qk_top_pairs(model, 1, 0)["score"].dtype == np.float32
    assert ov_top_tokens(model, 1, 0, 5)["logit"].dtype == np.float32
    exact = singular_values(random_gpt2)
    assert_close(torch.tensor(singular_values(model).values), torch.tensor(exact.values), BFLOAT16)
    composition = composition_scores(model) - composition_scores(random_gpt2)
    assert float(abs(composition).max()) < 0.01


def test_fewer_pairs_than_asked_for_are_all_given(random_gpt2):
    assert qk_top_pairs(random_gpt2, 0, 0, [4, 5]).sizes["pair"] == 4
    assert ov_top_tokens(random_gpt2, 0, 0, 4, [4, 5]).sizes["rank"] == 2


def test_singular_values_are_those_of_the_whole_products(our_model):
    found = singular_values(our_model)
    qk, ov = products(our_model)
    d_head = our_model.cfg.d_head
    for layer in range(our_model.cfg.n_layers):
        scaled = qk[layer] * our_model.cfg.score_factor(layer)
        for circuit, whole in (("QK", scaled), ("OV", ov[layer])):
            expected = torch.linalg.svdvals(whole)[:, :d_head]
            assert_close(torch.tensor(found.sel(circuit=circuit, layer=layer).values), expected)


def test_composition_is_that_of_the_whole_products(our_model):
    scores = composition_scores(our_model)
    qk, ov = products(our_model)
    entered = {"Q": qk, "K": qk.mT, "V": ov}
    heads = range(our_model.cfg.n_heads)
    for kind, circuit in entered.items():
        for sender_layer in range(our_model.cfg.n_layers):
            for layer in range(our_model.cfg.n_layers):
                found = scores.sel(kind=kind, sender_layer=sender_layer, receiver_layer=layer)
                if layer <= sender_layer:
                    assert np.isnan(found.values).all()
                    continue
                for sender in heads:
                    for receiver in heads:
                        first, second = ov[sender_layer, sender], circuit[layer, receiver]
                        expected = (first @ second).norm() / (first.norm() * second.norm())
                        assert float(found[sender, receiver]) == pytest.approx(
                            float(expected), rel=1e-4
                        )


def test_a_planted_sender_composes_with_the_one_input_that_reads_it():
    model = HookedGPT2(ModelConfig(**SIZES)).requires_grad_(False)
    written, other = torch.tensor([1.0, -1.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 1.0, -1.0])
    model.blocks[0].attn.W_O[1, 0] = written
    W_QKV = model.blocks[1].attn.W_QKV
    W_QKV[:, 0, 2, 0], W_QKV[:, 1, 2, 0], W_QKV[:, 2, 2, 0] = other, written, written + other
    found = composition_scores(model).sel(
        sender_layer=0, sender_head=1, receiver_layer=1, receiver_head=2
    )
    # Half of the squared length of `written + other` lies along `written`.
    assert found.values == pytest.approx([0.0, 1.0, 0.5**0.5], abs=1e-6)


def test_the_weight_of_the_layer_norm_counts_as_part_of_what_is_read():
    model = HookedGPT2(ModelConfig(**SIZES)).requires_grad_(False)
    before = singular_values(model)
    model.blocks[1].ln1.w *= 3
    ratio = (singular_values(model) / before).isel(component=0, head=0)
    assert ratio.sel(circuit="QK").values == pytest.approx([1.0, 9.0])
    assert ratio.sel(circuit="OV").values == pytest.approx([1.0, 3.0])


def test_the_baseline_is_what_random_heads_score():
    sizes = {"n_layers": 2, "n_heads": 8, "d_model": 64, "d_mlp": 8, "d_vocab": 6, "n_ctx": 4}
    scores = composition_scores(HookedGPT2(ModelConfig(**sizes), seed=1))
    first_to_second = scores.sel(sender_layer=0, receiver_layer=1)
    assert float((first_to_second**2).mean() ** 0.5) == pytest.approx(
        scores.attrs["baseline"], rel=0.03
    )


def test_the_colour_head_asks_for_colours_and_the_induction_head_copies(tiny):
    things, colours = (
        [tiny.to_single_token(f" {word}") for word in WORDS[name]] for name in ("things", "colours")
    )
    pairs = qk_top_pairs(tiny, 1, 2, [*things, *colours], n_pairs=20)
    assert set(pairs["query"].values.tolist()) <= set(things)
    assert set(pairs["key"].values.tolist()) <= set(colours)
    raised = ov_top_tokens(tiny, 2, 3, " cat", n_tokens=3)
    assert raised["raised_token"].values[0] == " cat"
    assert raised["logit"].values.tolist() == sorted(raised["logit"].values, reverse=True)


def test_the_previous_token_head_feeds_the_keys_of_the_induction_head(tiny):
    scores = composition_scores(tiny)
    found = scores.sel(sender_layer=0, sender_head=0, receiver_layer=2, receiver_head=3)
    relative = found / scores.attrs["baseline"]
    assert float(relative.sel(kind="K")) > 1.5
    assert float(relative.sel(kind=["Q", "V"]).max()) < 1.1


def test_results_say_which_model_head_and_unit_they_belong_to(random_gpt2):
    found = qk_top_pairs(random_gpt2, 1, 2, [4, 5])
    assert (found.attrs["layer"], found.attrs["head"]) == (1, 2)
    assert found.attrs["model_hash"] == interp.model_hash(random_gpt2)
    assert "attention score" in found.attrs["unit"]
    assert found["query_token"].values[0] in random_gpt2.to_str_tokens([4, 5])


def test_without_a_tokenizer_tokens_are_named_by_their_ids(our_model):
    assert set(qk_top_pairs(our_model, 0, 0, [4, 5])["key_token"].values) <= {"4", "5"}


@pytest.mark.parametrize("find", [qk_top_pairs, ov_top_pairs])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 0), r"no head L3H0: layers are 0-2, heads 0-3"),
        ((0, -1), r"no head L0H-1"),
        ((0, 0, []), "vocabulary is empty"),
        ((0, 0, [340]), "340 is outside the vocabulary 0-339"),
    ],
)
def test_heads_and_tokens_that_are_not_there_are_refused(random_gpt2, find, arguments, message):
    with pytest.raises(PromptError, match=message):
        find(random_gpt2, *arguments)


def test_a_classifier_raises_no_tokens():
    model = HookedGPT2(ModelConfig(**SIZES, n_classes=2))
    with pytest.raises(PromptError, match="is a classifier"):
        ov_top_pairs(model, 0, 0)
    with pytest.raises(PromptError, match="is a classifier"):
        ov_top_tokens(model, 0, 0, 1)
    assert qk_top_pairs(model, 0, 0).sizes["pair"] == 10
