"""Sizes and switches: what is refused, what is derived, and the way to Hugging Face and back."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from interp.errors import ConfigError
from interp.model.config import ModelConfig, check_settings
from interp.model.gpt2 import HookedGPT2
from interp.model.huggingface import config_from_huggingface, config_to_huggingface

SMALL = ModelConfig(n_layers=2, n_heads=4, d_model=24, d_mlp=40, d_vocab=50, n_ctx=16)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n_layers", 0), ("n_heads", -1), ("d_model", 10**9), ("d_mlp", 4.0), ("d_vocab", True),
        ("n_ctx", "16"), ("d_model", None),
    ],
)  # fmt: skip
def test_a_size_that_cannot_be_is_refused_by_name(field: str, value: object) -> None:
    settings = vars(SMALL) | {field: value}
    with pytest.raises(ConfigError, match=f"{field} must be a whole number from 1 to .*{value!r}"):
        check_settings(settings)
    if type(value) is int:
        with pytest.raises(ConfigError, match=f"{field} must be a whole number"):
            replace(SMALL, **{field: value})


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"d_model \(25\) must be a multiple of n_heads \(4\)"):
        replace(SMALL, d_model=25)


@pytest.mark.parametrize("eps", [0.0, -1e-5, 1.0, math.nan, "1e-5"])
def test_eps_must_be_a_small_positive_number(eps: object) -> None:
    with pytest.raises(ConfigError, match="eps must be a number between 0 and 1"):
        check_settings(vars(SMALL) | {"eps": eps})


def test_scores_are_divided_as_the_switches_say() -> None:
    assert SMALL.d_head == 6
    assert SMALL.score_factor(1) == pytest.approx(6**-0.5)
    assert replace(SMALL, scale_attn_weights=False).score_factor(1) == 1
    inverse = replace(SMALL, scale_attn_by_inverse_layer_idx=True)
    assert inverse.score_factor(0) == pytest.approx(6**-0.5)
    assert inverse.score_factor(3) == pytest.approx(6**-0.5 / 4)


@pytest.mark.parametrize(
    "changes", [{}, {"tie_word_embeddings": False}, {"n_classes": 3}], ids=["tied", "untied", "3"]
)
def test_the_number_of_weights_is_counted_once_each(changes: dict) -> None:
    model = HookedGPT2(replace(SMALL, **changes))
    assert model.cfg.n_params == sum(p.numel() for p in model.parameters())
    assert model.cfg.d_vocab_out == changes.get("n_classes", 50)


def test_gpt2_small_has_124_million_weights() -> None:
    cfg = config_from_huggingface(GPT2Config().to_dict(), "gpt2")
    assert cfg.n_params == 124_439_808
    assert (cfg.n_layers, cfg.n_heads, cfg.d_model, cfg.d_mlp) == (12, 12, 768, 3072)
    assert config_from_huggingface({}, "gpt2") == cfg


def test_a_configuration_goes_to_huggingface_and_back(our_model: HookedGPT2) -> None:
    there = GPT2Config.from_dict(config_to_huggingface(our_model.cfg))
    back = config_from_huggingface(there.to_dict(), our_model.cfg.model_name)
    assert back == our_model.cfg


def test_a_classifier_goes_to_huggingface_and_back() -> None:
    cfg = replace(SMALL, n_classes=3)
    theirs = GPT2Config.from_dict(config_to_huggingface(cfg))
    assert theirs.num_labels == 3
    assert config_from_huggingface(theirs.to_dict(), "gpt2") == cfg


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "is a 'llama' model, not GPT-2"),
        ({"architectures": ["GPT2DoubleHeadsModel"]}, "'GPT2DoubleHeadsModel' .* not supported"),
        ({"activation_function": "mish"}, "Unknown activation 'mish'; known: gelu, "),
        ({"add_cross_attention": True}, "not understood: add_cross_attention=True"),
        ({"rope_theta": 1e4, "alibi": 1}, "not understood: alibi=1, rope_theta=10000.0"),
        ({"n_embd": None}, "d_model must be a whole number"),
        ({"n_layer": "12"}, "n_layers must be a whole number from 1 to 512, got '12'"),
        ({"layer_norm_epsilon": 1}, "eps must be a number between 0 and 1"),
        ({"scale_attn_weights": "false"}, "scale_attn_weights must be true or false, got 'false'"),
        ({"n_head": 7}, "must be a multiple of n_heads"),
    ],
)
def test_a_configuration_that_is_not_understood_is_refused(
    huggingface_models: Callable[[str], GPT2LMHeadModel], changes: dict, message: str
) -> None:
    config = huggingface_models("default").config.to_dict() | changes
    with pytest.raises(ConfigError, match=message):
        config_from_huggingface(config, "a model")


def test_other_names_and_missing_sizes_are_understood() -> None:
    config = {"hidden_size": 24, "num_attention_heads": 4, "num_hidden_layers": 2, "n_ctx": 16}
    cfg = config_from_huggingface(config | {"vocab_size": 50, "layer_norm_epsilon": 1e-5}, "gpt2")
    assert cfg == replace(SMALL, d_mlp=96)
