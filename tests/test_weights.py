"""Processed weights compute the same function, agree with TransformerLens, and are new ones."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel

from interp.errors import ConfigError
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import load
from interp.model.saving import save_huggingface
from interp.model.weights import (
    center_unembed,
    center_writing_weights,
    fold_layer_norm,
    fold_value_biases,
    model_hash,
)
from tests.test_checkpoints import run_child
from tests.test_loading import some_tokens

TOLERANCE = 1e-5
"""Of log-probabilities: float32 rounding through the changed weights."""
PROCESSES = (fold_layer_norm, center_writing_weights, center_unembed, fold_value_biases)
STACKED = ("Q", "K", "V", "O", "in", "out")
Process = Callable[[HookedGPT2], HookedGPT2]


def processed(model: HookedGPT2) -> HookedGPT2:
    """All four, in TransformerLens' order."""
    return reduce(lambda so_far, process: process(so_far), PROCESSES, model)


def log_probabilities(model: HookedGPT2, tokens: Tensor) -> Tensor:
    return model(tokens).log_softmax(dim=-1)


@pytest.mark.parametrize("process", [*PROCESSES, processed])
def test_log_probabilities_stay(process: Process, our_model: HookedGPT2) -> None:
    tokens = some_tokens(our_model.cfg.d_vocab)
    model = copy.deepcopy(our_model).double()
    before = log_probabilities(model, tokens)
    after = log_probabilities(process(model), tokens)
    torch.testing.assert_close(after, before, atol=1e-10, rtol=0)


