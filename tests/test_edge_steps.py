"""One score changed, and one value read, against plain arithmetic and hooked runs."""

import numpy as np
import pytest
import torch

from interp import logit_lens
from interp.edge_steps import rescored, written
from interp.errors import PromptError
from interp.metrics import logit_diff
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.predictions import token_name

TOKENS = torch.tensor([[3, 7, 5, 2, 8, 11]])
METRIC = logit_diff(3, 5)
EDGE = (1, 2, 4, 3)


@pytest.fixture(scope="module")
def classifier():
    sizes = {"n_layers": 2, "n_heads": 4, "d_model": 24, "d_mlp": 32, "n_ctx": 16, "d_vocab": 40}
    return HookedGPT2(ModelConfig(**sizes, n_classes=3))


def test_the_row_after_a_changed_score_is_its_softmax(random_gpt2):
    ds = rescored(random_gpt2, TOKENS, EDGE, 1.5, METRIC)
    _, cache = random_gpt2.run_with_cache(TOKENS)
    scores = cache["blocks.1.attn.hook_attn_scores"][0, 2, 4].clone()
    before = cache["pattern", 1][0, 2, 4]
    scores[3] += 1.5
    assert ds["score"].values[:5] == pytest.approx(scores[:5].numpy(), abs=1e-6)
    assert np.isneginf(ds["score"].values[5])
    assert ds["weight"].values == pytest.approx(scores.softmax(dim=-1).numpy(), abs=1e-6)
    assert ds["original_weight"].values == pytest.approx(before.numpy(), abs=1e-6)
    assert float(ds.largest) == pytest.approx(float(scores.max()))
    exponential = (scores - scores.max()).exp()
    assert ds["exponential"].values == pytest.approx(exponential.numpy(), abs=1e-6)
    assert float(ds.total) == pytest.approx(float(exponential.sum()), rel=1e-5)


def test_the_output_is_that_of_a_run_with_the_changed_row(random_gpt2):
    ds = rescored(random_gpt2, TOKENS, EDGE, 1.5, METRIC)
    after = torch.tensor(ds["weight"].values)

    def replace(pattern, hook):
        pattern[0, 2, 4] = after

    run = random_gpt2.run_with_hooks(TOKENS, [("blocks.1.attn.hook_pattern", replace)])
    assert float(ds.changed) == pytest.approx(float(METRIC(run)), abs=1e-5)
    assert float(ds.original) == pytest.approx(float(METRIC(random_gpt2(TOKENS))), abs=1e-5)
    assert float(ds.effect) == pytest.approx(float(ds.changed - ds.original), abs=1e-6)
    assert abs(float(ds.effect)) > 1e-3


def test_no_change_has_no_effect(random_gpt2):
    ds = rescored(random_gpt2, TOKENS, EDGE, 0.0, METRIC)
    assert float(ds.effect) == pytest.approx(0, abs=1e-5)
    assert ds["weight"].values == pytest.approx(ds["original_weight"].values, abs=1e-6)


def test_what_a_head_writes_is_read_with_the_final_layer_norm_frozen(random_gpt2):
    ds = written(random_gpt2, TOKENS, EDGE, n_top=4)
    _, cache = random_gpt2.run_with_cache(TOKENS)
    pattern, v = cache["pattern", 1][0, 2, 4], cache["v", 1][0, :, 2]
    scale = cache["ln_final.hook_scale"][0, 4]
    outputs = {"this key": pattern[3] * v[3], "all keys": cache["z", 1][0, 4, 2]}
    assert float((pattern @ v - outputs["all keys"]).abs().max()) < 1e-5
    for source, z in outputs.items():
        output = z @ random_gpt2.W_O[1, 2]
        logits = (output - output.mean()) / scale * random_gpt2.ln_final.w @ random_gpt2.W_U
        logits -= logits.mean()
        here = ds.sel(source=source)
        for name, top in (("promoted", logits.topk(4)), ("suppressed", (-logits).topk(4))):
            names = [token_name(random_gpt2, i) for i in top.indices.tolist()]
            assert here[name].values.tolist() == names
            own = here[f"{name}_logit"].values
            assert abs(own) == pytest.approx(abs(top.values.numpy()), abs=1e-5)
        assert float(here.promoted_logit[0]) > 0 > float(here.suppressed_logit[0])


def test_heads_and_biases_make_up_what_attention_writes(random_gpt2):
    """Of one token, at both ends of the reading: the same lens as that of sublayers."""
    n = random_gpt2.cfg.d_vocab
    total: dict[str, float] = {}
    for head in range(4):
        ds = written(random_gpt2, TOKENS, (1, head, 4, 3), n_top=n).sel(source="all keys")
        for token, logit in zip(ds["promoted"].values, ds["promoted_logit"].values, strict=True):
            total[token] = total.get(token, 0) + float(logit)
    lens = logit_lens.component_lens(random_gpt2, TOKENS, n_top=n, positions=[4])
    own = lens.sel(component="L1 attn_out").isel(pos=0, example=0)
    bias = random_gpt2.blocks[1].attn.b_O
    _, cache = random_gpt2.run_with_cache(TOKENS, names_filter="ln_final.hook_scale")
    scale = cache["ln_final.hook_scale"][0, 4]
    constant = (bias - bias.mean()) / scale * random_gpt2.ln_final.w @ random_gpt2.W_U
    constant = constant - constant.mean()
    for index in (0, 5, n - 1):
        token_id = int(own.token_id[index])
        expected = float(own.logit[index]) - float(constant[token_id])
        assert total[token_name(random_gpt2, token_id)] == pytest.approx(expected, abs=1e-4)


def test_classes_of_a_classifier_and_ids_without_tokenizer_are_named(random_gpt2, classifier):
    ds = written(classifier, TOKENS, EDGE)
    assert set(ds["promoted"].values.flat) <= {"class 0", "class 1", "class 2"}
    assert ds.sizes["rank"] == 3
    assert rescored(classifier, TOKENS, EDGE, 1.0, logit_diff(0, 1)).token.values[0] == "3"
    bare = HookedGPT2(random_gpt2.cfg)
    assert written(bare, TOKENS, EDGE)["promoted"].values[0, 0].startswith("<")


@pytest.mark.parametrize("ask", ["rescored", "written"])
def test_edges_that_are_not_there_are_refused(random_gpt2, ask):
    def call(tokens, edge):
        if ask == "written":
            return written(random_gpt2, tokens, edge)
        return rescored(random_gpt2, tokens, edge, 1.0, METRIC)

    with pytest.raises(PromptError, match="one prompt, got 2"):
        call(TOKENS.repeat(2, 1), EDGE)
    with pytest.raises(PromptError, match="never looks ahead"):
        call(TOKENS, (1, 2, 3, 4))
    with pytest.raises(PromptError, match="query position 6 is outside 0-5"):
        call(TOKENS, (1, 2, 6, 4))


def test_one_token_is_a_row_of_one(random_gpt2):
    ds = rescored(random_gpt2, TOKENS[:, :1], (0, 0, 0, 0), 3.0, METRIC)
    assert ds["weight"].values.tolist() == [1.0]
    assert float(ds.effect) == 0
