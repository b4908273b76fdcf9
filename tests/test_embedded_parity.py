"""On its trained weights the embedded model computes what transformers and TransformerLens do."""

import pytest
import torch
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformers import AutoTokenizer, GPT2LMHeadModel

import interp
from interp.model.hooks import hook_names
from interp.model.loading import EMBEDDED_FOLDER
from tests.comparison import assert_close
from tests.test_transformer_lens_parity import same_meaning, visible

TEXT = "I love the color black, I hope someday to have a cat like that. The cat is"


@pytest.fixture
def theirs() -> GPT2LMHeadModel:
    return GPT2LMHeadModel.from_pretrained(EMBEDDED_FOLDER, attn_implementation="eager").eval()


def test_transformers_reads_the_same_tokens_logits_residuals_and_patterns(
    theirs: GPT2LMHeadModel,
) -> None:
    ours = interp.load()
    tokens = ours.to_tokens(TEXT)
    assert AutoTokenizer.from_pretrained(EMBEDDED_FOLDER).encode(TEXT) in (
        tokens[0].tolist(),
        tokens[0, 1:].tolist(),
    )
    logits, cache = ours.run_with_cache(tokens)
    expected = theirs(tokens, output_hidden_states=True, output_attentions=True)
    assert_close(logits, expected.logits)
    for layer in range(ours.cfg.n_layers):
        assert_close(cache["resid_pre", layer], expected.hidden_states[layer])
        assert_close(cache["pattern", layer], expected.attentions[layer])


def test_gradients_of_all_weights_equal_those_of_transformers(theirs: GPT2LMHeadModel) -> None:
    ours = interp.load().requires_grad_(True)
    tokens = ours.to_tokens(TEXT)
    ours(tokens, "loss").backward()
    theirs(tokens, labels=tokens).loss.backward()
    for layer, block in enumerate(ours.blocks):
        expected = theirs.transformer.h[layer]
        assert_close(block.attn.W_QKV.grad.flatten(1), expected.attn.c_attn.weight.grad)
        assert_close(block.attn.W_O.grad.flatten(0, 1), expected.attn.c_proj.weight.grad)
        assert_close(block.mlp.W_in.grad, expected.mlp.c_fc.weight.grad)
        assert_close(block.ln1.w.grad, expected.ln_1.weight.grad)
    assert_close(ours.embed.W_E.grad, theirs.transformer.wte.weight.grad)


def test_every_default_hook_and_its_gradient_equal_those_of_the_bridge(
    theirs: GPT2LMHeadModel,
) -> None:
    ours = interp.load()
    bridge = build_bridge_from_module(theirs, "GPT2LMHeadModel", hf_config=theirs.config)
    names = [name for name in hook_names(4) if not name.endswith("hook_mlp_in")]
    tokens = ours.to_tokens(TEXT)
    asked = {"return_type": "loss", "incl_bwd": True}
    our_names = [*names, *map(same_meaning, names)]
    loss, cache = ours.run_with_cache(tokens, names_filter=our_names, **asked)
    their_loss, their_cache = bridge.run_with_cache(tokens, names_filter=names, **asked)
    assert_close(loss, their_loss)
    assert len(names) == 4 + 4 * 17
    for name in names:
        assert_close(visible(name, cache[name]), visible(name, their_cache[name]))
        gradient, expected = cache[f"{same_meaning(name)}_grad"], their_cache[f"{name}_grad"]
        assert torch.isfinite(gradient).all()
        assert_close(visible(name, gradient), visible(name, expected))
