"""How two runs differ: places aligned, attention that moved, and what comes next."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import interp
from interp import differences
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2

TEXT = "I love the color black, I hope someday to have a cat like that. The cat is"
OTHER = TEXT.replace("black", "red")
LONGER = TEXT.replace(" cat like", " dog, a cat like")


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return interp.load()


def plain_patterns(model: HookedGPT2, text: str) -> torch.Tensor:
    _, cache = model.run_with_cache(text)
    return torch.stack([cache["pattern", layer][0] for layer in range(model.cfg.n_layers)])


def test_equal_lengths_are_aligned_position_by_position():
    assert differences.aligned("abcd", "xbyd") == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_other_lengths_keep_what_both_have_and_show_gaps():
    assert differences.aligned("abcd", "abxcd") == [(0, 0), (1, 1), (None, 2), (2, 3), (3, 4)]
    assert differences.aligned("abcd", "ad") == [(0, 0), (1, None), (2, None), (3, 1)]
    # "b" stands where "x" does; "c" has no partner
    assert differences.aligned("abdc", "axd") == [(0, 0), (1, 1), (2, 2), (3, None)]


def test_alignment_names_tokens_and_gaps(model):
    table = differences.alignment(model, TEXT, model, LONGER)
    gaps = table[table["position"].isna()]
    assert len(gaps) == 3
    assert gaps["token"].isna().all()
    assert table["differs"].sum() == 3
    together = table.dropna(subset=["position", "other_position"])
    assert (together["token"] == together["other_token"]).all()
    assert table["other_position"].dropna().tolist() == list(range(len(model.to_tokens(LONGER)[0])))


def test_one_token_that_differs_is_marked(model):
    table = differences.alignment(model, TEXT, model, OTHER)
    differing = table[table["differs"]]
    assert differing[["token", "other_token"]].values.tolist() == [[" black", " red"]]


def test_moved_and_divergence_by_hand(model):
    ds = differences.pattern_changes(model, TEXT, model, OTHER)
    one, other = (plain_patterns(model, text)[:, :, 1:].double() for text in (TEXT, OTHER))
    moved = (one - other).abs().sum(-1).mean(-1) / 2
    np.testing.assert_allclose(ds["moved"], moved, atol=1e-5)
    middle = (one + other) / 2

    def bits(p: torch.Tensor) -> torch.Tensor:
        return torch.where(p > 0, p * (p / middle).log2(), 0).sum(-1)

    np.testing.assert_allclose(
        ds["divergence"], ((bits(one) + bits(other)) / 2).mean(-1), atol=1e-5
    )
    assert float(ds["moved"].max()) > 0.01


def test_the_edge_that_changes_most(model):
    ds = differences.pattern_changes(model, TEXT, model, OTHER).sel(layer=3, head=3)
    one, other = (plain_patterns(model, text)[3, 3] for text in (TEXT, OTHER))
    query, key = int(ds["query"]), int(ds["key"])
    assert float((one - other).abs().max()) == pytest.approx(
        abs(float(one[query, key] - other[query, key])), abs=1e-6
    )
    assert float(ds["weight"]) == pytest.approx(float(one[query, key]), abs=1e-6)
    assert float(ds["other_weight"]) == pytest.approx(float(other[query, key]), abs=1e-6)


def test_keys_of_one_prompt_count_as_moved(model):
    ds = differences.pattern_changes(model, TEXT, model, LONGER)
    table = differences.alignment(model, TEXT, model, LONGER).dropna()
    here, there = table["position"].tolist(), table["other_position"].tolist()
    one, other = (plain_patterns(model, text)[2, 1].numpy() for text in (TEXT, LONGER))
    rows = []
    for query, other_query in list(zip(here, there, strict=True))[1:]:
        stayed = np.minimum(one[query][here], other[other_query][there]).sum()
        both_rest = min(1 - one[query][here].sum(), 1 - other[other_query][there].sum())
        rows.append(1 - float(stayed) - max(float(both_rest), 0))
    assert float(ds["moved"].sel(layer=2, head=1)) == pytest.approx(np.mean(rows), abs=1e-5)
    assert ds["moved"].values.min() >= 0
    assert ds["divergence"].values.max() <= 1


def test_a_run_does_not_differ_from_itself(model):
    ds = differences.pattern_changes(model, TEXT, model, TEXT)
    assert float(ds["moved"].max()) == 0
    assert float(ds["divergence"].max()) == 0
    assert differences.next_tokens(model, TEXT, model, TEXT)["change"].tolist() == [0] * 10


def test_a_prompt_of_one_token_has_no_query_to_compare(model):
    ds = differences.pattern_changes(model, [[5]], model, [[6]])
    assert float(ds["moved"].max()) == 0
    assert float(ds["query"].max()) == 0


def test_of_head_holds_both_patterns_and_their_difference(model):
    ds = differences.of_head(model, TEXT, model, LONGER, 1, 2)
    table = differences.alignment(model, TEXT, model, LONGER).dropna()
    here, there = table["position"].tolist(), table["other_position"].tolist()
    assert ds["query_pos"].values.tolist() == ds["key_pos"].values.tolist() == here
    assert ds["other_pos"].values.tolist() == there
    one, other = plain_patterns(model, TEXT)[1, 2], plain_patterns(model, LONGER)[1, 2]
    query, key = here[-1], here[3]
    cell = ds.sel(query_pos=query, key_pos=key)
    assert float(cell["weight"]) == pytest.approx(float(one[query, key]), abs=1e-6)
    assert float(cell["other_weight"]) == pytest.approx(float(other[there[-1], there[3]]), abs=1e-6)
    assert float(cell["change"]) == pytest.approx(float(cell["other_weight"] - cell["weight"]))
    assert np.isnan(ds["change"].sel(query_pos=here[2], key_pos=here[5]))


def test_next_tokens_are_those_of_either_run(model):
    table = differences.next_tokens(model, TEXT, model, OTHER, n_top=2)
    assert set(table["token"]) >= {" black", " red"}
    row = table.set_index("token").loc[" red"]
    ids = model.to_single_token(" red")
    for text, column in ((TEXT, "prob"), (OTHER, "other_prob")):
        expected = model(text)[0, -1].softmax(-1)[ids]
        assert row[column] == pytest.approx(float(expected), rel=1e-4)
    assert row["change"] == pytest.approx(row["other_prob"] - row["prob"])
    assert row["other_rank"] == 1


def test_other_vocabularies_are_compared_by_text(model, random_gpt2):
    assert not differences.same_vocabulary(model, random_gpt2)
    table = differences.next_tokens(model, TEXT, random_gpt2, TEXT, n_top=5)
    assert len(table) >= 5
    assert table["prob"].isna().any()
    first = table.dropna().iloc[0]
    token = model.to_single_token(first["token"])
    assert first["prob"] == pytest.approx(float(model(TEXT)[0, -1].softmax(-1)[token]), rel=1e-4)


def test_models_with_other_heads_are_refused_in_a_sentence(model):
    cfg = replace(model.cfg, n_heads=2, model_name="two heads")
    other = HookedGPT2(cfg, tokenizer=model.tokenizer)
    with pytest.raises(PromptError, match="two heads 4 layers of 2 heads"):
        differences.pattern_changes(model, TEXT, other, TEXT)
    with pytest.raises(PromptError, match="no head 4 in layer 0"):
        differences.of_head(model, TEXT, model, TEXT, 0, 4)
    with pytest.raises(PromptError, match="one prompt, got 2"):
        differences.next_tokens(model, [TEXT, TEXT], model, TEXT)
