import copy

import numpy as np
import pytest
import torch

import interp
from interp import heads
from interp.errors import PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.tiny.language import LIST_WORDS

SIZES = {"n_tokens": 10, "n_sequences": 3}


def attend(n_back: int):
    """A hook that makes head 2 look exactly `n_back` positions back."""

    def edit(pattern, hook):
        positions = torch.arange(pattern.shape[-1])
        pattern[:, 2] = 0
        pattern[:, 2, positions, (positions - n_back).clamp(min=0)] = 1

    return [("blocks.1.attn.hook_pattern", edit)]


@pytest.mark.parametrize(
    ("kind", "n_back"), [("previous_token", 1), ("duplicate_token", 10), ("induction", 9)]
)
def test_a_planted_head_is_found_and_no_other_kind_claims_it(random_gpt2, kind, n_back):
    with random_gpt2.hooks(attend(n_back)):
        scores = heads.scores(random_gpt2, **SIZES)
    planted = scores.sel(layer=1, head=2)
    assert float(planted.sel(kind=kind)) == pytest.approx(1.0)
    others = {"previous_token", "duplicate_token", "induction"} - {kind}
    assert planted.sel(kind=[*others, "first_token", "entropy"]).values == pytest.approx(4 * [0.0])
    assert float(heads.scores(random_gpt2, **SIZES).sel(kind=kind, layer=1, head=2)) < 0.9


def test_a_head_that_rests_on_the_first_token_looks_as_far_back_as_it_can(random_gpt2):
    with random_gpt2.hooks(attend(1000)):
        planted = heads.scores(random_gpt2, **SIZES).sel(layer=1, head=2)
    kinds = ["first_token", "distance", "entropy", "previous_token"]
    assert planted.sel(kind=kinds).values == pytest.approx([1.0, 1.0, 0.0, 0.0])


def test_even_attention_has_all_the_entropy_and_half_the_distance(random_gpt2):
    def even(pattern, hook):
        pattern[:] = torch.ones_like(pattern).tril() / torch.arange(1, 22)[:, None]

    with random_gpt2.hooks([("blocks.1.attn.hook_pattern", even)]):
        planted = heads.scores(random_gpt2, **SIZES).sel(layer=1, head=2)
    assert planted.sel(kind=["entropy", "distance"]).values == pytest.approx([1.0, 0.5])
    assert float(planted.max()) <= 1.0
    # BOS and 2 x 10 tokens: the queries 11 to 19 see 12 to 20 keys.
    expected = np.mean([1 / n_keys for n_keys in range(12, 21)])
    for kind in ("previous_token", "duplicate_token", "induction", "first_token"):
        assert float(planted.sel(kind=kind)) == pytest.approx(expected)


def one_head_per_layer(*products: float) -> HookedGPT2:
    """Attention-only layers whose W_V W_O is this multiple of the identity; NaN leaves it random.

    With 64 dimensions for 200 tokens each token is most similar to itself.
    """
    sizes = {"n_layers": len(products), "n_heads": 1, "d_model": 64, "d_mlp": 8}
    model = HookedGPT2(ModelConfig(**sizes, d_vocab=200, n_ctx=32)).requires_grad_(False)
    for block, product in zip(model.blocks, products, strict=True):
        block.mlp.W_out[:] = 0
        if product == product:
            block.attn.W_QKV[:, 2, 0] = product * torch.eye(64)
            block.attn.W_O[0] = torch.eye(64)
    return model


def test_a_head_that_writes_what_it_reads_copies_and_a_random_one_is_at_chance():
    model = one_head_per_layer(1.0, -1.0, *20 * [float("nan")])
    copying = heads.scores(model, **SIZES).sel(kind="ov_copying", head=0).values
    assert copying[:2].tolist() == [1.0, 0.0]
    assert copying[2:].mean() == pytest.approx(0.01, abs=0.005)


def test_what_a_head_always_writes_does_not_hide_that_it_copies():
    model = one_head_per_layer(1.0)
    model.blocks[0].ln1.b[:] = 100 * model.W_E[:4].sum(dim=0)  # favours four tokens everywhere
    assert float(heads.scores(model, **SIZES).sel(kind="ov_copying", layer=0, head=0)) == 1.0


def test_the_embedded_models_induction_head_copies_and_follows_a_previous_token_head():
    model = interp.load()
    words = [model.to_single_token(f" {word}") for word in LIST_WORDS]
    scores = heads.scores(model, words, n_tokens=12)
    assert float(scores.sel(kind="induction", layer=2, head=3)) > 0.8
    assert float(scores.sel(kind="ov_copying", layer=2, head=3)) > 0.95
    assert float(scores.sel(kind="ov_copying", layer=[0, 1, 3]).max()) < 0.1
    previous = scores.sel(kind="previous_token")
    assert float(previous.max()) == float(previous.sel(layer=0, head=0))


def test_a_classifier_has_no_copying_score():
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_mlp": 8, "d_vocab": 30, "n_ctx": 32}
    scores = heads.scores(HookedGPT2(ModelConfig(**sizes, n_classes=3)), **SIZES)
    assert np.isnan(scores.sel(kind="ov_copying")).all()
    assert np.isfinite(scores.drop_sel(kind="ov_copying")).all()


def test_scores_of_a_bfloat16_model_are_float32(random_gpt2):
    scores = heads.scores(copy.deepcopy(random_gpt2).to(torch.bfloat16), **SIZES)
    assert scores.dtype == np.float32
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 1


