"""The walk-through in eight steps: its numbers, its honesty, and its way through."""

import re

import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

import interp
from dashboards.measurements import walkthrough
from interp.edge_tests import ALL_HEADS, AS_IS, CONTROL, ONE_HEAD, SWAPPED, ZEROED
from interp.metrics import logit_diff
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from tests.dashboards.pages import check_figures, figures, grid, opened, problems, shown, texts

SEED = "I love the color black, I hope someday to have a cat like that. The cat is"
QUERY, KEY, EDGE = 13, 5, (1, 2, 13, 5)
STEPS = {
    "tokens": ["mask"],
    "heads": ["heads"],
    "formula": ["product"],
    "row": ["row"],
    "values": ["values", "written"],
    "check": ["check"],
    "effect": ["effects"],
    "general": ["swaps"],
}


@pytest.fixture(scope="module")
def model():
    return interp.load()


def step(name: str, **query: str) -> AppTest:
    """One step of the walk-through."""
    return opened("walkthrough", walkthrough__step=name, **query)


@pytest.mark.parametrize("name", STEPS)
def test_each_figures_python_gives_its_table(name):
    assert check_figures(step(name)) == STEPS[name]


def test_next_and_back_go_through_all_steps_and_end():
    page = opened("walkthrough")
    seen = []
    for _ in STEPS:
        seen.append(page.segmented_control[0].value)
        button = page.button(key="walkthrough_Next")
        last = button.disabled
        if not last:
            button.click().run()
    assert seen == list(STEPS)
    assert last
    assert page.session_state["selection"].options == {"walkthrough.step": "general"}
    page.button(key="walkthrough_Back").click().run()
    assert page.segmented_control[0].value == "effect"
    assert opened("walkthrough").button(key="walkthrough_Back").disabled


def test_a_step_that_is_not_there_is_the_first():
    assert figures(step("nowhere")) == ["mask"]


def test_the_mask_leaves_out_what_comes_later():
    page = step("tokens")
    cells = grid(page, "mask_grid")
    assert np.isfinite(cells["values"]).sum() == 20 * 21 // 2
    assert np.isnan(cells["values"][KEY, QUERY])
    assert (cells["values"][QUERY, : QUERY + 1] == 1).all()
    assert cells["marked"] == [QUERY, KEY]
    assert "impossible in every head" in texts(page)


@pytest.mark.parametrize("name", ["tokens", "heads", "general"])
def test_a_key_after_the_query_is_explained_and_can_be_exchanged(name):
    page = step(name, query="5", key="13")
    assert "causal mask" in texts(page)
    if name != "tokens":
        assert figures(page) == []
        exchange = next(b for b in page.button if b.label == "Exchange query and key")
        exchange.click().run()
        assert figures(page) == STEPS[name]


def test_heads_are_listed_with_what_they_give(model):
    page = step("heads")
    _, cache = model.run_with_cache(SEED)
    weights = grid(page, "walkthrough_heads")["values"]
    for layer in range(4):
        expected = cache["pattern", layer][0, :, QUERY, KEY]
        assert weights[layer] == pytest.approx(expected.numpy(), abs=1e-6)
    listed = shown(page, "heads").dataframe[0].value
    assert len(listed) == 8
    assert listed["weight"].is_monotonic_decreasing
    assert listed["weight"].iloc[0] == pytest.approx(weights.max())
    assert f"L1H2 gives the most: {weights[1, 2]:.3f}" in texts(page)


def test_another_head_is_followed_and_said_to_be_another():
    page = step("heads", layer="2", head="0")
    assert "The chosen head, L2H0" in texts(page)
    assert "You chose another head than the heaviest" in texts(page)


def test_the_formula_has_the_numbers_of_the_head(model):
    page = step("formula")
    _, cache = model.run_with_cache(SEED)
    q, k = cache["q", 1][0, QUERY, 2], cache["k", 1][0, KEY, 2]
    written = " ".join(latex.value for latex in page.latex)
    assert f"= {float(q @ k):.3f}" in written
    assert f"= {float(q @ k) / 32**0.5:.3f}" in written
    assert rf"\sqrt{{32}}}} = {32**-0.5:.4f}" in written
    assert "black" not in written


def test_a_changed_score_changes_the_row_and_the_answer(model):
    page = step("row", walkthrough__change="-3.0")
    expected = interp.edge_steps.rescored(
        model,
        SEED,
        EDGE,
        -3.0,
        logit_diff(*(model.to_single_token(t) for t in (" black", " white"))),
    )
    table = shown(page, "row").dataframe[0].value
    assert table["weight"].to_numpy() == pytest.approx(expected["weight"].values, abs=1e-6)
    assert np.isneginf(table["score"].iloc[QUERY + 1 :]).all()
    assert f"by {float(expected.effect):+.3f} logits" in texts(page)
    assert f"= {float(expected['weight'][KEY]):.4f}" in page.latex[0].value


@pytest.mark.parametrize("change", ["99", "nan"])
def test_a_change_that_means_nothing_is_none(change):
    page = step("row", walkthrough__change=change)
    assert page.slider[0].value == 0
    assert "Move the slider" in texts(page)


def test_the_slider_is_kept():
    page = step("row")
    page.slider[0].set_value(1.5).run()
    assert page.session_state["selection"].options["walkthrough.change"] == "1.5"
    assert "With +1.5 on its score" in texts(page)


def test_the_row_that_is_recomputed_is_the_models_own():
    page = step("check")
    table = shown(page, "check").dataframe[0].value
    largest = table["difference"].max()
    assert largest < 1e-5
    assert f"Largest difference: {largest:.1e}" in page.success[0].value


