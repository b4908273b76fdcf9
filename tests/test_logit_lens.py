"""The logit lens: what is read off the stream and off its parts, compared with plain arithmetic."""

import numpy as np
import pytest
import torch

import interp
from interp import logit_lens as lens
from interp.errors import PromptError
from interp.logit_attribution import decompose
from interp.metrics import logit_diff
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import fold_layer_norm

TOKENS = torch.arange(2, 18).reshape(2, 8)
TEXTS = ["I love the cat", "The color of that cat is black, I hope", "A"]


@pytest.fixture(scope="module", params=["raw", "folded"])
def model(request, random_gpt2):
    return random_gpt2 if request.param == "raw" else fold_layer_norm(random_gpt2)


def test_each_layer_is_read_as_if_it_were_the_last(model):
    ds = lens.logit_lens(model, TOKENS, [5, 6], n_top=3)
    _, cache = model.run_with_cache(TOKENS)
    streams, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert ds["layer"].values[[0, 1, 2, -1]].tolist() == ["L0 pre", "L0 mid", "L0 post", "L2 post"]
    assert len(labels) == ds.sizes["layer"]
    for index, stream in enumerate(streams):
        probs = model.unembed(model.ln_final(stream)).softmax(dim=-1)
        for example, answer in enumerate([5, 6]):
            for pos in (0, 4, 7):
                here = ds.isel(layer=index, pos=pos, example=example)
                order = probs[example, pos].argsort(descending=True).tolist()
                assert here.token_id.values.tolist() == order[:3]
                assert here.answer_rank == 1 + order.index(answer)
                expected = probs[example, pos]
                assert float(here.answer_prob) == pytest.approx(float(expected[answer]), rel=1e-4)
                assert here.prob.values == pytest.approx(expected[order[:3]].numpy(), rel=1e-4)


def test_the_distance_is_kl_from_the_final_prediction(random_gpt2):
    ds = lens.logit_lens(random_gpt2, TOKENS)
    _, cache = random_gpt2.run_with_cache(TOKENS)
    final = random_gpt2(TOKENS).log_softmax(dim=-1)
    mid = random_gpt2.unembed(random_gpt2.ln_final(cache["resid_mid", 1])).log_softmax(dim=-1)
    expected = torch.nn.functional.kl_div(mid, final, log_target=True, reduction="none").sum(-1)
    found = ds.kl.sel(layer="L1 mid").transpose("example", "pos").values
    assert found == pytest.approx(expected.numpy(), abs=1e-5)
    assert ds.kl.sel(layer="L2 post").values == pytest.approx(0, abs=1e-6)
    assert (ds.kl.isel(layer=slice(-1)) > 0.001).all()


def test_the_last_layer_is_the_models_own_prediction(random_gpt2):
    ds = lens.logit_lens(random_gpt2, TOKENS)
    best = random_gpt2(TOKENS).argmax(dim=-1)
    last = ds.isel(layer=-1)
    assert last.token_id.isel(rank=0).values.T.tolist() == best.tolist()
    assert (last.answer_rank == 1).all()
    assert last.token.isel(rank=0).values.tolist() == ds.answer.values.tolist()
    assert ds.answer.values[3, 1] == random_gpt2.tokenizer.piece(int(best[1, 3]))


def test_layers_are_selected_by_site_and_block(random_gpt2):
    ds = lens.logit_lens(random_gpt2, TOKENS)
    after = ds.sel(layer=ds.site == "resid_post")
    assert after["layer"].values.tolist() == ["L0 post", "L1 post", "L2 post"]
    assert after.block.values.tolist() == [0, 1, 2]


def test_components_sum_to_the_final_logits(model):
    ds = lens.component_lens(model, TOKENS, [5, 6])
    logits = model(TOKENS)
    centred = logits - logits.mean(dim=-1, keepdim=True)
    expected = torch.stack([centred[0, :, 5], centred[1, :, 6]], dim=1)
    assert ds.answer_logit.sum("component").values == pytest.approx(expected.numpy(), abs=1e-5)


