"""Our GPT-2 computes what Hugging Face's eager GPT-2 computes, forwards and backwards."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GPT2ForSequenceClassification, GPT2LMHeadModel

from interp.errors import CheckpointError, ConfigError
from interp.model.gpt2 import HookedGPT2
from interp.model.huggingface import weights_from_huggingface, weights_to_huggingface
from interp.model.tokens import TokenBatch
from tests.comparison import BFLOAT16, FLOAT32, FLOAT64, assert_close

TOLERANCE = {torch.float32: FLOAT32, torch.float64: FLOAT64, torch.bfloat16: BFLOAT16}


def random_tokens(model: HookedGPT2, n_examples: int = 3, n_positions: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, model.cfg.d_vocab, (n_examples, n_positions), generator=generator)


def in_dtype(hf_model: GPT2LMHeadModel, dtype: torch.dtype) -> tuple[GPT2LMHeadModel, HookedGPT2]:
    """A copy of Hugging Face's model, and ours with the same weights, in another type."""
    theirs = copy.deepcopy(hf_model).to(dtype)
    ours = HookedGPT2.from_huggingface(theirs)
    if dtype == torch.float64:
        for block in theirs.transformer.h:
            block.attn.reorder_and_upcast_attn = False  # raises in a type finer than float32
    return theirs, ours


