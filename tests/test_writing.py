"""What the model writes, step by step: the tokens of `generate`, and what was known at each."""

from collections.abc import Iterable, Sequence

import numpy as np
import pytest
import torch

from interp import writing
from interp.errors import PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from tests.test_generation import with_certain_next_token

TEXT = "I love the color black, I hope"
TOLERANCE = 1e-5
"""Between runs with and without kept keys and values, in probability."""


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("seed", [0, 7])
def test_the_tokens_are_those_of_generate(
    random_gpt2: HookedGPT2, temperature: float, top_k: int | None, seed: int
) -> None:
    tokens = random_gpt2.to_tokens("The cat is")
    settings = {"temperature": temperature, "top_k": top_k, "seed": seed}
    ds = writing.steps(random_gpt2, tokens, 15, **settings)
    generated = random_gpt2.generate(tokens, 15, **settings)[0].tolist()
    assert [*tokens[0].tolist(), *ds["token_id"].values] == generated
    assert ds["position"].values.tolist() == list(range(tokens.shape[1], len(generated)))
    assert "partial" not in ds.attrs


def test_every_step_says_what_the_whole_run_says(random_gpt2: HookedGPT2) -> None:
    tokens = random_gpt2.to_tokens("The cat is")
    ds = writing.steps(random_gpt2, tokens, 8, temperature=0.5, top_k=3, seed=1, stop_at_eos=False)
    whole = torch.cat([tokens, torch.tensor(ds["token_id"].values)[None]], dim=1)
    logits = random_gpt2(whole)[0, tokens.shape[1] - 1 : -1]
    prob = logits.softmax(dim=-1)
    chosen = prob.gather(1, whole[0, tokens.shape[1] :, None])[:, 0]
    assert ds["prob"].values == pytest.approx(chosen.numpy(), abs=TOLERANCE)
    assert ds["rank"].values.tolist() == (1 + (prob > chosen[:, None]).sum(dim=1)).tolist()
    top = prob.topk(5)
    assert ds["top_id"].values.tolist() == top.indices.tolist()
    assert ds["top_prob"].values == pytest.approx(top.values.numpy(), abs=TOLERANCE)
    assert ds["top_token"].values[2, 1] == random_gpt2.tokenizer.piece(int(top.indices[2, 1]))
    best = (logits.topk(3).values / 0.5).softmax(dim=-1)
    place = (logits.topk(3).indices == whole[0, tokens.shape[1] :, None]).int().argmax(dim=1)
    drawn = best.gather(1, place[:, None])[:, 0]
    assert ds["drawn_prob"].values == pytest.approx(drawn.numpy(), abs=TOLERANCE)


def test_the_most_likely_token_is_certain_to_be_drawn_at_temperature_zero(
    random_gpt2: HookedGPT2,
) -> None:
    ds = writing.steps(random_gpt2, "The cat is", 6, temperature=0.0)
    assert ds["drawn_prob"].values.tolist() == [1.0] * 6
    assert ds["rank"].values.tolist() == [1] * 6
    assert (ds["prob"].values < 1).all()


def test_the_end_of_text_ends_the_steps(random_gpt2: HookedGPT2) -> None:
    ends = with_certain_next_token(random_gpt2, random_gpt2.tokenizer.bos_token_id)
    ds = writing.steps(ends, "The cat", 12)
    assert ds["token"].values.tolist() == ["<|endoftext|>"]
    assert "partial" not in ds.attrs
    assert writing.steps(ends, "The cat", 3, stop_at_eos=False).sizes["step"] == 3


def test_steps_that_are_not_given_out_are_not_written(random_gpt2: HookedGPT2) -> None:
    def three(steps: Sequence[int], description: str) -> Iterable[int]:
        return steps[:3]

    whole = writing.steps(random_gpt2, "The cat is", 9, seed=2)
    part = writing.steps(random_gpt2, "The cat is", 9, seed=2, progress=three)
    assert part["token_id"].values.tolist() == whole["token_id"].values[:3].tolist()
    assert part.attrs["partial"] == 1


def test_no_token_gives_an_empty_result(random_gpt2: HookedGPT2) -> None:
    ds = writing.steps(random_gpt2, "The cat is", 0)
    assert dict(ds.sizes) == {"step": 0, "alternative": 5}
    assert ds["token_id"].dtype == np.int64


def test_a_model_without_a_tokenizer_names_tokens_by_number() -> None:
    cfg = ModelConfig(n_layers=1, n_heads=2, d_model=8, d_mlp=8, d_vocab=11, n_ctx=8)
    ds = writing.steps(HookedGPT2(cfg, seed=0), [[1, 2]], 3, n_top=20)
    assert ds["token"].values.tolist() == [f"<{i}>" for i in ds["token_id"].values]
    assert ds.sizes["alternative"] == 11


def test_what_cannot_be_continued_is_refused(random_gpt2: HookedGPT2) -> None:
    with pytest.raises(PromptError, match="One prompt is continued at a time, got 2"):
        writing.steps(random_gpt2, ["The cat", "The cat"], 1)
    with pytest.raises(PromptError, match="top_k must be at least 1"):
        writing.steps(random_gpt2, "The cat", 1, top_k=0)
    with pytest.raises(PromptError, match="Ask for at most"):
        writing.steps(random_gpt2, "The cat", 1000)
    cfg = ModelConfig(n_layers=1, n_heads=2, d_model=8, d_mlp=8, d_vocab=11, n_ctx=8, n_classes=2)
    with pytest.raises(PromptError, match="is a classifier"):
        writing.steps(HookedGPT2(cfg, seed=0), [[1, 2]], 1)


@pytest.mark.parametrize("first_key", [0, 1])
def test_the_heaviest_key_of_every_head(random_gpt2: HookedGPT2, first_key: int) -> None:
    tokens = random_gpt2.to_tokens("The cat is black")
    query = tokens.shape[1] - 2
    table = writing.heaviest_keys(random_gpt2, tokens, query, first_key=first_key)
    _, cache = random_gpt2.run_with_cache(tokens)
    assert len(table) == random_gpt2.cfg.n_layers * random_gpt2.cfg.n_heads
    assert table["weight"].is_monotonic_decreasing
    pieces = random_gpt2.to_str_tokens(tokens[0])
    for row in table.itertuples():
        weights = cache["pattern", row.layer][0, row.head, query, : query + 1].clone()
        weights[:first_key] = -1
        assert row.key == int(weights.argmax())
        assert row.weight == pytest.approx(float(weights.max()), abs=1e-6)
        assert row.key_token == pieces[row.key]


def test_the_first_query_has_only_its_own_key(random_gpt2: HookedGPT2) -> None:
    table = writing.heaviest_keys(random_gpt2, "The cat", 0)
    assert set(table["key"]) == {0}
    assert table["weight"].tolist() == [1.0] * len(table)