def test_components_agree_with_direct_attribution(model):
    answers, wrong = [3, 30], [7, 9]
    both = [lens.component_lens(model, TOKENS, x, positions="last") for x in (answers, wrong)]
    difference = (both[0].answer_logit - both[1].answer_logit).isel(pos=0)
    parts = decompose(model, TOKENS, logit_diff(answers, wrong)).sum("pos")
    for block in range(3):
        for site, kinds in (("attn_out", ("head", "attn_bias")), ("mlp_out", ("mlp", "mlp_bias"))):
            mine = parts.sel(component=(parts["layer"] == block) & parts.kind.isin(kinds))
            found = difference.sel(component=f"L{block} {site}").values
            assert found == pytest.approx(mine.sum("component").values, abs=1e-5)
    biases = parts.sel(component=["final LayerNorm bias", "unembedding bias"]).sum("component")
    assert difference.sel(component="final bias").values == pytest.approx(biases.values, abs=1e-5)


def test_a_component_that_writes_a_token_promotes_it(random_gpt2):
    def write(mlp_out, hook):
        mlp_out[:, 4] = 100 * random_gpt2.W_U[:, 77] / random_gpt2.ln_final.w

    with random_gpt2.hooks([("blocks.1.hook_mlp_out", write)]):
        ds = lens.component_lens(random_gpt2, TOKENS, 77)
    assert (ds.answer_rank.sel(component="L1 mlp_out", pos=4) == 1).all()
    assert (ds.token_id.sel(component="L1 mlp_out", pos=4, rank=1) == 77).all()
    assert (ds.answer_rank.sel(component="L1 mlp_out", pos=3) > 1).all()


def test_a_component_that_writes_a_token_suppresses_its_opposite(random_gpt2):
    ds = lens.component_lens(random_gpt2, TOKENS, [5, 6], n_top=340)
    assert (ds["lowest_token_id"].values == ds["token_id"].values[..., ::-1]).all()
    assert (ds["lowest_logit"].values == ds["logit"].values[..., ::-1]).all()
    piece = random_gpt2.tokenizer.piece(int(ds["lowest_token_id"][2, 3, 1, 0]))
    assert ds["lowest_token"].values[2, 3, 1, 0] == piece


@pytest.mark.parametrize("show", [lens.logit_lens, lens.component_lens])
def test_prompts_of_any_length_answer_for_themselves(random_gpt2, show):
    together = show(random_gpt2, TEXTS, [3, 4, 5])
    for example, text in enumerate(TEXTS):
        alone = show(random_gpt2, text, [3, 4, 5][example]).isel(example=0)
        found, n_tokens = together.isel(example=example), alone.sizes["pos"]
        beyond = found.isel(pos=slice(n_tokens, None))
        for name, values in alone.data_vars.items():
            mine = found[name].isel(pos=slice(n_tokens)).values
            if values.dtype.kind == "f":
                assert mine == pytest.approx(values.values, rel=1e-3, abs=1e-5), name
                assert beyond[name].isnull().all()
            else:
                assert mine.tolist() == values.values.tolist(), name
                assert (beyond[name] == (-1 if name.endswith("_id") else "")).all()
        assert (beyond.prompt_token == "").all()


def test_some_positions_can_be_shown(random_gpt2):
    every = lens.logit_lens(random_gpt2, TEXTS)
    last = lens.logit_lens(random_gpt2, TEXTS, positions="last")
    assert last.pos.values.tolist() == ["last"]
    for example, text in enumerate(TEXTS):
        position = len(random_gpt2.to_tokens(text)[0]) - 1
        expected = every.kl.isel(pos=position, example=example).values
        assert last.kl.isel(pos=0, example=example).values == pytest.approx(expected, abs=1e-5)
        shown = random_gpt2.to_str_tokens(text)[-1]
        assert last.prompt_token.values[example].tolist() == [shown]
    some = lens.logit_lens(random_gpt2, TEXTS, positions=[3, 1])
    assert some.pos.values.tolist() == [3, 1]
    expected = every.kl.sel(pos=[3, 1]).values
    assert some.kl.values == pytest.approx(expected, abs=1e-5, nan_ok=True)


