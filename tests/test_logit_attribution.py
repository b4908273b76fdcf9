"""Direct logit attribution: its parts are the right ones, and they add up."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from interp import metrics
from interp.errors import HookError, PromptError, UnknownHookError
from interp.logit_attribution import both_ends, by_part, decompose, neurons
from interp.metrics import logit, logit_diff
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import TokenBatch
from interp.model.weights import fold_layer_norm
from tests.comparison import FLOAT32, assert_close
from tests.conftest import CONFIGURATIONS

TOKENS = torch.arange(2, 18).reshape(2, 8)
METRIC = logit_diff([3, 30], [7, 9])


def by_kind(da, kind):
    """Contributions of a kind of component, all positions together: `component example`."""
    return torch.from_numpy(da.sel(component=da.kind == kind).sum("pos").values).float()


def naive(model, vectors):
    """Vectors of the last position through the final LayerNorm with its scale frozen, to METRIC."""
    _, cache = model.run_with_cache(TOKENS)
    scale = cache["ln_final.hook_scale"][:, -1]
    x = (vectors - vectors.mean(dim=-1, keepdim=True)) / scale * model.ln_final.w
    answers, wrong = METRIC.vocab_ids.T
    return (x * (model.W_U.T[answers] - model.W_U.T[wrong])).sum(dim=-1)


def test_by_hand():
    cfg = ModelConfig(
        n_layers=1, n_heads=1, d_model=4, d_mlp=1, d_vocab=3, n_ctx=4, eps=1e-9,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = HookedGPT2(cfg).requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.embed.W_E[0] = torch.tensor([3.0, 1, 1, 1])
    model.pos_embed.W_pos[0] = torch.tensor([-1.0, 1, 1, 1])
    model.blocks[0].mlp.b_out[0] = 2.0
    model.ln_final.w[0], model.ln_final.b[0] = 2.0, 5.0
    model.unembed.weight[1, 0] = 1.0
    # The stream is (4, 2, 2, 2), its scale √0.75, and token 1 reads 2 x the first coordinate + 5.
    da = decompose(model, [0], logit(1)).sum("pos").isel(example=0)
    for name, centred in {"embed": 1.5, "pos_embed": -1.5, "L0 MLP bias": 1.5}.items():
        assert float(da.sel(component=name)) == pytest.approx(2 * centred / 0.75**0.5)
    assert float(da.sel(component="final LayerNorm bias")) == 5.0
    assert float(da.sum()) == pytest.approx(2 * 1.5 / 0.75**0.5 + 5)


def test_parts_sum_to_the_metric_and_the_residue_is_rounding(our_model):
    expected = METRIC(our_model(TOKENS))
    da = decompose(our_model, TOKENS, METRIC)
    assert_close(torch.from_numpy(da.sum(["component", "pos"]).values).float(), expected)
    assert float(abs(da.sel(component="residue")).max()) < FLOAT32 * float(abs(da).max())


def test_every_part_is_what_its_vector_writes(our_model):
    _, cache = our_model.run_with_cache(
        TOKENS,
        names_filter=["*embed", "*mlp_out", "blocks.*.attn.hook_result", "*attn_out"],
    )
    da = decompose(our_model, TOKENS, METRIC)
    layers = range(our_model.cfg.n_layers)
    heads = torch.stack([cache["result", layer][:, -1] for layer in layers])
    heads = heads.permute(0, 2, 1, 3).flatten(0, 1)  # (layer head) example d_model
    assert_close(by_kind(da, "head"), naive(our_model, heads))
    b_O, b_out = (b[:, None].expand(-1, 2, -1) for b in (our_model.b_O, our_model.b_out))
    assert_close(by_kind(da, "attn_bias"), naive(our_model, b_O))
    assert_close(by_kind(da, "mlp_bias"), naive(our_model, b_out))
    mlps = torch.stack([cache["mlp_out", layer][:, -1] for layer in layers]) - b_out
    assert_close(by_kind(da, "mlp"), naive(our_model, mlps))
    for name in ("embed", "pos_embed"):
        assert_close(by_kind(da, name), naive(our_model, cache[f"hook_{name}"][None, :, -1]))


@pytest.mark.parametrize("configuration", [n for n in CONFIGURATIONS if n != "unscaled"])
def test_transformer_lens_agrees(configuration, huggingface_models, make_bridge):
    # It leaves out the final LayerNorm's weight unless that was folded, so this one has none.
    ours = HookedGPT2.from_huggingface(huggingface_models(configuration))
    bridge = make_bridge(configuration)
    with torch.no_grad():
        ours.ln_final.w.fill_(1)
        bridge.ln_final.weight.fill_(1)
        _, cache = bridge.run_with_cache(TOKENS)
        answers, wrong = METRIC.vocab_ids.T
        heads = cache.logit_attrs(cache.stack_head_results(), answers, wrong)[..., -1]
        parts = cache.logit_attrs(cache.decompose_resid(), answers, wrong)[..., -1]
    da = decompose(ours, TOKENS, METRIC)
    assert_close(by_kind(da, "head"), heads)
    assert_close(torch.cat([by_kind(da, "embed"), by_kind(da, "pos_embed")]), parts[:2])
    of_heads = by_kind(da, "head").reshape(ours.cfg.n_layers, -1, 2).sum(dim=1)
    assert_close(of_heads + by_kind(da, "attn_bias"), parts[2::2])
    assert_close(by_kind(da, "mlp") + by_kind(da, "mlp_bias"), parts[3::2])


def test_a_head_is_split_by_the_positions_whose_values_it_moved(random_gpt2):
    _, cache = random_gpt2.run_with_cache(TOKENS)
    moved = torch.einsum(
        "bk,bkd,dm->kbm", cache["pattern", 1][:, 2, -1], cache["v", 1][:, :, 2],
        random_gpt2.W_O[1, 2],
    )  # fmt: skip
    found = decompose(random_gpt2, TOKENS, METRIC).sel(component="L1H2")
    assert_close(torch.from_numpy(found.values).float(), naive(random_gpt2, moved))


def test_a_head_that_looks_at_one_position_has_its_part_there(random_gpt2):
    def look_at_3(pattern, hook):
        pattern[:, 2] = 0
        pattern[:, 2, :, 3] = 1

    with random_gpt2.hooks([("blocks.1.attn.hook_pattern", look_at_3)]):
        part = decompose(random_gpt2, TOKENS, METRIC).sel(component="L1H2")
    assert np.abs(part.sel(pos=3)).min() > 0.001
    assert part.drop_sel(pos=3).values == pytest.approx(0, abs=1e-6)


def test_an_ablated_head_adds_nothing(random_gpt2):
    with random_gpt2.hooks(interp.ablation.zero_heads([(1, 2)])):
        expected = METRIC(random_gpt2(TOKENS))
        da = decompose(random_gpt2, TOKENS, METRIC)
    assert da.sel(component="L1H2").sum("pos").values == pytest.approx(0, abs=1e-6)
    assert float(abs(da.sel(component="residue")).max()) < 1e-5
    assert da.sum(["component", "pos"]).values == pytest.approx(expected.numpy(), abs=1e-5)


def test_what_a_hook_writes_into_the_stream_is_residue(random_gpt2):
    push = torch.randn(24, generator=torch.Generator().manual_seed(0))

    def write(attn_out, hook):
        attn_out += push

    with random_gpt2.hooks([("blocks.2.hook_attn_out", write)]):
        da = decompose(random_gpt2, TOKENS, METRIC).sum("pos")
        expected = naive(random_gpt2, push.expand(2, -1))
    assert da.sel(component="residue").values == pytest.approx(expected.numpy(), abs=1e-5)


def test_prompts_of_any_length_answer_for_themselves(random_gpt2):
    texts = ["I love the cat", "The color of that cat is", "A"]
    metric = logit_diff([3, 30, 5], [7, 9, 11])
    together = decompose(random_gpt2, texts, metric)
    assert together.read.values.tolist() == [len(random_gpt2.to_tokens(t)[0]) - 1 for t in texts]
    for example, text in enumerate(texts):
        alone = decompose(random_gpt2, text, metric.of_examples(torch.tensor([example])))
        n_positions = alone.sizes["pos"]
        found = together.isel(example=[example])
        assert found.isel(pos=slice(n_positions)).values == pytest.approx(alone.values, abs=1e-5)
        assert (found.isel(pos=slice(n_positions, None)) == 0).all()
        assert together.token.values[example, n_positions:].tolist() == [""] * (
            together.sizes["pos"] - n_positions
        )


def test_padding_may_come_first(random_gpt2):
    padded = TokenBatch(torch.tensor([[0, 0, 4, 5, 6]]), torch.tensor([[False] * 2 + [True] * 3]))
    alone = decompose(random_gpt2, torch.tensor([[4, 5, 6]]), logit(3))
    found = decompose(random_gpt2, padded, logit(3))
    assert found.isel(pos=slice(2, None)).values == pytest.approx(alone.values, abs=1e-5)
    assert found.isel(pos=slice(2)).values == pytest.approx(0)


@pytest.mark.parametrize(("positions", "expected"), [(3, [3, 3]), (-2, [6, 6]), ([1, 4], [1, 4])])
def test_the_metric_may_read_elsewhere(random_gpt2, positions, expected):
    metric = logit_diff([3, 30], [7, 9], positions=positions)
    da = decompose(random_gpt2, TOKENS, metric)
    assert da.read.values.tolist() == expected
    sums = da.sum(["component", "pos"]).values
    assert sums == pytest.approx(metric(random_gpt2(TOKENS)).numpy(), abs=1e-5)
    assert (da.where(da.pos > da.read, 0) == 0).all()


def test_one_answer_and_one_position_serve_all(random_gpt2):
    one = decompose(random_gpt2, TOKENS, logit(3, positions=[5]))
    each = decompose(random_gpt2, TOKENS, logit([3, 3], positions=5))
    assert one.values == pytest.approx(each.values)


def test_folding_the_layer_norms_moves_only_biases(random_gpt2):
    raw, folded = (
        decompose(model, TOKENS, METRIC) for model in (random_gpt2, fold_layer_norm(random_gpt2))
    )
    for kind in ("embed", "pos_embed", "head", "attn_bias", "mlp", "mlp_bias"):
        assert_close(by_kind(folded, kind), by_kind(raw, kind), 1e-4)
    assert by_kind(raw, "unembed_bias").abs().max() == 0
    assert by_kind(folded, "final_bias").abs().max() == 0
    assert_close(by_kind(folded, "unembed_bias"), by_kind(raw, "final_bias"))


@pytest.mark.parametrize("function", [decompose, neurons])
def test_a_run_at_hand_is_not_repeated(random_gpt2, function):
    expected = function(random_gpt2, TOKENS, METRIC)
    _, cache = random_gpt2.run_with_cache(TOKENS)
    with (
        pytest.raises(HookError, match="never ran"),
        random_gpt2.hooks([("hook_embed", lambda value, hook: None)]),
    ):
        found = function(random_gpt2, TOKENS, METRIC, cache=cache)
    assert found.values == pytest.approx(expected.values, abs=1e-6)


def test_neurons_sum_to_their_mlp(our_model):
    _, cache = our_model.run_with_cache(TOKENS)
    found = neurons(our_model, TOKENS, METRIC)
    mlps = by_kind(decompose(our_model, TOKENS, METRIC), "mlp")
    assert_close(torch.from_numpy(found.sum("neuron").values), mlps, 1e-4)
    last = our_model.cfg.n_layers - 1
    written = cache["post", last][:, -1, 5, None] * our_model.W_out[last, 5]
    assert_close(torch.from_numpy(found.values)[last, 5], naive(our_model, written))


def test_neurons_carry_their_activations(random_gpt2):
    _, cache = random_gpt2.run_with_cache(TOKENS)
    found = neurons(random_gpt2, TOKENS, METRIC)
    for layer in range(3):
        expected = cache["post", layer][:, -1].T.numpy()
        assert found.activation.sel(layer=layer).values == pytest.approx(expected, abs=1e-6)
    assert found.neuron.values.tolist() == list(range(random_gpt2.cfg.d_mlp))


def test_parts_are_sums_of_components_in_the_models_order(random_gpt2):
    da = decompose(random_gpt2, TOKENS, METRIC)
    parts = by_part(da)
    assert parts.part.values.tolist() == [
        "embed", "pos_embed", "L0 heads", "L0 MLP", "L1 heads", "L1 MLP", "L2 heads", "L2 MLP",
        "attention biases", "MLP biases", "final LayerNorm bias", "unembedding bias", "residue",
    ]  # fmt: skip
    heads = da.sel(component=[f"L1H{head}" for head in range(4)]).sum("component")
    assert parts.sel(part="L1 heads").values == pytest.approx(heads.values)
    biases = da.sel(component=[f"L{layer} MLP bias" for layer in range(3)]).sum("component")
    assert parts.sel(part="MLP biases").values == pytest.approx(biases.values)
    assert parts.sum("part").values == pytest.approx(da.sum("component").values)
    assert parts.attrs == da.attrs
    assert by_part(da.sum("pos", keep_attrs=True)).dims == ("part", "example")


def test_both_ends_are_the_largest_and_the_smallest():
    numbers = pd.Series([3.0, -5.0, 0.5, 7.0, -1.0], index=list("abcde"))
    assert list(both_ends(numbers, 1).index) == ["d", "b"]
    assert list(both_ends(numbers, 2).index) == ["d", "a", "e", "b"]
    assert list(both_ends(numbers, 4).index) == ["d", "a", "c", "e", "b"]


def test_bfloat16_adds_up_too(random_gpt2):
    model = HookedGPT2.from_weights(random_gpt2.cfg, random_gpt2.state_dict()).to(torch.bfloat16)
    da = decompose(model, TOKENS, METRIC)
    expected = METRIC(model(TOKENS)).numpy()
    assert da.sum(["component", "pos"]).values == pytest.approx(expected, abs=0.1)
    assert float(abs(da.sel(component="residue")).max()) < 0.1


def test_the_embedded_models_answer_is_explained():
    model = interp.load()
    black, white = (model.to_single_token(word) for word in (" black", " white"))
    text = "I love the color black, I hope someday to have a cat like that. The cat is"
    da = decompose(model, text, logit_diff(black, white))
    moved = da.sel(component=da.kind == "head").isel(example=0).sum("component")
    assert moved.token.values[int(moved.argmax("pos"))] in (" black", " cat")


def test_results_say_what_they_are(random_gpt2):
    da = decompose(random_gpt2, TOKENS, METRIC)
    assert da.dims == ("component", "pos", "example")
    assert da.attrs["metric"] == "logit_diff"
    assert da.attrs["unit"] == "logits"
    assert da.attrs["model_hash"] == interp.model_hash(random_gpt2)
    assert len(set(da.component.values)) == da.sizes["component"]
    head = da.sel(component=(da.layer == 2) & (da["head"] == 3))
    assert head.component.values.tolist() == ["L2H3"]
    assert da.sel(component=da.layer == 0).component.values[-2:].tolist() == [
        "L0 MLP", "L0 MLP bias",
    ]  # fmt: skip


REFERENCE = torch.zeros(2, 340)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (metrics.prob([3, 4]), "prob is none. Use metrics.logit_diff"),
        (metrics.logprob([3, 4]), "logprob is none"),
        (metrics.kl_divergence(REFERENCE), "kl_divergence is none"),
        (replace(logit(3), positions=None), "reads one position of each prompt; logit reads 8"),
        (replace(logit(3), positions=torch.tensor([[1, 2]])), "logit reads 2"),
        (logit([3, 4, 5]), "answers for 3 examples, not 2"),
        (logit(340), "must be 0-339, got"),
        (logit(3, positions=8), "Position 8 is outside the prompt of 8"),
        (logit(3, positions=[1, 2, 3]), "one row per example"),
    ],
)
def test_a_metric_that_cannot_be_split_is_refused(random_gpt2, metric, message):
    for function in (decompose, neurons):
        with pytest.raises(PromptError, match=message):
            function(random_gpt2, TOKENS, metric)


def test_a_cache_of_something_else_is_refused(random_gpt2):
    _, cache = random_gpt2.run_with_cache(TOKENS + 1)
    with pytest.raises(PromptError, match="not of these tokens"):
        decompose(random_gpt2, TOKENS, METRIC, cache=cache)
    _, alone = random_gpt2.run_with_cache(TOKENS[:1], remove_batch_dim=True)
    with pytest.raises(PromptError, match="not of these tokens"):
        decompose(random_gpt2, TOKENS[:1], logit(3), cache=alone)
    _, partial = random_gpt2.run_with_cache(TOKENS, names_filter="hook_embed")
    with pytest.raises(UnknownHookError, match="Ask for it in names_filter"):
        decompose(random_gpt2, TOKENS, METRIC, cache=partial)
