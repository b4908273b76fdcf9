"""What every head attends to, against the cached patterns."""

import numpy as np
import pytest
import torch

import interp
from interp import patterns
from interp.errors import PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2

TEXT = "I love the color black, I hope someday to have a cat like that."
CLOSE = 1e-6


@pytest.fixture(scope="module", params=["embedded", "random"])
def model(request, random_gpt2):
    return interp.load() if request.param == "embedded" else random_gpt2


@pytest.fixture(scope="module")
def tokens(model):
    return model.to_tokens(TEXT)[:, :20]


@pytest.fixture(scope="module")
def cached(model, tokens):
    """Every head's pattern: layer head query_pos key_pos."""
    _, cache = model.run_with_cache(tokens)
    return np.stack([cache["pattern", layer][0].numpy() for layer in range(model.cfg.n_layers)])


@pytest.fixture(scope="module")
def bare():
    """No tokenizer, and three classes for answers."""
    sizes = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_mlp": 8, "n_ctx": 32, "d_vocab": 20}
    return HookedGPT2(ModelConfig(**sizes, n_classes=3))


def test_a_row_is_one_query_of_every_head(model, tokens, cached):
    row = patterns.row(model, tokens, 7)
    assert row.dims == ("layer", "head", "key_pos")
    assert row.values == pytest.approx(cached[:, :, 7], abs=CLOSE)
    assert (row.values[:, :, 8:] == 0).all()
    assert row["key_token"].values.tolist() == model.to_str_tokens(tokens[0])
    assert row.attrs["query"] == 7


def test_a_head_is_its_whole_pattern(model, tokens, cached):
    pattern = patterns.of_head(model, tokens, 2, 1)
    assert pattern.dims == ("query_pos", "key_pos")
    assert pattern.values == pytest.approx(cached[2, 1], abs=CLOSE)
    assert pattern.values.sum(axis=1) == pytest.approx(1, abs=1e-5)
    assert (pattern.attrs["layer"], pattern.attrs["head"]) == (2, 1)


def test_all_heads_are_every_pattern(model, tokens, cached):
    every = patterns.of_all_heads(model, tokens)
    assert every.dims == ("layer", "head", "query_pos", "key_pos")
    assert every.values == pytest.approx(cached, abs=CLOSE)


def test_an_edge_is_compared_with_its_row(model, tokens, cached):
    ds = patterns.edge(model, tokens, 7, 3)
    rows = cached[:, :, 7, :8]
    assert ds["weight"].values == pytest.approx(rows[..., 3], abs=CLOSE)
    assert ds["lift"].values == pytest.approx(8 * rows[..., 3], abs=1e-5)
    assert ds["first_token"].values == pytest.approx(rows[..., 0], abs=CLOSE)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            ordered = sorted(rows[layer, head, 1:].tolist(), reverse=True)
            expected = 1 + ordered.index(rows[layer, head, 3])
            assert int(ds["rank"].sel(layer=layer, head=head)) == expected


def test_an_edge_to_the_first_token_ranks_before_whatever_weighs_less(model, tokens, cached):
    ds = patterns.edge(model, tokens, 7, 0)
    expected = 1 + (cached[:, :, 7, 1:] > cached[:, :, 7, :1]).sum(axis=-1)
    assert ds["rank"].values.tolist() == expected.tolist()
    assert (ds["weight"] == ds["first_token"]).all()


def test_top_edges_are_the_heaviest_in_order(model, tokens, cached):
    table = patterns.top_edges(model, tokens, 1, 2, n=6)
    n = cached.shape[-1]
    edges = sorted(
        ((float(cached[1, 2, q, k]), q, k) for q in range(1, n) for k in range(1, q + 1)),
        reverse=True,
    )
    assert table["weight"].to_list() == pytest.approx([w for w, _, _ in edges[:6]], abs=CLOSE)
    assert table["weight"].is_monotonic_decreasing
    pieces = model.to_str_tokens(tokens[0])
    for edge in table.itertuples():
        assert edge.weight == pytest.approx(float(cached[1, 2, edge.query, edge.key]), abs=CLOSE)
        assert (edge.query_token, edge.key_token) == (pieces[edge.query], pieces[edge.key])
        assert 1 <= edge.key <= edge.query


def test_edges_to_the_first_token_count_when_asked_for(model, tokens, cached):
    every = patterns.top_edges(model, tokens, 1, 2, n=1000, first_key=0)
    n = cached.shape[-1]
    assert len(every) == n * (n + 1) // 2 - 1
    to_first = every[every["key"] == 0].sort_values("query")["weight"]
    assert to_first.to_numpy() == pytest.approx(cached[1, 2, 1:, 0], abs=CLOSE)
    assert len(patterns.top_edges(model, tokens, 1, 2, n=1000)) == n * (n - 1) // 2


