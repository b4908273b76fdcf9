"""The model as an object: its weights, its types, and that nothing of a run stays in it."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from interp.errors import PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from tests.comparison import assert_close

SMALL = ModelConfig(n_layers=2, n_heads=4, d_model=24, d_mlp=40, d_vocab=50, n_ctx=16)
TOKENS = torch.arange(2, 18).reshape(2, 8)


def test_attention_by_hand_in_a_model_of_one_head() -> None:
    """Uniform attention over hand-made values: every number is known."""
    cfg = replace(SMALL, n_layers=1, n_heads=1, d_model=2, d_mlp=1, d_vocab=3, n_ctx=3)
    model = HookedGPT2(cfg).requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    block = model.blocks[0]
    model.embed.W_E[:] = torch.tensor([[2.0, 0.0], [0.0, 2.0], [4.0, 0.0]])
    block.ln1.w.fill_(1)
    block.attn.W_QKV[:, 2, 0] = torch.eye(2)  # v reads the normalised stream
    block.attn.W_O[0] = 10 * torch.eye(2)
    block.attn.b_O[:] = torch.tensor([0.5, 0.0])
    _, cache = model.run_with_cache(torch.tensor([[0, 1, 2]]))
    expected_v = torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]])
    assert_close(cache["v", 0][0, :, 0], expected_v)
    third = 1 / 3
    pattern = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [third, third, third]])
    assert_close(cache["pattern", 0][0, 0], pattern)
    written = torch.tensor([[10.5, -10.0], [0.5, 0.0], [10 * third + 0.5, -10 * third]])
    assert_close(cache["attn_out", 0][0], written)
    assert_close(cache["resid_post", 0][0], written + model.embed.W_E[torch.tensor([0, 1, 2])])


def test_initial_weights_follow_the_seed_and_gpt2s_rules() -> None:
    cfg = replace(SMALL, d_model=64, d_mlp=256, d_vocab=500)
    model, same, other = HookedGPT2(cfg), HookedGPT2(cfg, seed=0), HookedGPT2(cfg, seed=1)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
        constant = name.split(".")[-1].startswith("b") or "ln" in name
        assert torch.equal(parameter, other.get_parameter(name)) == constant
        if constant:
            assert (parameter == float(name.endswith(".w"))).all()
    block = model.blocks[1]
    readers = [model.embed.W_E, model.pos_embed.W_pos, block.attn.W_QKV, block.mlp.W_in]
    for weight in readers:
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    for weight in (block.attn.W_O, block.mlp.W_out):  # each of the 4 sublayers adds to the stream
        assert float(weight.detach().std()) == pytest.approx(0.02 / math.sqrt(4), rel=0.05)
    # An untrained model knows nothing: its loss is that of guessing.
    loss = model(TOKENS, return_type="loss")
    assert float(loss.detach()) == pytest.approx(math.log(500), rel=0.01)


def test_a_model_learns_by_its_gradients() -> None:
    model = HookedGPT2(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = model(TOKENS, return_type="loss")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(math.log(50), rel=0.05)
    assert losses[-1] < 0.1


def test_weights_are_taken_over_without_a_copy() -> None:
    source = HookedGPT2(SMALL)
    model = HookedGPT2.from_weights(SMALL, dict(source.state_dict()))
    pointers = {name: x.data_ptr() for name, x in source.state_dict().items()}
    assert {name: x.data_ptr() for name, x in model.state_dict().items()} == pointers
    assert model.unembed.weight is model.embed.W_E
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_weights_that_are_missing_or_unknown_are_named() -> None:
    weights = dict(HookedGPT2(SMALL).state_dict())
    removed = weights.pop("blocks.1.mlp.W_in")
    with pytest.raises(RuntimeError, match=r"Missing key.*blocks.1.mlp.W_in"):
        HookedGPT2.from_weights(SMALL, weights)
    both = {"blocks.1.mlp.W_in": removed, "blocks.2.mlp.W_in": removed}
    with pytest.raises(RuntimeError, match=r"Unexpected key.*blocks.2.mlp.W_in"):
        HookedGPT2.from_weights(SMALL, weights | both)


def test_an_unembedding_bias_is_added_to_the_logits() -> None:
    weights = dict(HookedGPT2(SMALL).state_dict())
    plain = HookedGPT2.from_weights(SMALL, weights)
    assert torch.equal(plain.b_U, torch.zeros(50))
    bias = torch.arange(50.0)
    model = HookedGPT2.from_weights(SMALL, weights | {"unembed.b_U": bias})
    assert torch.equal(model.b_U, bias)
    assert_close(model(TOKENS), plain(TOKENS) + bias)
    again = HookedGPT2.from_weights(SMALL, dict(model.state_dict()))
    assert torch.equal(again(TOKENS), model(TOKENS))


def test_moves_keep_the_configuration_true_and_the_tie() -> None:
    model = HookedGPT2(SMALL)
    for dtype in (torch.float64, torch.bfloat16):
        assert model.to(dtype).cfg.dtype == dtype == model(TOKENS).dtype
        assert model.unembed.weight is model.embed.W_E
    assert HookedGPT2(replace(SMALL, dtype=torch.float64))(TOKENS).dtype == torch.float64
    assert model.to("meta").cfg.device.type == "meta"


def test_a_copy_is_independent() -> None:
    model = HookedGPT2(SMALL)
    expected = model(TOKENS)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.embed.W_E.zero_()
    assert torch.equal(model(TOKENS), expected)
    assert twin.unembed.weight is twin.embed.W_E


def test_the_same_run_twice_is_bit_equal_and_leaves_the_weights(random_gpt2: HookedGPT2) -> None:
    before = {name: x.clone() for name, x in random_gpt2.state_dict().items()}
    logits = random_gpt2(TOKENS)
    random_gpt2.run_with_cache(TOKENS, return_type="loss", incl_bwd=True)
    assert torch.equal(random_gpt2(TOKENS), logits)
    after = random_gpt2.state_dict()
    assert all(torch.equal(after[name], x) for name, x in before.items())


def test_outputs_are_what_the_return_type_says(random_gpt2: HookedGPT2) -> None:
    logits, loss = random_gpt2(TOKENS, return_type="both")
    assert torch.equal(logits, random_gpt2(TOKENS))
    assert torch.equal(loss, random_gpt2(TOKENS, return_type="loss"))
    assert random_gpt2(TOKENS, return_type=None) is None
    per_token = random_gpt2(TOKENS, return_type="loss", loss_per_token=True)
    expected = -logits.log_softmax(-1)[:, :-1].gather(2, TOKENS[:, 1:, None])[..., 0]
    assert_close(per_token, expected)
    assert_close(loss, expected.mean())


def test_a_loss_needs_the_whole_prompt(random_gpt2: HookedGPT2) -> None:
    _, cache = random_gpt2.run_with_cache(TOKENS)
    with pytest.raises(PromptError, match="at least two"):
        random_gpt2(TOKENS[:, :1], return_type="loss")
    for options in ({"positions": "last"}, {"start_at_layer": 1}):
        start = cache["resid_pre", 1] if "start_at_layer" in options else TOKENS
        with pytest.raises(PromptError, match="A loss needs the tokens and the logits"):
            random_gpt2(start, return_type="loss", **options)


def test_a_language_model_does_not_classify(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(PromptError, match="has no classifier head"):
        random_gpt2.classify(TOKENS)
