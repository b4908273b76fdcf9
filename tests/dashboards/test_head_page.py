"""The head page's numbers are the library's, and its words follow from them."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import interp
from dashboards.focus import Focus, focus
from dashboards.readings import head as readings
from dashboards.state import SEED_TEXT
from interp import heads
from interp.model.config import ModelConfig
from interp.model.saving import save_huggingface
from tests.dashboards.pages import check_figures, figures, grid, opened, shown, texts

SIZES = {"n_tokens": 20, "n_sequences": 8}
ABOVE = ["passport", "head_pattern", "finder", "highest"]
WEIGHTS = ["qk_pairs", "ov_pairs", "ov_tokens"]
HOSTILE = "</script> $x$ **b** :red[x] `a` ``` \u200b \u202e א 🐈"


@pytest.fixture(scope="module")
def model() -> interp.HookedGPT2:
    return interp.load()


@pytest.fixture
def seen() -> Focus:
    """What the page of the first prompt is about."""
    return focus(opened("head").session_state["selection"])


def table(page, figure: str) -> pd.DataFrame:
    return shown(page, figure).dataframe[0].value


def test_the_passport_holds_the_heads_scores_and_ranks(model: interp.HookedGPT2) -> None:
    page = opened("head", layer="2", head="3")
    own = table(page, "passport").set_index("kind")
    scores = heads.scores(model, **SIZES)
    here = heads.scores_on_prompt(model, SEED_TEXT)
    for kind, name in (("induction", "induction"), ("ov_copying", "copying")):
        assert own.loc[name, "score"] == pytest.approx(
            float(scores.sel(kind=kind, layer=2, head=3)), abs=1e-5
        )
        assert own.loc[name, "rank"] == 1
    assert own.loc["first token", "prompt_score"] == pytest.approx(
        float(here.sel(kind="first_token", layer=2, head=3)), abs=1e-5
    )
    assert own.loc["previous token", "prompt_queries"] == 19
    assert own.loc["induction", "definition"] == heads.DEFINITIONS["induction"]
    assert "an induction head: 0.93, rank 1 of 16" in texts(page)


def test_the_map_and_the_list_hold_the_chosen_score(model: interp.HookedGPT2) -> None:
    page = opened("head", head__kind="ov_copying")
    scores = heads.scores(model, **SIZES).sel(kind="ov_copying")
    data = grid(page, "finder_grid")
    np.testing.assert_allclose(data["values"], scores.values, atol=1e-6)
    assert data["marked"] == [1, 2]
    assert data["pickable"]
    highest = table(page, "highest")
    assert len(highest) == 8
    assert highest.iloc[0][["layer", "head"]].tolist() == [2, 3]
    assert highest["score"].tolist() == sorted(scores.values.flatten().tolist())[:-9:-1]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("prompt", "0 <|endoftext|>"),
        ("repeated", "0 <|endoftext|>"),
        ("indirect_object", "0 <|endoftext|>"),
    ],
)
def test_the_pattern_is_of_the_chosen_text(model: interp.HookedGPT2, text: str, first: str) -> None:
    page = opened("head", layer="2", head="3", head__text=text)
    data = grid(page, "head_pattern_grid")
    tokens = {
        "prompt": model.to_tokens(SEED_TEXT),
        "repeated": heads.repeated_tokens(model, n_tokens=12, n_sequences=1),
        "indirect_object": model.to_tokens(
            interp.tiny.language.held_out_examples("indirect_object", 1, 0)[0].text
        ),
    }[text]
    expected = model.run_with_cache(tokens)[1]["pattern", 2][0, 3].numpy()
    lower = np.tril(np.ones_like(expected, dtype=bool))
    np.testing.assert_allclose(data["values"][lower], expected[lower], rtol=1e-5, atol=1e-6)
    assert np.isnan(data["values"][~lower]).all()
    assert data["rows"][0] == first
    assert data["pickable"] == (text == "prompt")


def test_circuits_are_read_from_the_weights(model: interp.HookedGPT2) -> None:
    page = opened("head", layer="2", head="3", key="5")
    vocabulary = interp.prompts.everyday_words(model)
    pairs = interp.head_circuits.ov_top_pairs(model, 2, 3, vocabulary)
    written = table(page, "ov_pairs")
    np.testing.assert_allclose(written["logit"], pairs["logit"].values, rtol=1e-5)
    assert written["reading"][0] == f"·{str(pairs['read_token'].values[0]).strip()}"
    raised = interp.head_circuits.ov_top_tokens(model, 2, 3, " black", vocabulary)
    np.testing.assert_allclose(table(page, "ov_tokens")["logit"], raised["logit"].values, rtol=1e-5)
    assert "raises its own logit: rank 1" in texts(page)
    looked_for = interp.head_circuits.qk_top_pairs(model, 2, 3, vocabulary)
    np.testing.assert_allclose(
        table(page, "qk_pairs")["score"], looked_for["score"].values, rtol=1e-4
    )


def test_similar_heads_are_those_of_the_overlap(model: interp.HookedGPT2) -> None:
    page = opened("head", head__below="similar")
    found = table(page, "similar")
    tokens = heads.repeated_tokens(model, **SIZES)
    overlap = interp.patterns.overlap(model, tokens, 1, 2)
    assert len(found) == 15
    for row in found.itertuples():
        assert row.random == pytest.approx(float(overlap[row.layer, row.head]), abs=1e-5)
    assert found["random"].is_monotonic_decreasing


def test_without_the_head_is_its_ablation(model: interp.HookedGPT2) -> None:
    found = table(opened("head", head__below="without"), "without").set_index("kind")
    metric = interp.metrics.logit_diff(*map(model.to_single_token, (" black", " white")))
    tokens = model.to_tokens(SEED_TEXT)
    others = interp.prompts.other_sentences(model, 15, tokens.shape[1])
    for kind, reference in (("zero", None), ("mean", others)):
        swept = interp.ablation.sweep(model, tokens, metric, kind, reference=reference)
        effect = swept["effect"].sel(layer=1, head=2).item()
        assert found.loc[kind, "effect"] == pytest.approx(effect, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "below"),
    [
        ({"vocabulary": "prompt", "text": "repeated", "kind": "entropy"}, WEIGHTS),
        ({"below": "similar", "text": "greater_than"}, ["similar"]),
        ({"below": "without", "kind": "ov_copying"}, ["without"]),
    ],
)
def test_every_figure_is_reproduced_by_its_python(options: dict, below: list[str]) -> None:
    page = opened("head", **{f"head__{name}": value for name, value in options.items()})
    assert check_figures(page) == [*ABOVE, *below]


@pytest.mark.parametrize("vocabulary", ["words", "common"])
def test_circuits_are_reproduced_by_their_python(vocabulary: str) -> None:
    page = opened("head", head__vocabulary=vocabulary)
    assert check_figures(page, only=WEIGHTS) == WEIGHTS


@pytest.mark.parametrize("below", ["weights", "similar", "without"])
def test_a_prompt_of_one_token_has_a_page(below: str) -> None:
    page = opened("head", text="a", bos="0", head__below=below)
    assert figures(page)[:4] == ABOVE
    assert "This prompt is one token" in texts(page)
    if below == "without":
        assert check_figures(page) == [*ABOVE, "without"]


def test_hostile_tokens_are_only_shown() -> None:
    page = opened("head", text=HOSTILE, query="5", key="1")
    assert check_figures(page, only=WEIGHTS) == WEIGHTS
    outside = re.sub(r"(`+).*?\1", "", texts(page))
    assert not any(part in outside for part in (":red", "script", "$", "`"))


def test_a_long_prompt_and_a_wrong_link_have_a_page() -> None:
    long = " ".join(["The cat is black and the dog is white."] * 20)
    page = opened("head", text=long, head__kind="nonsense", head__text="x", head__below="y")
    assert figures(page) == [*ABOVE, *WEIGHTS]


@pytest.mark.parametrize("n_classes", [None, 3])
def test_models_without_tokenizer_and_classifiers(tmp_path: Path, n_classes: int | None) -> None:
    cfg = ModelConfig(
        n_layers=2, n_heads=2, d_model=8, d_mlp=8, d_vocab=11, n_ctx=16, n_classes=n_classes
    )
    save_huggingface(interp.HookedGPT2(cfg, seed=0), tmp_path / "model")
    own = {"model": str(tmp_path / "model"), "text": "1 2 3 1 2"}
    page = opened("head", **own, head__kind="ov_copying")
    assert check_figures(page) == [*ABOVE, *(WEIGHTS[:1] if n_classes else WEIGHTS)]
    assert ("A classifier's outputs" in texts(page)) == bool(n_classes)
    page = opened("head", **own, head__below="without", head__text="repeated")
    assert check_figures(page, only=["without", "head_pattern"]) == ["head_pattern", "without"]


def scored(**columns: dict[str, float]) -> pd.DataFrame:
    """A passport with these numbers; 0.1 elsewhere."""
    kinds = list(heads.KINDS)
    rows = pd.DataFrame({"kind": kinds, "score": 0.1, "rank": 2, "n_heads": 16})
    rows = rows.assign(prompt_score=0.1, prompt_rank=3, prompt_queries=5).set_index("kind")
    for name, values in columns.items():
        for kind, value in values.items():
            rows.loc[kind, name] = value
    return rows.reset_index()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "no clear case of any class: no score reaches 0.3. Nor is it one on this prompt."),
        ({"score": {"induction": 0.9}}, "This prompt does not: 0.10 over 5 queries"),
        (
            {"score": {"induction": 0.9}, "prompt_score": {"induction": 0.8}},
            "This prompt agrees: 0.80",
        ),
        (
            {"score": {"induction": 0.9}, "prompt_score": {"first_token": 0.7}},
            "says something else: here it looks like a head that rests on the first token (0.70",
        ),
        ({"prompt_score": {"previous_token": 0.7}}, "here it looks like a previous-token head"),
        (
            {"score": {"induction": 0.9}, "prompt_queries": {"induction": 0}},
            "This prompt repeats no token, so it cannot show that.",
        ),
        ({"prompt_queries": {"previous_token": 0}}, "This prompt is one token"),
        ({"score": {"ov_copying": 0.9}}, "mostly copies what it reads"),
        ({"score": {"ov_copying": 0.0}}, "does not copy what it reads"),
    ],
)
def test_the_passport_says_whether_the_prompt_agrees(
    seen: Focus, columns: dict[str, dict[str, float]], said: str
) -> None:
    assert said in readings.passport(scored(**columns), seen)[0]


@pytest.mark.parametrize(
    ("effects", "said"),
    [((-0.1, 0.2), "Both are small"), ((-9.0, -1.0), "disagree"), ((-9.0, -8.0), "Both agree")],
)
def test_both_ablations_are_compared(seen: Focus, effects: tuple, said: str) -> None:
    kinds = pd.DataFrame({"kind": ["zero", "mean"], "original": 17.0, "effect": effects})
    assert said in readings.without(kinds, seen)[0]


def test_the_list_says_which_head_looks_alike_here(seen: Focus) -> None:
    alike = pd.DataFrame(
        {"layer": [0, 3], "head": [1, 2], "random": [0.8, 0.4], "prompt": [0.2, 0.6]}
    )
    said = readings.similar(alike, seen)[0]
    assert "L0H1 looks most like L1H2 on random text: they share 80%" in said
    assert "1 of 2 heads share half or more" in said
    assert "On this prompt L3H2 is more alike (0.60; L0H1: 0.20)" in said
    agreed = readings.similar(alike.assign(prompt=[0.7, 0.6]), seen)[0]
    assert "it is also the most alike (0.70)" in agreed
    assert readings.similar(alike.head(0), seen) == ["There is no other head."]