def test_measures_are_those_of_the_pattern(model, tokens, cached):
    ds = patterns.measures(model, tokens)
    assert set(ds.data_vars) == set(patterns.MEASURES)
    n = cached.shape[-1]
    for layer, head in ((0, 0), (1, 3), (2, 1)):
        own = cached[layer, head]
        visible = [own[q, : q + 1] for q in range(1, n)]
        entropy = [-(w[w > 0] * np.log(w[w > 0])).sum() / np.log(len(w)) for w in visible]
        expected = {
            "first_token": own[1:, 0].mean(),
            "previous_token": np.mean([own[q, q - 1] for q in range(1, n)]),
            "self": np.mean([own[q, q] for q in range(1, n)]),
            "entropy": np.mean(entropy),
            "distance": np.mean([w @ np.arange(len(w))[::-1] for w in visible]),
            "strongest": own[1:, 1:].max(),
        }
        for name, value in expected.items():
            found = float(ds[name].sel(layer=layer, head=head))
            assert found == pytest.approx(float(value), abs=1e-4), name


def test_short_prompts_are_their_own_thumbnails(model, tokens, cached):
    small = patterns.thumbnails(model, tokens)
    assert small.dims == ("layer", "head", "row", "column")
    assert small.values == pytest.approx(cached, abs=CLOSE)


def test_a_cell_of_a_long_prompt_is_its_heaviest_edge():
    embedded = interp.load()
    tokens = torch.randint(5, 1000, (1, 200), generator=torch.Generator().manual_seed(0))
    small = patterns.thumbnails(embedded, tokens, size=40).values
    _, cache = embedded.run_with_cache(tokens, names_filter="blocks.2.attn.hook_pattern")
    blocks = cache["pattern", 2][0].numpy().reshape(4, 40, 5, 40, 5)
    assert small.shape == (4, 4, 40, 40)
    assert small[2] == pytest.approx(blocks.max(axis=(2, 4)), abs=1e-5)
    row = patterns.row(embedded, tokens, 199)
    assert row.values.sum(axis=-1) == pytest.approx(1, abs=1e-5)


def test_one_token_looks_at_itself(model):
    tokens = model.to_tokens(TEXT)[:, :1]
    assert (patterns.row(model, tokens, 0).values == 1).all()
    assert patterns.of_head(model, tokens, 0, 0).values.tolist() == [[1.0]]
    assert patterns.top_edges(model, tokens, 0, 0).empty
    ds = patterns.measures(model, tokens)
    assert (ds["self"] == 1).all()
    assert (ds["entropy"] == 0).all()
    edge = patterns.edge(model, tokens, 0, 0)
    assert (edge["rank"] == 1).all()
    assert (edge["lift"] == 1).all()
    assert patterns.thumbnails(model, tokens).shape[2:] == (1, 1)


def test_models_without_tokenizer_and_classifiers_have_patterns(bare):
    tokens = torch.tensor([[3, 7, 5, 2]])
    row = patterns.row(bare, tokens, 3)
    assert row["key_token"].values.tolist() == ["3", "7", "5", "2"]
    _, cache = bare.run_with_cache(tokens)
    assert row.sel(layer=1).values == pytest.approx(cache["pattern", 1][0, :, 3].numpy(), abs=CLOSE)
    assert patterns.top_edges(bare, tokens, 1, 1, n=2)["query_token"].isin(["7", "5", "2"]).all()


def test_results_carry_the_model(model, tokens):
    for result in (patterns.row(model, tokens, 2), patterns.measures(model, tokens)):
        assert result.attrs["model_hash"] == interp.model_hash(model)


def test_what_is_not_there_is_refused(bare):
    one, two = torch.tensor([[3, 7, 5, 2]]), torch.tensor([[3, 7], [5, 2]])
    for ask in (patterns.thumbnails, patterns.measures):
        with pytest.raises(PromptError, match="one prompt, got 2"):
            ask(bare, two)
    with pytest.raises(PromptError, match=r"There is no query position 4; the prompt has 0-3\."):
        patterns.row(bare, one, 4)
    with pytest.raises(PromptError, match="no query position -1"):
        patterns.row(bare, one, -1)
    with pytest.raises(PromptError, match="no key position 4"):
        patterns.edge(bare, one, 2, 4)
    with pytest.raises(PromptError, match="Key 3 comes after query 2"):
        patterns.edge(bare, one, 2, 3)
    with pytest.raises(PromptError, match="no head 2 in layer 1: layers are 0-1, heads 0-1"):
        patterns.of_head(bare, one, 1, 2)
    with pytest.raises(PromptError, match="no head -1 in layer 0"):
        patterns.top_edges(bare, one, 0, -1)
