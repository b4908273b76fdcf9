"""What stands around every page: the prompt, its examples, the model, and errors as sentences."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import interp
from dashboards.examples import EXAMPLES
from dashboards.focus import focus
from dashboards.state import SEED_TEXT
from interp import HookedGPT2, ModelConfig, save_huggingface
from tests.dashboards.pages import APP, opened, problems, texts


def selected(page: AppTest):
    """What the session holds."""
    return page.session_state["selection"]


def messages(page: AppTest) -> str:
    return "\n".join(element.value for element in page.code)


def test_the_prompt_of_the_link_is_shown() -> None:
    page = opened("attention", text="The cat is", query="2")
    assert page.text_area(key="text_box").value == "The cat is"
    assert page.selectbox(key="query").value == 2


def test_a_new_prompt_is_used_by_the_page() -> None:
    page = opened("attention", query="3")
    page.text_area(key="text_box").set_value("The dog is black").run()
    assert selected(page).text == "The dog is black"
    assert page.selectbox(key="query").value == 4
    assert problems(page) == []


def test_a_position_with_another_word_has_its_new_name_in_the_browser() -> None:
    page = opened("attention", text="The cat is", query="2", key="1")
    page.text_area(key="text_box").set_value("A dog is").run()
    page.selectbox(key="query").set_value(2).run()
    page.selectbox(key="key").set_value(1).run()
    page.text_area(key="text_box").set_value("My dog").run()
    shown = page.selectbox(key="key").proto
    assert shown.set_value
    assert shown.raw_value == "1 My"


@pytest.mark.parametrize(("text", "says"), [("", "empty"), ("a " * 400, "at most 256")])
def test_a_prompt_that_cannot_be_read_keeps_the_last_one(text: str, says: str) -> None:
    page = opened("attention", layer="2", head="3")
    page.text_area(key="text_box").set_value(text).run()
    assert says in messages(page)
    assert page.text_area(key="text_box").value == text
    assert (selected(page).text, selected(page).layer) == (SEED_TEXT, 2)
    assert "L2H3" in texts(page)
    page.text_area(key="text_box").set_value("The cat is").run()
    assert problems(page) == []
    assert selected(page).text == "The cat is"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_the_model_gets_every_example_right(example) -> None:
    page = opened("attention")
    page.button(key=f"example_{example.name}").click().run()
    seen = focus(selected(page))
    model = interp.load()
    final = model(model.to_tokens(seen.text), positions="last")[0, -1]
    assert int(final.argmax()) == seen.target
    assert problems(page) == []


def test_the_selection_follows_to_another_page_and_back() -> None:
    page = opened("attention", text="The dog is black", query="2", layer="3", head="1", bos="0")
    for view in ("help", "attention"):
        page.switch_page(f"views/{view}.py").run()
        chosen = selected(page)
        assert (chosen.query, chosen.layer, chosen.head) == (2, 3, 1)
        assert page.text_area(key="text_box").value == "The dog is black"
        assert page.toggle(key="bos").value is False
        assert page.selectbox(key="query").value == 2


def test_the_beginning_token_goes_and_the_positions_follow() -> None:
    page = opened("attention", query="13", key="5")
    page.toggle(key="bos").set_value(False).run()
    assert (selected(page).query, selected(page).key) == (12, 4)
    page.toggle(key="bos").set_value(True).run()
    assert (selected(page).query, selected(page).key) == (13, 5)


def test_widgets_change_the_selection() -> None:
    page = opened("attention")
    page.selectbox(key="layer").set_value(3).run()
    page.selectbox(key="key").set_value(2).run()
    page.text_input(key="target").set_value("red").run()
    chosen = selected(page)
    assert (chosen.layer, chosen.head, chosen.key, chosen.target) == (3, 2, 2, "red")
    assert page.text_input(key="target").value == " red"


def test_an_answer_that_a_browser_sends_late_is_not_taken_for_a_choice() -> None:
    page = opened("attention")
    page.button(key="example_indirect object").click().run()
    assert page.text_input(key="target").value == " Mary"
    page.text_input(key="target").set_value(" black").run()
    assert selected(page).target == " Mary"
    assert page.text_input(key="target").value == " Mary"
    page.text_input(key="target").set_value(" John").run()
    assert selected(page).target == " John"


def test_an_answer_of_several_tokens_is_said_and_the_page_goes_on() -> None:
    page = opened("attention")
    page.text_input(key="target").set_value("supercalifragilistic").run()
    assert "tokens" in messages(page)
    assert "L1H2" in texts(page)


def test_a_link_with_a_wrong_number_says_so() -> None:
    page = AppTest.from_file(str(APP))
    page.query_params["query"] = "cat"
    page.run(timeout=60)
    assert "no whole number" in page.warning[0].value


def test_a_link_to_a_model_that_is_not_there_falls_back_with_a_sentence() -> None:
    page = AppTest.from_file(str(APP))
    page.query_params["model"] = "./no-such-folder"
    page.run(timeout=60)
    assert "no-such-folder" in messages(page)
    assert selected(page).model == "tiny"
    assert "L1H2" in texts(page)


def test_another_model_is_loaded_and_a_bad_one_is_refused(tmp_path: Path) -> None:
    save_huggingface(interp.load(), tmp_path / "copy")
    page = opened("attention")
    page.text_input(key="other_model").set_value(str(tmp_path / "copy"))
    page.button(key="load_model").click().run()
    assert selected(page).model == str(tmp_path / "copy")
    page.text_input(key="other_model").set_value(str(tmp_path / "none"))
    page.button(key="load_model").click().run()
    assert "none" in messages(page)
    assert selected(page).model == str(tmp_path / "copy")


def test_a_model_without_a_tokenizer_reads_token_ids(tmp_path: Path) -> None:
    cfg = ModelConfig(n_layers=2, n_heads=2, d_model=16, d_mlp=16, d_vocab=30, n_ctx=16)
    save_huggingface(HookedGPT2(cfg), tmp_path / "ids")
    page = opened("attention", model=str(tmp_path / "ids"), text="3 1 4 1 5")
    assert "L" in texts(page)
    assert focus(selected(page)).tokens == (3, 1, 4, 1, 5)


def test_the_model_line_says_what_is_computed_with() -> None:
    said = texts(opened("attention"))
    assert "**Model** `tiny`" in said
    assert "4 layers × 4 heads, d_model 128, float32 on cpu" in said
