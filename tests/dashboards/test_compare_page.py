"""The compare page: its numbers are the library's, and what does not match is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

import interp
from dashboards.readings import compare as readings
from dashboards.state import SEED_TEXT
from interp import differences
from interp.model.gpt2 import HookedGPT2
from tests.dashboards.pages import check_figures, figures, grid, opened, problems, shown, texts

RED = SEED_TEXT.replace("black", "red")
LONGER = SEED_TEXT.replace(" cat like", " dog, a cat like")
ALL = ["changed_heads", "difference", "most_changed", "next_tokens"]
HOSTILE = ("**b**", ":red[x]", "$x$", "</script>", "\x00", "\u202eabc", "😀", "\u200b")


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return interp.load()


@pytest.fixture(scope="module")
def other_folder(model: HookedGPT2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same layout and tokenizer with other weights."""
    return saved(HookedGPT2(model.cfg, tokenizer=model.tokenizer), tmp_path_factory.mktemp("other"))


def saved(model: HookedGPT2, folder: Path) -> Path:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    interp.save_huggingface(model, folder / "model")
    return folder / "model"


def opened_anyhow(folder: Path, /, **options: str) -> AppTest:
    """The page with options, whatever it says."""
    page = opened("compare", model=str(folder))
    chosen = {f"compare.{name}": value for name, value in options.items()}
    page.session_state["selection"] = replace(page.session_state["selection"], options=chosen)
    return page.run()


@pytest.mark.parametrize("text", [RED, LONGER])
def test_the_maps_are_those_of_the_library(model, text):
    page = opened("compare", compare__other=text)
    assert figures(page) == ALL
    ds = differences.pattern_changes(model, SEED_TEXT, model, text)
    np.testing.assert_allclose(grid(page, "compare_grid")["values"], ds["moved"], atol=1e-6)
    layer, head = grid(page, "compare_grid")["marked"]
    change = differences.of_head(model, SEED_TEXT, model, text, layer, head)["change"]
    data = grid(page, "compare_difference")
    np.testing.assert_allclose(data["values"], change, atol=1e-6)
    assert data["limit"] == pytest.approx(float(abs(change).max()))
    assert data["scheme"] == "signed"
    assert len(data["rows"]) == len(change)


def test_the_head_that_changes_most_is_named_and_listed_first(model):
    page = opened("compare", compare__other=LONGER, compare__measure="divergence")
    ds = differences.pattern_changes(model, SEED_TEXT, model, LONGER)
    top = ds["divergence"].to_dataframe()["divergence"].idxmax()
    table = shown(page, "most_changed").dataframe[0].value
    assert (table["layer"][0], table["head"][0]) == top
    assert table["divergence"].is_monotonic_decreasing
    assert texts(page).count(f"L{top[0]}H{top[1]} changes most") == 1


def test_the_two_patterns_stand_side_by_side(model):
    page = opened("compare", compare__other=LONGER, compare__view="both", layer="2", head="1")
    assert figures(page) == [
        "changed_heads",
        "most_changed",
        "pattern_a",
        "pattern_b",
        "next_tokens",
    ]
    for side, text in (("a", SEED_TEXT), ("b", LONGER)):
        expected = interp.patterns.of_head(model, text, 2, 1).values
        values = grid(page, f"pattern_{side}_grid")["values"]
        np.testing.assert_allclose(np.nan_to_num(values), expected, atol=1e-6)
    assert check_figures(page) == figures(page)


def test_the_next_tokens_and_the_logit_difference(model):
    page = opened("compare", compare__other=RED, wrong=" red")
    table = shown(page, "next_tokens").dataframe[0].value
    expected = differences.next_tokens(model, SEED_TEXT, model, RED)
    np.testing.assert_allclose(table["other_prob"], expected["other_prob"], atol=1e-6)
    metric = interp.metrics.logit_diff(
        model.to_single_token(" black"), model.to_single_token(" red")
    )
    one, other = (float(metric(model(text))) for text in (SEED_TEXT, RED))
    assert f"is {one:+.2f} in A and {other:+.2f} in B, a shift of {other - one:+.2f}" in texts(page)


@pytest.mark.parametrize("other", [RED, LONGER])
def test_every_figure_can_be_repeated(other):
    assert check_figures(opened("compare", compare__other=other)) == ALL


def test_gaps_are_counted():
    page = opened("compare", compare__other=LONGER)
    assert "3 places exist in one prompt only" in texts(page)
    assert "3 of 23 places differ." in texts(page)


def test_the_current_prompt_becomes_b():
    page = opened("compare", text="Mary and John went to")
    assert figures(page) == []
    assert page.info[0].value.startswith("Write a prompt B")
    page.button(key="compare_pin").click().run()
    assert page.text_input(key="compare_other").value == "Mary and John went to"
    assert "All tokens are the same." in texts(page)
    assert "Every head looks where it did" in texts(page)
    page.text_area(key="text_box").set_value(SEED_TEXT).run()
    assert page.text_input(key="compare_other").value == "Mary and John went to"
    assert figures(page) == ALL


