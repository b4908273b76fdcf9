"""nanoGPT's checkpoints: the same model in another layout, or a refusal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GPT2LMHeadModel,
)

from interp.errors import CheckpointError, ConfigError, TokenizerError
from interp.model.loading import load
from tests.test_loading import TEXT, TOLERANCE, is_mapped, some_tokens


def nanogpt_checkpoint(hf_model: GPT2LMHeadModel, *, prefix: str = "", bias: bool = True) -> dict:
    """The same model as nanoGPT writes it: Linear layout, and biases left out on request."""
    state = {}
    for name, x in hf_model.state_dict().items():
        linear = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
        if bias or not name.endswith(".bias"):
            state[prefix + name] = x.T.contiguous() if linear else x.clone()
    config = hf_model.config
    arguments = {
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "block_size": config.n_positions,
        "bias": bias,
        "vocab_size": config.vocab_size,
        "dropout": 0.1,
    }
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}
    return {
        "model": state,
        "model_args": arguments,
        "optimizer": optimizer,
        "iter_num": 5,
        "best_val_loss": torch.tensor(3.0),
        "config": {"out_dir": "out", "compile": True},
    }


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
def test_a_nanogpt_checkpoint_gives_the_logits_of_the_same_model(
    bias: bool,
    prefix: str,
    huggingface_models: Callable[[str], GPT2LMHeadModel],
    tmp_path: Path,
) -> None:
    exact_gelu = GPT2LMHeadModel(huggingface_models("gelu").config).eval()
    state = huggingface_models("gelu").state_dict()
    biases = {name: x * bias for name, x in state.items() if name.endswith(".bias")}
    exact_gelu.load_state_dict(state | biases)
    torch.save(nanogpt_checkpoint(exact_gelu, prefix=prefix, bias=bias), tmp_path / "ckpt.pt")
    model = load(tmp_path / "ckpt.pt")
    with torch.no_grad():
        expected = exact_gelu(some_tokens()).logits
    torch.testing.assert_close(model(some_tokens()), expected, atol=TOLERANCE, rtol=0)
    assert model.cfg.act_fn == "gelu"
    assert model.cfg.model_name == "ckpt"
    assert model.unembed.weight is model.embed.W_E


def test_weights_of_nanogpt_are_the_file_itself(
    huggingface_models: Callable[[str], GPT2LMHeadModel], tmp_path: Path
) -> None:
    torch.save(nanogpt_checkpoint(huggingface_models("gelu")), tmp_path / "ckpt.pt")
    model = load(tmp_path / "ckpt.pt")
    assert all(is_mapped(x, tmp_path / "ckpt.pt") for x in model.parameters())


def test_an_untied_head_of_nanogpt_is_kept(
    huggingface_models: Callable[[str], GPT2LMHeadModel], tmp_path: Path
) -> None:
    checkpoint = nanogpt_checkpoint(huggingface_models("gelu"))
    checkpoint["model"]["lm_head.weight"] = checkpoint["model"]["lm_head.weight"] + 1
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    model = load(tmp_path / "ckpt.pt")
    assert torch.equal(model.W_U.T, model.W_E + 1)


def test_a_nanogpt_model_takes_ids_until_it_is_given_a_tokenizer(
    huggingface_models: Callable[[str], GPT2LMHeadModel], tokenizer_folder: Path, tmp_path: Path
) -> None:
    torch.save(nanogpt_checkpoint(huggingface_models("gelu")), tmp_path / "ckpt.pt")
    (tmp_path / "meta.pkl").write_bytes(b"never read")
    model = load(tmp_path / "ckpt.pt")
    with pytest.raises(TokenizerError, match=r"has no tokenizer\. Pass token ids, or load it"):
        model(TEXT)
    with_text = load(tmp_path / "ckpt.pt", tokenizer=tokenizer_folder)
    assert torch.equal(with_text(TEXT), model(with_text.to_tokens(TEXT)))


@pytest.mark.parametrize(
    ("change", "error", "cause"),
    [
        (
            lambda c: c.pop("model_args"),
            CheckpointError,
            "is no nanoGPT checkpoint: it holds a dict",
        ),
        (lambda c: c.update(model_args=[]), ConfigError, "model_args is a list"),
        (lambda c: c["model_args"].update(rope=True), ConfigError, r"unknown \['rope'\]"),
        (lambda c: c["model_args"].pop("n_head"), ConfigError, r"missing \['n_head'\]"),
        (lambda c: c["model_args"].update(n_layer=4), CheckpointError, "missing tensors"),
        (lambda c: c["model_args"].update(n_layer="3"), ConfigError, "n_layers must be"),
        (
            lambda c: c["model_args"].update(block_size=64),
            CheckpointError,
            r"wpe\.weight has shape",
        ),
        (lambda c: c["model"].pop("transformer.ln_f.weight"), CheckpointError, "ln_f.weight"),
        (lambda c: c.update(model={}), CheckpointError, "not a state dict"),
    ],
)
def test_a_wrong_nanogpt_checkpoint_is_refused(
    change: Callable[[dict], Any],
    error: type[Exception],
    cause: str,
    huggingface_models: Callable[[str], GPT2LMHeadModel],
    tmp_path: Path,
) -> None:
    checkpoint = nanogpt_checkpoint(huggingface_models("gelu"))
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "ckpt.pt")
    with pytest.raises(error, match=cause):
        load(tmp_path / "ckpt.pt")


def test_a_bare_state_dict_is_no_nanogpt_checkpoint(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"OrderedDict \(weight, bias\), expected"):
        load(tmp_path / "ckpt.pt")
