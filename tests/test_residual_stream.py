"""Lengths and directions of the residual stream, compared with plain arithmetic."""

import numpy as np
import pytest
import torch

from interp import residual_stream
from interp.errors import PromptError
from interp.logit_lens import logit_lens
from interp.metrics import logit_diff, prob
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import fold_layer_norm

TOKENS = torch.arange(2, 18).reshape(2, 8)
METRIC = logit_diff([3, 30], [7, 9])


@pytest.fixture(scope="module", params=["raw", "folded"])
def model(request, random_gpt2):
    return random_gpt2 if request.param == "raw" else fold_layer_norm(random_gpt2)


def streams_of(model):
    """Every depth's stream, `layer example pos d_model`."""
    _, cache = model.run_with_cache(TOKENS)
    return cache.accumulated_resid(incl_mid=True)


def test_lengths_are_of_the_stream_and_of_what_was_added(model):
    ds = residual_stream.geometry(model, TOKENS, METRIC)
    streams = streams_of(model)
    assert ds["layer"].values.tolist() == logit_lens(model, TOKENS)["layer"].values.tolist()
    norms = ds["norm"].transpose("layer", "example", "pos").values
    assert norms == pytest.approx(streams.norm(dim=-1).numpy(), rel=1e-5)
    _, cache = model.run_with_cache(TOKENS)
    for layer, hook in {"L0 mid": ("attn_out", 0), "L2 post": ("mlp_out", 2)}.items():
        expected = cache[hook].norm(dim=-1).numpy()
        found = ds["written"].sel(layer=layer).transpose("example", "pos").values
        assert found == pytest.approx(expected, rel=1e-4)
    assert ds["written"][0].values == pytest.approx(ds["norm"][0].values)


def test_the_lens_reads_the_metric_of_each_depths_logits(model):
    ds = residual_stream.geometry(model, TOKENS, METRIC)
    logits = torch.stack([model.unembed(model.ln_final(stream)) for stream in streams_of(model)])
    for example, (answer, wrong) in enumerate(METRIC.vocab_ids.tolist()):
        expected = logits[:, example, :, answer] - logits[:, example, :, wrong]
        assert ds["lens"].sel(example=example).values == pytest.approx(
            expected.numpy(), abs=1e-5, rel=1e-4
        )
    final = METRIC(model(TOKENS)).numpy()
    assert ds["lens"].isel(layer=-1, pos=-1).values == pytest.approx(final, abs=1e-5)


def test_the_cosine_is_with_what_the_metric_reads(random_gpt2):
    ds = residual_stream.geometry(random_gpt2, TOKENS, METRIC, positions=[2])
    read = random_gpt2.ln_final.w * (random_gpt2.W_U[:, 30] - random_gpt2.W_U[:, 9])
    stream = streams_of(random_gpt2)[3, 1, 2]
    expected = np.corrcoef(stream.numpy(), read.numpy())[0, 1]
    assert float(ds["cosine"].isel(layer=3, pos=0, example=1)) == pytest.approx(expected, abs=1e-5)


def test_depths_are_compared_as_a_layer_norm_sees_them(random_gpt2):
    da = residual_stream.similarity(random_gpt2, TOKENS, positions=[1, 4])
    expected = np.corrcoef(streams_of(random_gpt2)[:, 1, 4].numpy())
    found = da.sel(pos=4, example=1).transpose("layer", "other_layer").values
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.diagonal(found) == pytest.approx(1, abs=1e-6)


def test_prompts_of_any_length_answer_for_themselves(random_gpt2):
    texts = ["I love the cat", "A"]
    ds = residual_stream.geometry(random_gpt2, texts, METRIC)
    da = residual_stream.similarity(random_gpt2, texts)
    for example, text in enumerate(texts):
        n = random_gpt2.to_tokens(text).shape[1]
        own = logit_diff(*METRIC.vocab_ids[example].tolist())
        alone = residual_stream.geometry(random_gpt2, text, own).isel(example=0)
        for name in alone.data_vars:
            here = ds[name].sel(example=example).values
            assert here[:, :n] == pytest.approx(alone[name].values, abs=1e-4)
            assert np.isnan(here[:, n:]).all()
        last = residual_stream.similarity(random_gpt2, text).isel(example=0).values
        assert da.sel(example=example).values == pytest.approx(last, abs=1e-4)


def test_a_classifier_has_directions_too(tokenizer):
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_mlp": 8, "d_vocab": 340, "n_ctx": 16}
    classifier = HookedGPT2(ModelConfig(**sizes, n_classes=2), tokenizer)
    ds = residual_stream.geometry(classifier, TOKENS, logit_diff(1, 0), positions="last")
    logits = classifier(TOKENS)[:, -1]
    expected = (logits[:, 1] - logits[:, 0]).detach().numpy()
    assert ds["lens"].isel(layer=-1, pos=0).values == pytest.approx(expected, abs=1e-5)


def test_results_say_what_they_are(random_gpt2):
    ds = residual_stream.geometry(random_gpt2, TOKENS, METRIC)
    assert ds.attrs["unit"] == "logits"
    assert ds.attrs["metric"] == METRIC.name
    assert ds.attrs["model_hash"] == residual_stream.similarity(random_gpt2, TOKENS).model_hash
    assert ds["prompt_token"].values[1, 0] == random_gpt2.tokenizer.piece(10)


def test_a_metric_without_a_direction_is_refused(random_gpt2):
    with pytest.raises(PromptError, match="weighted sum of logits"):
        residual_stream.geometry(random_gpt2, TOKENS, prob(3))
    with pytest.raises(PromptError, match="outside the prompt"):
        residual_stream.similarity(random_gpt2, TOKENS, positions=[8])