@pytest.mark.parametrize("process", [*PROCESSES, processed])
def test_log_probabilities_stay_in_single_precision(
    process: Process, random_gpt2: HookedGPT2
) -> None:
    before = log_probabilities(random_gpt2, some_tokens())
    after = log_probabilities(process(random_gpt2), some_tokens())
    torch.testing.assert_close(after, before, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_given_model_is_unchanged_and_shares_nothing(
    process: Process, random_gpt2: HookedGPT2
) -> None:
    before = {name: x.clone() for name, x in random_gpt2.state_dict().items()}
    new = process(random_gpt2)
    for parameter in new.parameters():
        parameter.fill_(7)
    assert random_gpt2.unembed.b_U is None
    assert random_gpt2.cfg.tie_word_embeddings
    for name, x in random_gpt2.state_dict().items():
        assert torch.equal(x, before[name])


def test_folded_layer_norms_have_no_weights_left(random_gpt2: HookedGPT2) -> None:
    model = fold_layer_norm(random_gpt2)
    norms = [model.ln_final, *(n for block in model.blocks for n in (block.ln1, block.ln2))]
    assert all(bool((norm.w == 1).all()) and bool((norm.b == 0).all()) for norm in norms)


def test_a_centred_stream_has_no_mean(random_gpt2: HookedGPT2) -> None:
    _, cache = center_writing_weights(random_gpt2).run_with_cache(some_tokens())
    for layer in range(random_gpt2.cfg.n_layers):
        assert cache["resid_post", layer].mean(dim=-1).abs().max() < TOLERANCE


def test_centred_logits_sum_to_zero(random_gpt2: HookedGPT2) -> None:
    assert center_unembed(random_gpt2)(some_tokens()).mean(dim=-1).abs().max() < TOLERANCE


def test_folded_value_biases_are_gone_and_the_stream_is_the_same(random_gpt2: HookedGPT2) -> None:
    model = fold_value_biases(random_gpt2)
    assert model.b_V.abs().max() == 0
    assert random_gpt2.b_V.abs().max() > 0
    _, before = random_gpt2.run_with_cache(some_tokens())
    _, after = model.run_with_cache(some_tokens())
    torch.testing.assert_close(after["attn_out", 1], before["attn_out", 1], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("configuration_name", ["default", "untied", "n_inner"])
def test_all_four_are_the_compatibility_mode_of_transformer_lens(
    configuration_name: str,
    huggingface_models: Callable[[str], GPT2LMHeadModel],
    make_bridge: Callable,
) -> None:
    ours = processed(HookedGPT2.from_huggingface(huggingface_models(configuration_name)))
    bridge = make_bridge(configuration_name)
    bridge.enable_compatibility_mode(disable_warnings=True)
    for name in ("W_E", "W_pos", "W_U", "b_U", *(f"{kind}_{x}" for kind in "Wb" for x in STACKED)):
        torch.testing.assert_close(
            getattr(ours, name), getattr(bridge, name), atol=TOLERANCE, rtol=0, msg=name
        )
    _, our_cache = ours.run_with_cache(some_tokens())
    _, their_cache = bridge.run_with_cache(some_tokens())
    for layer in range(ours.cfg.n_layers):
        for kind in ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post"):
            name = f"blocks.{layer}.{kind}"
            torch.testing.assert_close(our_cache[name], their_cache[name], atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="module")
def classifier() -> HookedGPT2:
    config = GPT2Config(vocab_size=50, n_positions=16, n_embd=12, n_layer=2, n_head=2, num_labels=3)
    torch.manual_seed(0)
    return HookedGPT2.from_huggingface(GPT2ForSequenceClassification(config))


@pytest.mark.parametrize("process", [fold_layer_norm, center_writing_weights, fold_value_biases])
def test_the_outputs_of_a_classifier_stay(process: Process, classifier: HookedGPT2) -> None:
    tokens = some_tokens(50)
    torch.testing.assert_close(
        process(classifier).classify(tokens), classifier.classify(tokens), atol=TOLERANCE, rtol=0
    )


def test_the_outputs_of_a_classifier_are_not_shifted(classifier: HookedGPT2) -> None:
    with pytest.raises(ConfigError, match="is a classifier: shifting its outputs would change"):
        center_unembed(classifier)


# The hash


def test_the_hash_is_the_same_wherever_the_model_comes_from(
    random_gpt2: HookedGPT2, tmp_path: Path
) -> None:
    save_huggingface(random_gpt2, tmp_path / "saved")
    expected = model_hash(random_gpt2)
    assert len(expected) == 32
    assert model_hash(load(tmp_path / "saved")) == expected
    elsewhere = run_child(
        "import interp; from interp.model.weights import model_hash;"
        f"print(model_hash(interp.load({str(tmp_path / 'saved')!r})))"
    )
    assert elsewhere.strip() == expected


def test_the_hash_does_not_depend_on_the_layout_in_memory(random_gpt2: HookedGPT2) -> None:
    weights = random_gpt2.state_dict()
    strided = {name: torch.stack([x, x], dim=-1)[..., 0] for name, x in weights.items()}
    again = HookedGPT2.from_weights(random_gpt2.cfg, strided)
    assert not again.blocks[0].mlp.W_in.is_contiguous()
    assert model_hash(again) == model_hash(random_gpt2)


def test_every_change_changes_the_hash(random_gpt2: HookedGPT2) -> None:
    cfg, weights = random_gpt2.cfg, dict(random_gpt2.state_dict())
    hashes = [model_hash(random_gpt2), model_hash(fold_layer_norm(random_gpt2))]
    for name in weights:
        changed = {n: x.clone() for n, x in weights.items() if n != "unembed.weight"}
        if name in changed:
            changed[name].view(-1)[-1] += 1
            hashes.append(model_hash(HookedGPT2.from_weights(cfg, changed)))
    hashes.append(model_hash(HookedGPT2.from_weights(replace(cfg, act_fn="gelu"), weights)))
    hashes.append(model_hash(HookedGPT2.from_weights(replace(cfg, eps=1e-6), weights)))
    half = {name: x.bfloat16() for name, x in weights.items()}
    hashes.append(model_hash(HookedGPT2.from_weights(cfg, half)))
    with_bias = HookedGPT2.from_weights(cfg, weights)
    with_bias.unembed.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))
    hashes.append(model_hash(with_bias))
    assert len(set(hashes)) == len(hashes)


def test_the_name_does_not_change_the_hash(random_gpt2: HookedGPT2) -> None:
    renamed = HookedGPT2.from_weights(
        replace(random_gpt2.cfg, model_name="other"), dict(random_gpt2.state_dict())
    )
    assert model_hash(renamed) == model_hash(random_gpt2)