def next_token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Hugging Face's loss, but in the logits' own type if that is finer than float32."""
    flat = logits[:, :-1].flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(flat, tokens[:, 1:].flatten())


def test_loss_is_the_one_huggingface_reports(hf_model: GPT2LMHeadModel) -> None:
    ours = HookedGPT2.from_huggingface(hf_model)
    tokens = random_tokens(ours)
    assert_close(ours(tokens, return_type="loss"), hf_model(tokens, labels=tokens).loss)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_logits_residuals_patterns_and_loss_agree(
    hf_model: GPT2LMHeadModel, dtype: torch.dtype
) -> None:
    theirs, ours = in_dtype(hf_model, dtype)
    tolerance, tokens = TOLERANCE[dtype], random_tokens(ours)
    with torch.no_grad():
        expected = theirs(tokens, output_hidden_states=True, output_attentions=True)
        (logits, loss), cache = ours.run_with_cache(tokens, return_type="both")
        fused = ours(tokens)
    n_layers = ours.cfg.n_layers
    assert logits.dtype == fused.dtype == dtype
    assert_close(logits, expected.logits, tolerance)
    assert_close(fused, expected.logits, tolerance)
    assert_close(loss, next_token_loss(expected.logits, tokens), tolerance)
    for layer in range(n_layers):
        assert_close(cache["resid_pre", layer], expected.hidden_states[layer], tolerance)
        assert_close(cache["pattern", layer], expected.attentions[layer], tolerance)
    # Hugging Face's last hidden state comes after the final LayerNorm.
    normalized = cache["normalized"] * ours.ln_final.w + ours.ln_final.b
    assert_close(normalized, expected.hidden_states[n_layers], tolerance)


def test_recording_openly_gives_the_fused_logits(our_model: HookedGPT2) -> None:
    tokens = random_tokens(our_model)
    every_name = ["blocks.*", "ln_final.*"]
    logits, _ = our_model.run_with_cache(tokens, names_filter=every_name)
    assert_close(logits, our_model(tokens))


def test_gradients_of_weights_and_activations_agree(hf_model: GPT2LMHeadModel) -> None:
    theirs, ours = in_dtype(hf_model, torch.float64)
    tokens = random_tokens(ours)
    expected = theirs(tokens, output_hidden_states=True)
    for state in expected.hidden_states:
        state.retain_grad()
    next_token_loss(expected.logits, tokens).backward()

    ours.requires_grad_()
    _, cache = ours.run_with_cache(tokens, return_type="loss", incl_bwd=True)
    assert all(parameter.grad is None for parameter in ours.parameters())
    for layer, state in enumerate(expected.hidden_states[:-1]):
        assert state.grad is not None
        assert_close(cache[f"blocks.{layer}.hook_resid_pre_grad"], state.grad, FLOAT64)

    ours(tokens, return_type="loss").backward()
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    named = weights_to_huggingface(gradients, ours.cfg)
    expected_gradients = {name: p.grad for name, p in theirs.named_parameters()}
    assert named.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        assert gradient is not None
        assert_close(named[name], gradient, FLOAT64)


def test_their_model_is_left_as_it_was(hf_model: GPT2LMHeadModel) -> None:
    before = {name: x.clone() for name, x in hf_model.state_dict().items()}
    config, grads = hf_model.config.to_dict(), [p.requires_grad for p in hf_model.parameters()]
    ours = HookedGPT2.from_huggingface(hf_model)
    ours(random_tokens(ours))
    after = hf_model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], x) for name, x in before.items())
    assert hf_model.config.to_dict() == config
    assert [p.requires_grad for p in hf_model.parameters()] == grads


def test_training_ours_does_not_change_theirs(hf_model: GPT2LMHeadModel) -> None:
    before = hf_model.transformer.wte.weight.clone()
    ours = HookedGPT2.from_huggingface(hf_model)
    with torch.no_grad():
        ours.embed.W_E.add_(1)
    assert torch.equal(hf_model.transformer.wte.weight, before)


def test_weights_return_to_huggingface_unchanged(
    hf_model: GPT2LMHeadModel, our_model: HookedGPT2
) -> None:
    named = weights_to_huggingface(our_model.state_dict(), our_model.cfg)
    theirs = hf_model.state_dict()
    assert theirs.keys() - named.keys() <= {"lm_head.weight"}
    assert all(torch.equal(x, theirs[name]) for name, x in named.items())


def test_bare_transformer_reads_out_with_its_embedding(
    huggingface_models: Callable[[str], GPT2LMHeadModel],
) -> None:
    with_head = huggingface_models("default")
    ours = HookedGPT2.from_huggingface(with_head.transformer)
    tokens = random_tokens(ours)
    assert_close(ours(tokens), with_head(tokens).logits)


@pytest.mark.parametrize("lengths", [(9, 9), (9, 4)])
def test_classifier_agrees(hf_model: GPT2LMHeadModel, lengths: tuple[int, int]) -> None:
    config = copy.deepcopy(hf_model.config)
    config.num_labels, config.pad_token_id = 3, 0
    theirs = GPT2ForSequenceClassification(config).eval()
    ours = HookedGPT2.from_huggingface(theirs)
    tokens = random_tokens(ours, 2, 9)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    tokens = tokens.where(mask, 0)
    logits = ours.classify(TokenBatch(tokens, mask))
    assert_close(logits, theirs(tokens, attention_mask=mask.long()).logits)


def test_a_setting_that_is_not_understood_is_refused(hf_model: GPT2LMHeadModel) -> None:
    theirs = copy.deepcopy(hf_model)
    theirs.config.rotary_base = 10_000
    with pytest.raises(ConfigError, match="not understood: rotary_base=10000"):
        HookedGPT2.from_huggingface(theirs)


def test_missing_unexpected_and_misshapen_weights_are_named(
    hf_model: GPT2LMHeadModel, our_model: HookedGPT2
) -> None:
    state, cfg = dict(hf_model.state_dict()), our_model.cfg
    name = "transformer.h.0.attn.c_attn.weight"
    without = {key: x for key, x in state.items() if key != name}
    with pytest.raises(CheckpointError, match=f"file: 1 missing tensors: {name}"):
        weights_from_huggingface(without, cfg, "file")
    with pytest.raises(CheckpointError, match=r"1 unexpected tensors: transformer.extra"):
        weights_from_huggingface(state | {"extra": torch.zeros(1)}, cfg, "file")
    with pytest.raises(CheckpointError, match=r"expected .* It looks transposed"):
        weights_from_huggingface(state | {name: state[name].T}, cfg, "file")