def test_the_edge_is_cut_swapped_and_compared_with_a_control(model):
    page = step("effect")
    table = shown(page, "effects").dataframe[0].value.set_index("condition")
    assert set(table.index) == {AS_IS, ONE_HEAD, ALL_HEADS, SWAPPED, CONTROL, ZEROED}
    answers = tuple(model.to_single_token(t) for t in (" black", " white"))
    cut = interp.attention.knockout(model, SEED, [EDGE], logit_diff(*answers))
    assert table.loc[ONE_HEAD, "logit_diff"] == pytest.approx(float(cut["cut"][0]), abs=1e-4)
    white = model(SEED.replace("black", "white"))
    own = float(logit_diff(*answers)(white)[0])
    assert table.loc[SWAPPED, "logit_diff"] == pytest.approx(own, abs=1e-4)
    assert "A weight is not proof" in texts(page)
    assert "The edge matters" in texts(page)


def test_an_edge_without_effect_is_said_to_have_none():
    page = step("effect", query="3", key="2", layer="0", head="1")
    assert "the effect is nil" in texts(page)


def test_a_query_that_sees_only_itself_cannot_be_cut():
    page = step("effect", query="0", key="0")
    table = shown(page, "effects").dataframe[0].value
    assert table["condition"].to_list() == [AS_IS, ZEROED, SWAPPED]
    assert "The query sees one key only" in texts(page)


HOSTILE = "</script> **b** :red[x] $x$ ` \u202e \u200b \U0001f408 \x00"


@pytest.mark.parametrize(
    "query",
    [
        {"text": "cat", "bos": "0"},
        {"text": "the black cat " * 66, "query": "150", "key": "149"},
        {"text": HOSTILE, "query": "6", "key": "4"},
    ],
    ids=["one token", "two hundred tokens", "hostile"],
)
def test_all_steps_take_any_prompt(query):
    page = opened("walkthrough", **query)
    for name, expected in STEPS.items():
        assert problems(page) == []
        assert figures(page) == expected, name
        for latex in page.latex:
            assert not re.search("script|red|\\*|`", latex.value)
        if name != "general":
            page.button(key="walkthrough_Next").click().run()


def test_generated_sentences_give_the_librarys_numbers(model):
    page = step("general", walkthrough__sentences="20")
    page.button(key="start_general").click().run()
    assert problems(page) == []
    assert figures(page) == ["swaps", "general"]
    assert check_figures(page) == ["swaps", "general"]
    assert "20 generated sentences" in texts(page)
    assert "Mean effect on the logit difference" in texts(page)


def test_other_words_are_put_in_the_keys_place(model):
    table = shown(step("general"), "swaps").dataframe[0].value
    assert table["token"].iloc[0] == "·black"
    assert {"·white", "·red", "·boat"} <= set(table["token"])
    assert "·loud" not in set(table["token"])  # several tokens of this vocabulary
    pattern = interp.patterns.of_head(model, SEED.replace("black", "boat"), 1, 2)
    row = table[table["token"] == "·boat"].iloc[0]
    assert row["weight"] == pytest.approx(float(pattern[QUERY, KEY]), abs=1e-6)


def own(page: AppTest, text: str, query: str, key: str) -> AppTest:
    """A sentence of one's own, sent."""
    for name, value in (("text", text), ("query", query), ("key", key)):
        page.text_input(key=f"own_{name}").set_value(value)
    return next(b for b in page.button if b.label == "Walk through it").click().run()


def test_a_sentence_of_ones_own_becomes_the_prompt_of_all_pages():
    page = own(step("general"), "I love the color red. The car is", "car", "red")
    selection = page.session_state["selection"]
    assert selection.text == "I love the color red. The car is"
    assert (selection.query, selection.key) == (8, 5)
    assert page.text_area[0].value == selection.text
    assert figures(page) == ["mask"]


@pytest.mark.parametrize(
    ("text", "query", "key", "said"),
    [
        ("I love the color red.", "car", "red", "'car' is not in the text"),
        ("I love the color red.", "", "red", "word is empty"),
        ("", "car", "red", "empty"),
        ("a car " * 300, "car", "a", "the model takes"),
    ],
)
def test_a_sentence_that_cannot_be_used_leaves_all_as_it_was(text, query, key, said):
    page = own(step("general"), text, query, key)
    assert said in " ".join(element.value for element in page.code)
    assert page.session_state["selection"].text == SEED


SIZES = {"n_layers": 2, "n_heads": 2, "d_model": 8, "d_mlp": 8, "n_ctx": 32, "d_vocab": 20}


@pytest.mark.parametrize("n_classes", [None, 3])
def test_models_without_tokenizer_and_classifiers_have_all_measurements(n_classes):
    bare = HookedGPT2(ModelConfig(**SIZES, n_classes=n_classes))
    tokens, edge, answers = (3, 7, 5, 2, 8, 1), (1, 0, 4, 2), (0, 1)
    found = walkthrough.effects(bare, tokens, edge, answers)
    assert (SWAPPED in found.conditions) == (n_classes is None)
    assert walkthrough.positions(bare, tokens, 4)["token"].to_list() == [str(i) for i in tokens]
    assert walkthrough.replacements(bare, 5, 7) == (7,)
    assert walkthrough.check(bare, tokens, edge)["difference"].max() < 1e-5
    assert len(walkthrough.values(bare, tokens, edge)) == 5
    assert not walkthrough.written(bare, tokens, edge, 5).empty
    assert walkthrough.swaps(bare, tokens, edge, (7,))["token"].to_list() == ["<5>", "<7>"]


def test_a_prompt_without_room_for_a_control_has_none(model):
    tokens = tuple(model.to_tokens("a cat")[0].tolist())
    found = walkthrough.effects(model, tokens, (1, 2, 2, 1), (490, 979))
    assert CONTROL not in found.conditions
    assert found.control.empty