@pytest.mark.parametrize("show", [lens.logit_lens, lens.component_lens])
def test_few_logits_are_held_at_once(random_gpt2, show, monkeypatch):
    whole = show(random_gpt2, TOKENS)
    monkeypatch.setattr(lens, "LOGITS_AT_ONCE", 3 * 340)
    largest = 0

    def watched(x, weight, bias=None):
        nonlocal largest
        result = torch.nn.functional.linear(x, weight, bias)
        largest = max(largest, result.numel())
        return result

    monkeypatch.setattr(lens, "linear", watched)
    parts = show(random_gpt2, TOKENS)
    assert largest == 3 * 340
    assert parts.token_id.equals(whole.token_id)
    assert parts.answer_rank.equals(whole.answer_rank)


@pytest.mark.parametrize("show", [lens.logit_lens, lens.component_lens])
def test_views_of_few_rows_are_read_together(random_gpt2, show, monkeypatch):
    expected = show(random_gpt2, TOKENS, [5, 6], positions="last")
    n_reads = 0

    def counted(x, weight, bias=None):
        nonlocal n_reads
        n_reads += 1
        return torch.nn.functional.linear(x, weight, bias)

    monkeypatch.setattr(lens, "linear", counted)
    show(random_gpt2, TOKENS, [5, 6], positions="last")
    assert n_reads <= 3  # of 7 depths, of 9 components
    monkeypatch.setattr(lens, "LOGITS_AT_ONCE", 2 * 340)
    alone = show(random_gpt2, TOKENS, [5, 6], positions="last")
    for name in expected.data_vars:
        if expected[name].dtype.kind == "f":
            assert alone[name].values == pytest.approx(expected[name].values, abs=1e-5)


def test_tokens_that_no_tokenizer_knows_are_shown_as_ids(random_gpt2):
    bare = HookedGPT2.from_weights(random_gpt2.cfg, random_gpt2.state_dict())
    ds = lens.logit_lens(bare, TOKENS, 77, positions=[0])
    assert (ds.answer == "<77>").all()
    assert ds.prompt_token.values.tolist() == [["2"], ["10"]]


def test_a_classifiers_classes_are_shown_as_numbers(tokenizer):
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_mlp": 8, "d_vocab": 340, "n_ctx": 16}
    classifier = HookedGPT2(ModelConfig(**sizes, n_classes=2), tokenizer)
    ds = lens.logit_lens(classifier, TOKENS, 1, n_top=2, positions="last")
    assert set(ds.token.values.flatten()) == {"<0>", "<1>"}
    assert (ds.answer == "<1>").all()


def test_results_say_where_they_come_from(random_gpt2):
    for show in (lens.logit_lens, lens.component_lens):
        ds = show(random_gpt2, TOKENS, n_top=2)
        assert ds.attrs["model_hash"] == interp.model_hash(random_gpt2)
        assert ds["rank"].values.tolist() == [1, 2]
        assert np.isfinite(ds.answer_rank.values).all()


def test_the_embedded_model_decides_late():
    model = interp.load()
    text = "I love the color black, I hope someday to have a cat like that. The cat is"
    ds = lens.logit_lens(model, text, model.to_single_token(" black"), positions="last")
    ranks = ds.answer_rank.isel(pos=0, example=0)
    assert ranks[-1] == 1
    assert ranks[0] > 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"answers": [1, 2, 3]}, "3 answers for 2 examples"),
        ({"answers": 340}, "Answer 340 is outside the vocabulary 0-339"),
        ({"answers": -1}, "answers must be token ids"),
        ({"n_top": 0}, "n_top must be 1 to 340, got 0"),
        ({"n_top": 341}, "n_top must be 1 to 340, got 341"),
        ({"positions": [8]}, "Position 8 is outside the prompt of 8"),
        ({"positions": []}, "positions is empty"),
    ],
)
@pytest.mark.parametrize("show", [lens.logit_lens, lens.component_lens])
def test_what_cannot_be_shown_is_refused(random_gpt2, show, arguments, message):
    with pytest.raises(PromptError, match=message):
        show(random_gpt2, TOKENS, **arguments)
