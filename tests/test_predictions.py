"""Next tokens as is, under an intervention, and before and after, against the logits themselves."""

import pytest
import torch

import interp
from interp import ablation, attention_edges
from interp.errors import HookError, PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.predictions import before_and_after, predictions, token_name

TEXT = "I love the color black, I hope someday to have a cat like that. The cat is"
SIZES = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_mlp": 8, "n_ctx": 32, "d_vocab": 20}


@pytest.fixture(scope="module", params=["embedded", "random"])
def model(request: pytest.FixtureRequest, random_gpt2: HookedGPT2) -> HookedGPT2:
    return interp.load() if request.param == "embedded" else random_gpt2


def test_the_most_probable_tokens_come_first_with_their_logits(model: HookedGPT2) -> None:
    tokens = model.to_tokens(TEXT)[:, :20]
    ds = predictions(model, tokens, n_top=7)
    logits = model(tokens)[0, -1]
    top = logits.softmax(dim=-1).topk(7)
    assert ds["rank"].values.tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert ds["token_id"].values.tolist() == top.indices.tolist()
    assert ds["prob"].values == pytest.approx(top.values.numpy(), abs=1e-6)
    assert ds["logit"].values == pytest.approx(logits[top.indices].numpy(), abs=1e-4)
    assert ds["token"].values.tolist() == [token_name(model, i) for i in top.indices.tolist()]
    assert ds.attrs["model_hash"] == interp.model_hash(model)


def test_the_embedded_model_says_black() -> None:
    ds = predictions(interp.load(), TEXT)
    assert ds["token"].values[0] == " black"
    assert float(ds["prob"][0]) > 0.9


def test_interventions_change_what_comes_next(model: HookedGPT2) -> None:
    tokens = model.to_tokens(TEXT)[:, :20]
    hooks = [*ablation.zero_heads([(1, 0)]), *attention_edges.cut_edges([(None, None, 12, 4)])]
    ds = predictions(model, tokens, n_top=3, fwd_hooks=hooks)
    top = model.run_with_hooks(tokens, hooks)[0, -1].softmax(dim=-1).topk(3)
    assert ds["token_id"].values.tolist() == top.indices.tolist()
    assert ds["prob"].values == pytest.approx(top.values.numpy(), abs=1e-6)
    as_is = predictions(model, tokens, n_top=3)
    assert ds["prob"].values != pytest.approx(as_is["prob"].values, abs=1e-5)


def test_padded_prompts_are_read_at_their_own_last_token(random_gpt2: HookedGPT2) -> None:
    texts = ["I love the color black", "The cat is"]
    together = predictions(random_gpt2, texts, n_top=4)
    assert together["prob"].dims == ("example", "rank")
    for index, text in enumerate(texts):
        alone = predictions(random_gpt2, text, n_top=4)
        assert together["token"].isel(example=index).values.tolist() == alone.token.values.tolist()
        own = together["prob"].isel(example=index).values
        assert own == pytest.approx(alone["prob"].values, abs=1e-6)


def test_long_prompts_and_one_token_are_read_at_their_end(model: HookedGPT2) -> None:
    longest = torch.arange(3, 3 + min(200, model.cfg.n_ctx))[None]
    for tokens in (longest, longest[:, :1]):
        best = model(tokens)[0, -1].argmax()
        assert int(predictions(model, tokens)["token_id"][0]) == int(best)


def test_a_small_vocabulary_is_listed_whole() -> None:
    bare = HookedGPT2(ModelConfig(**SIZES))
    ds = predictions(bare, torch.tensor([[3, 7, 5]]), n_top=50)
    assert ds.sizes["rank"] == 20
    assert float(ds["prob"].sum()) == pytest.approx(1, abs=1e-5)
    assert set(ds["token"].values) == {f"<{i}>" for i in range(20)}


def test_a_classifier_predicts_classes() -> None:
    classifier = HookedGPT2(ModelConfig(**SIZES, n_classes=3))
    ds = predictions(classifier, torch.tensor([[3, 7, 5]]))
    assert sorted(ds["token"].values) == ["class 0", "class 1", "class 2"]
    best = int(classifier(torch.tensor([[3, 7, 5]]))[0, -1].argmax())
    assert ds["token"].values[0] == f"class {best}"


def test_ids_beyond_the_tokenizer_have_their_number_for_a_name(random_gpt2: HookedGPT2) -> None:
    beyond = len(random_gpt2.tokenizer)
    assert beyond < random_gpt2.cfg.d_vocab
    assert token_name(random_gpt2, beyond) == f"<{beyond}>"
    assert token_name(random_gpt2, beyond - 1) == random_gpt2.tokenizer.piece(beyond - 1)


def test_prompts_and_hooks_that_cannot_work_are_refused(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(PromptError, match="has 33 tokens; the model takes 32"):
        predictions(random_gpt2, torch.ones(1, 33, dtype=torch.long))
    with pytest.raises(HookError, match="hook_zz"):
        predictions(random_gpt2, TEXT[:9], fwd_hooks=[("blocks.0.attn.hook_zz", lambda x, hook: x)])


def test_both_runs_top_tokens_are_compared(random_gpt2: HookedGPT2) -> None:
    tokens = torch.tensor([[0, 7, 5, 2, 8]])
    hooks = ablation.zero_heads([(1, 0), (0, 2)])
    table = before_and_after(random_gpt2, tokens, hooks, n_top=4)
    before = random_gpt2(tokens)[0, -1].softmax(dim=-1)
    after = random_gpt2.run_with_hooks(tokens, hooks)[0, -1].softmax(dim=-1)
    expected = set(before.topk(4).indices.tolist()) | set(after.topk(4).indices.tolist())
    assert set(table["token_id"]) == expected
    assert len(expected) > 4
    for row in table.itertuples():
        assert row.before == pytest.approx(float(before[row.token_id]), abs=1e-6)
        assert row.after == pytest.approx(float(after[row.token_id]), abs=1e-6)
        assert row.change == pytest.approx(row.after - row.before, abs=1e-6)
        assert row.rank_before == 1 + int((before > before[row.token_id]).sum())
        assert row.rank_after == 1 + int((after > after[row.token_id]).sum())
        assert row.token == token_name(random_gpt2, row.token_id)
    assert table["rank_before"].is_monotonic_increasing
    assert table["token_id"].iloc[0] == int(before.argmax())


def test_predictions_are_compared_for_one_prompt(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(PromptError, match="for one prompt, got 2"):
        before_and_after(random_gpt2, [[1, 2], [3, 4]], [])
