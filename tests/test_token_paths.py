import torch

from interp.model import formula, token_paths
from interp.model.token_paths import logit_directions, token_inputs
from tests.comparison import assert_close


def lone_tokens(model, tokens):
    """A cache of one-token prompts in which only W_E and the first MLP write to the stream."""

    def silence(value, hook):
        return torch.zeros_like(value)

    silent = ["hook_pos_embed", "blocks.*.hook_attn_out"]
    silent += [f"blocks.{layer}.hook_mlp_out" for layer in range(1, model.cfg.n_layers)]
    with model.hooks([(name, silence) for name in silent]):
        return model.run_with_cache(tokens[:, None])[1]


def test_a_head_reads_the_token_and_from_layer_one_on_the_first_mlp_as_well(our_model):
    tokens = torch.tensor([0, 5, 300, 17])
    cache = lone_tokens(our_model, tokens)
    for layer, block in enumerate(our_model.blocks):
        queries = token_inputs(our_model, layer, tokens) @ block.attn.W_QKV[:, 0].flatten(1)
        expected = cache["q", layer][:, 0] - block.attn.b_QKV[0]
        assert_close(queries, expected.flatten(1))


def test_many_tokens_are_read_in_parts_with_the_same_result(random_gpt2, monkeypatch):
    tokens = torch.arange(50)
    whole = token_inputs(random_gpt2, 1, tokens)
    monkeypatch.setattr(token_paths, "CHUNK", 7)
    assert_close(token_inputs(random_gpt2, 1, tokens), whole)


def test_directions_give_logits_times_the_scale_up_to_the_final_bias(our_model):
    stream = torch.randn(6, our_model.cfg.d_model, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([3, 200, 8])
    weighted = our_model.ln_final(stream) - our_model.ln_final.b
    logits = weighted @ our_model.W_U
    relative = (logits - logits.mean(dim=-1, keepdim=True))[:, tokens]
    scale = formula.layer_norm_scale(stream, our_model.cfg.eps)
    assert_close(stream @ logit_directions(our_model, tokens), relative * scale)