def test_two_models_of_one_layout(model, other_folder):
    page = opened("compare", compare__what="models", model=str(other_folder))
    assert page.selectbox(key="compare_model").value == "tiny"
    other = interp.load(str(other_folder))
    ds = differences.pattern_changes(other, SEED_TEXT, model, SEED_TEXT)
    np.testing.assert_allclose(grid(page, "compare_grid")["values"], ds["moved"], atol=1e-5)
    assert check_figures(page, tolerance=1e-4) == ALL


def test_models_of_another_layout_still_compare_what_comes_next(model, tmp_path):
    cfg = replace(model.cfg, n_heads=2, model_name="two heads")
    folder = saved(HookedGPT2(cfg, tokenizer=model.tokenizer), tmp_path)
    page = opened_anyhow(folder, what="models")
    assert problems(page) == ["The heads of these runs cannot be compared."]
    assert any("4 layers of 2 heads" in code.value for code in page.code)
    assert figures(page) == ["next_tokens"]
    assert check_figures(page, tolerance=1e-4) == ["next_tokens"]


def test_models_of_other_vocabularies_are_compared_by_text(model, random_gpt2, tmp_path):
    interp.save_huggingface(random_gpt2, tmp_path / "english")
    page = opened_anyhow(tmp_path / "english", what="models")
    assert "The models have other vocabularies" in texts(page)
    assert "next_tokens" in figures(page)


def test_a_model_that_is_not_there_is_a_sentence(other_folder):
    page = opened_anyhow(other_folder, what="models", model="owner/absent")
    assert problems(page) == ["Model B is not there."]
    assert any("'owner/absent' is not on this machine" in code.value for code in page.code)
    assert figures(page) == ALL


def test_a_prompt_b_that_cannot_be_read_is_a_sentence():
    page = opened("compare")
    page.text_input(key="compare_other").set_value("the " * 400).run()
    assert problems(page) == ["Prompt B cannot be read."]
    assert figures(page) == []


@pytest.mark.parametrize(
    "query",
    [
        {"text": " black", "bos": "0", "compare__other": " red"},
        {"compare__what": "nothing", "compare__measure": "x", "compare__view": "x"},
        {"query": "0", "key": "9"},
        {"text": " ".join(["the cat"] * 100), "compare__other": " ".join(["a cat"] * 90)},
    ],
)
def test_odd_links_open(query):
    assert figures(opened("compare", **query)) == ALL


def test_prompts_without_a_shared_place_still_compare_what_comes_next():
    page = opened("compare", text=" black", bos="0")
    page.text_input(key="compare_other").set_value(" red and blue").run()
    assert any("no place in common" in code.value for code in page.code)
    assert figures(page) == ["next_tokens"]


def test_text_of_a_prompt_is_never_markup():
    text = f"a {' '.join(HOSTILE)} cat black"
    page = opened("compare", text=text, compare__other=text.replace("black", "red and blue"))
    told = [*(element.value for element in page.caption), *(b.label for b in page.button)]
    assert not any(token in line for token in HOSTILE for line in told)
    assert figures(page) == ALL


def test_a_model_without_a_tokenizer_is_compared_by_ids(model, tmp_path):
    folder = saved(HookedGPT2(model.cfg, tokenizer=None), tmp_path)
    page = opened("compare", model=str(folder), text="5 6 7", compare__other="5 6 8 7")
    assert check_figures(page, tolerance=1e-4) == ALL


def heads_table(moved: list[float]) -> pd.DataFrame:
    return pd.DataFrame({"layer": [0, 1], "head": [3, 2], "moved": moved, "divergence": moved})


def test_readings_of_heads():
    assert "L1H2 changes most: 40%" in readings.heads(heads_table([0.01, 0.4]), "moved", 9, 0)[0]
    assert "1 of 2 heads moved less" in readings.heads(heads_table([0.01, 0.4]), "moved", 9, 0)[0]
    assert "Every head looks where" in readings.heads(heads_table([0.01, 0.02]), "moved", 9, 0)[0]
    assert "no row can be compared" in readings.heads(heads_table([0, 0]), "moved", 1, 0)[0]


def test_readings_of_one_head():
    edge = {"query_token": " `x`", "key_token": "b", "weight": 0.1, "other_weight": 0.7}
    table = pd.DataFrame([edge | {"change": 0.6}])
    assert "from `` ·`x` `` to `b` changes most" in readings.of_head(table, "L0H1")[0]
    assert "looks at the same places" in readings.of_head(table.assign(change=0.01), "L0H1")[0]
    assert "no edge" in readings.of_head(table[:0], "L0H1")[0]