def test_tokens_repeat_and_begin_with_bos_that_is_never_drawn(random_gpt2):
    tokens = heads.repeated_tokens(random_gpt2, n_tokens=10, n_sequences=50)
    assert torch.equal(tokens[:, 1:11], tokens[:, 11:])
    assert bool((tokens[:, 0] == 0).all())
    only_bos_and_another = heads.repeated_tokens(random_gpt2, [0, 4], **SIZES)
    assert set(only_bos_and_another[:, 1:].flatten().tolist()) == {4}


def test_only_the_given_vocabulary_is_drawn_and_the_seed_decides(random_gpt2):
    tokens = heads.repeated_tokens(random_gpt2, [4, 9], seed=1, **SIZES)
    assert set(tokens[:, 1:].flatten().tolist()) == {4, 9}
    assert torch.equal(tokens, heads.repeated_tokens(random_gpt2, [4, 9], seed=1, **SIZES))
    assert not torch.equal(tokens, heads.repeated_tokens(random_gpt2, [4, 9], seed=2, **SIZES))


def test_results_say_how_they_were_made(random_gpt2):
    scores = heads.scores(random_gpt2, seed=5, **SIZES)
    assert scores.dims == ("kind", "layer", "head")
    assert scores.attrs["seed"] == 5
    assert scores.attrs["model_hash"] == interp.model_hash(random_gpt2)
    assert np.isfinite(scores.values).all()
    for kind, definition in heads.DEFINITIONS.items():
        assert scores.sel(kind=kind)["definition"].item() == definition


def test_a_sequence_that_does_not_fit_is_refused(random_gpt2):
    with pytest.raises(PromptError, match="do not fit into 32"):
        heads.repeated_tokens(random_gpt2, n_tokens=16)
    with pytest.raises(PromptError, match="at least 2 tokens, got 1"):
        heads.repeated_tokens(random_gpt2, n_tokens=1)


def test_a_vocabulary_without_any_token_but_bos_is_refused(random_gpt2):
    with pytest.raises(PromptError, match="no token besides BOS"):
        heads.repeated_tokens(random_gpt2, [0], n_tokens=4)


def test_scores_on_a_prompt_are_means_over_its_own_queries(random_gpt2):
    ids = [0, 5, 7, 5, 9, 7, 7]
    pattern = random_gpt2.run_with_cache([ids])[1]["pattern", 1][0, 2].numpy()
    found = heads.scores_on_prompt(random_gpt2, [ids]).sel(layer=1, head=2)
    repeated = {3: 1, 5: 2, 6: 2}  # query: the first occurrence of its token
    expected = {
        "previous_token": np.mean([pattern[q, q - 1] for q in range(1, 7)]),
        "duplicate_token": np.mean([pattern[q, k] for q, k in repeated.items()]),
        "induction": np.mean([pattern[q, k + 1] for q, k in repeated.items()]),
        "first_token": pattern[1:, 0].mean(),
        "entropy": np.mean(
            [-(pattern[q, : q + 1] * np.log(pattern[q, : q + 1])).sum() / np.log(q + 1)
             for q in range(1, 7)]
        ),
        "distance": np.mean([pattern[q] @ (q - np.arange(7)) / q for q in range(1, 7)]),
    }  # fmt: skip
    for kind, value in expected.items():
        assert float(found.sel(kind=kind)) == pytest.approx(value, abs=1e-5)
    assert found["n_queries"].to_series().to_dict() == {
        "previous_token": 6, "duplicate_token": 3, "induction": 3, "first_token": 6,
        "entropy": 6, "distance": 6,
    }  # fmt: skip


def test_a_prompt_without_repetition_has_no_score_of_it(random_gpt2):
    found = heads.scores_on_prompt(random_gpt2, [[0, 5, 7]]).sel(layer=0, head=0)
    assert np.isnan(found.sel(kind=["duplicate_token", "induction"])).all()
    assert np.isfinite(found.sel(kind=["previous_token", "first_token"])).all()
    assert np.isnan(heads.scores_on_prompt(random_gpt2, [[5]])).all()
    with pytest.raises(PromptError, match="got 2"):
        heads.scores_on_prompt(random_gpt2, [[1, 2], [3, 4]])


def test_heads_are_ranked_by_a_score_and_a_passport_holds_the_ranks(random_gpt2):
    scores = heads.scores(random_gpt2, **SIZES)
    table = heads.leading(scores, "induction")
    values = scores.sel(kind="induction").values
    assert len(table) == values.size
    assert table["score"].tolist() == sorted(values.flatten().tolist(), reverse=True)
    assert table["rank"].tolist() == list(range(1, 1 + values.size))
    third = table.iloc[2]
    assert values[int(third["layer"]), int(third["head"])] == pytest.approx(third["score"])
    assert len(heads.leading(scores, "induction", 4)) == 4

    own = heads.passport(scores, int(third["layer"]), int(third["head"])).set_index("kind")
    assert list(own.index) == list(heads.KINDS)
    assert own.loc["induction", ["rank", "n_heads"]].tolist() == [3, values.size]
    assert own.loc["induction", "score"] == pytest.approx(third["score"])
    best = table.iloc[0]
    assert own.loc["induction", "highest"] == f"L{best['layer']:.0f}H{best['head']:.0f}"
    assert own.loc["induction", "highest_score"] == pytest.approx(values.max())


def test_equal_scores_share_a_rank_and_a_missing_score_has_none(random_gpt2):
    scores = heads.scores_on_prompt(random_gpt2, [[0, 5, 7]])
    scores.loc[{"kind": "first_token"}] = 0.5
    assert set(heads.leading(scores, "first_token")["rank"]) == {1}
    own = heads.passport(scores, 0, 1).set_index("kind")
    assert own.loc["first_token", "rank"] == 1
    assert np.isnan(own.loc["induction", ["score", "rank", "highest_score"]].astype(float)).all()
    assert own.loc["induction", ["n_heads", "highest"]].tolist() == [0, ""]
