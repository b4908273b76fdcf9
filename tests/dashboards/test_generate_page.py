"""The generate page: the text of `model.generate`, how sure each step was, what it read."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from streamlit.testing.v1 import AppTest

import interp
from dashboards.readings import generate as readings
from interp import HookedGPT2, ModelConfig, save_huggingface, writing
from tests.dashboards.pages import check_figures, figures, grid, opened, problems, texts

FIGURES = ["written", "alternatives", "heads", "row"]
TEXT = "I love the color black, I hope"


@pytest.fixture(scope="module")
def tiny() -> HookedGPT2:
    return interp.load()


def _is_writing(page: AppTest) -> bool:
    return any(button.key == "stop_generate" for button in page.button)


def written(**query: str) -> AppTest:
    """The page once all is written."""
    page = opened("generate", **query)
    deadline = time.monotonic() + 30
    while _is_writing(page) and time.monotonic() < deadline:
        page.run()
    return page


def notes(page: AppTest) -> str:
    return "\n".join(code.value for code in page.code)


def test_the_page_writes_what_generate_writes(tiny: HookedGPT2) -> None:
    page = written(text=TEXT)
    ids = tiny.generate(tiny.to_tokens(TEXT), 10, temperature=0.0)[0, 1:]
    assert notes(page).startswith(tiny.to_string(ids))
    data = grid(page, "written_strip")
    expected = writing.steps(tiny, TEXT, 10, temperature=0.0)
    assert data["values"].ravel() == pytest.approx(expected["prob"].values, abs=1e-6)
    assert data["words"][0] == [interp.model.tokens.visible(t) for t in expected["token"].values]
    assert data["marked"] == [0, 9]


@pytest.mark.parametrize(("seed", "top_k"), [("3", "0"), ("4", "5")])
def test_a_seed_and_its_settings_decide_the_text(tiny: HookedGPT2, seed: str, top_k: str) -> None:
    page = written(
        text=TEXT, generate__temperature="1.5", generate__seed=seed,
        generate__top_k=top_k, generate__n="14",
    )  # fmt: skip
    ids = tiny.generate(
        tiny.to_tokens(TEXT), 14, temperature=1.5, top_k=int(top_k) or None, seed=int(seed)
    )[0, 1:]
    assert notes(page).startswith(tiny.to_string(ids))


def test_buttons_add_tokens_and_take_them_back() -> None:
    page = written(text=TEXT, generate__n="2")
    first = notes(page)
    page.button(key="next_token").click().run()
    assert notes(page).startswith(first.split("\n")[0])
    assert grid(page, "written_strip")["marked"] == [0, 2]
    page.number_input(key="generate.by").set_value(12).run()
    page.button(key="next_tokens").click().run()
    values = grid(page, "written_strip")["values"]
    assert values.shape == (2, 10)
    assert int(np.isfinite(values).sum()) == 15
    page.button(key="start_over").click().run()
    assert figures(page) == []
    assert "Nothing is written yet" in page.info[0].value
    assert problems(page) == []


def test_a_step_shows_its_alternatives_and_what_it_looked_at(tiny: HookedGPT2) -> None:
    page = written(text=TEXT, generate__step="4", layer="1", head="2")
    tokens = tiny.to_tokens(TEXT)
    steps = writing.steps(tiny, tokens, 10, temperature=0.0)
    at = steps.sel(step=4)
    shown = page.get_by_key("figure_alternatives").dataframe[0].value
    assert shown["probability"].to_numpy() == pytest.approx(at["top_prob"].values, abs=1e-6)
    assert shown["written"].tolist() == [True] + [False] * 4
    seen = torch.cat([tokens, torch.tensor(steps["token_id"].values[:3])[None]], dim=1)
    _, cache = tiny.run_with_cache(seen)
    values = grid(page, "row_strip")["values"].ravel()
    assert values[: seen.shape[1]] == pytest.approx(cache["pattern", 1][0, 2, -1], abs=1e-5)
    assert np.isnan(values[seen.shape[1] :]).all()
    heads = grid(page, "heads_grid")
    row = torch.stack([cache["pattern", n][0, :, -1, 1:] for n in range(tiny.cfg.n_layers)])
    assert heads["values"] == pytest.approx(row.max(dim=-1).values, abs=1e-5)
    pieces = tiny.to_str_tokens(seen[0])
    key = int(row[1, 2].argmax()) + 1
    assert heads["words"][1][2] == interp.model.tokens.visible(pieces[key])
    assert heads["marked"] == [1, 2]


def test_figures_can_be_repeated() -> None:
    page = written(
        text=TEXT, generate__temperature="0.7", generate__top_k="9",
        generate__step="3",
    )  # fmt: skip
    assert check_figures(page) == FIGURES


def test_the_text_becomes_the_prompt() -> None:
    page = written(text=TEXT, generate__n="3")
    text = page.code[0].value
    page.button(key="use_as_prompt").click().run()
    assert page.session_state["selection"].text == text
    assert page.text_area(key="text_box").value == text
    assert "Nothing is written yet" in page.info[0].value


def test_a_step_is_taken_to_the_attention_page(tiny: HookedGPT2) -> None:
    page = written(text=TEXT, generate__step="2")
    page.button(key="look_into").click().run()
    steps = writing.steps(tiny, TEXT, 10, temperature=0.0)
    chosen = page.session_state["selection"]
    assert chosen.text == TEXT + steps["token"].values[0]
    token = str(steps["token"].values[1])
    assert chosen.target == (token if token.startswith(" ") else "")
    assert problems(page) == []
    assert "head_map" in figures(page)


@pytest.mark.parametrize(
    "query",
    [
        {"text": "a", "bos": "0"},
        {"generate__n": "99999999999", "generate__by": "x", "generate__seed": "-1"},
        {"generate__step": "900", "generate__temperature": "hot", "generate__top_k": "99999"},
        {"text": "</script> $x$ **b** :red[x] `q` \u202e ok \u200b \x00 \U0001f600"},
    ],
)
def test_what_no_link_should_hold_is_borne(query: dict[str, str]) -> None:
    page = written(**query)
    assert "written" in figures(page)


def test_a_prompt_that_fills_the_context_cannot_be_continued(tiny: HookedGPT2) -> None:
    page = written(text=" the" * (tiny.cfg.n_ctx - 1))
    assert "fills the model's 256 tokens" in page.info[0].value
    assert page.button(key="next_token").disabled
    almost = written(text=" the" * (tiny.cfg.n_ctx - 3))
    assert int(np.isfinite(grid(almost, "written_strip")["values"]).sum()) == 2


def test_a_text_that_is_read_as_other_tokens_is_named() -> None:
    page = written(text="a", generate__temperature="2", generate__n="60", generate__seed="1")
    assert "cut into other tokens" in texts(page)


@pytest.mark.parametrize("n_classes", [None, 3])
def test_models_without_tokenizer_and_classifiers(tmp_path: Path, n_classes: int | None) -> None:
    cfg = ModelConfig(
        n_layers=2, n_heads=2, d_model=8, d_mlp=8, d_vocab=11, n_ctx=16, n_classes=n_classes
    )
    save_huggingface(HookedGPT2(cfg, seed=0), tmp_path / "model")
    page = written(model=str(tmp_path / "model"), text="1 2 3")
    if n_classes:
        assert "classifier" in page.info[0].value
        assert figures(page) == []
    else:
        assert page.code[0].value.startswith("1 2 3 ")
        assert check_figures(page) == FIGURES


def test_readings_follow_the_numbers() -> None:
    steps = writing.steps(interp.load(), "I love the color", 6, temperature=0.0)
    assert "seed changes nothing" in readings.written(steps, 6, 0)[0]
    assert "itself ended the text" in readings.written(steps, 9, 1.0)[0]
    stopped = steps.assign_attrs(partial=1)
    assert "itself ended the text" not in readings.written(stopped, 9, 1.0)[0]
    first = steps.sel(step=[1]).copy(deep=True)
    first["top_prob"].values[0, :2] = [0.4, 0.35]
    assert readings.alternatives(first, 1)[0].startswith("A close call")
    first["top_prob"].values[0, :2] = [0.9, 0.05]
    assert readings.alternatives(first, 1)[0].startswith("No close call")
    first["rank"].values[0] = 3
    assert "was drawn although" in readings.alternatives(first, 1)[0]
    first["drawn_prob"].values[0] = 0.0
    assert "made its probability 0.000" in readings.alternatives(first, 1)[0]
    table = writing.heaviest_keys(interp.load(), "I love the color", 4)
    assert "of 16 heads look hard" in readings.heads(table)[0]
    assert "No head looks hard" in readings.heads(table.assign(weight=0.1))[0]
