"""The patching lab: its numbers are the library's, and each cell can be done again by hand."""

import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

import interp
from dashboards.measurements import patching
from dashboards.measurements.patching import Cost, Place
from dashboards.readings import patching as readings
from dashboards.service import service
from dashboards.state import SEED_TEXT
from interp.model.gpt2 import HookedGPT2
from interp.progress import no_progress
from interp.sites import SITES, STREAM_SITES
from tests.dashboards.pages import check_figures, figures, grid, opened, problems, shown, texts

RED = SEED_TEXT.replace("black", "red")
HOSTILE = ("`", "**b**", ":red[x]", "$x$", "</script>", "\x00", "\u202eabc", "😀", "\u200b")


@pytest.fixture(scope="module")
def model() -> HookedGPT2:
    return interp.load()


def lab(**query: str) -> AppTest:
    """The page, and its sweep begun where a slow machine asks first."""
    return ended(opened("patching", **({"patching__corrupted": RED, "wrong": " red"} | query)))


def ended(page: AppTest) -> AppTest:
    """The page once its sweep is there."""
    for button in page.button:
        if button.key == "start_patching":
            page = button.click().run()
    end = time.monotonic() + 30
    while any(button.key == "stop_patching" for button in page.button):
        assert time.monotonic() < end
        page.run()
    return page


def swept(model: HookedGPT2, site: str, direction: str = "denoising", alone: bool = False):
    metric = interp.metrics.logit_diff(
        model.to_single_token(" black"), model.to_single_token(" red")
    )
    return interp.patching.sweep(
        model, SEED_TEXT, RED, site, metric, direction, per_position=alone
    ).isel(example=0)


def test_the_first_look_swaps_the_colour(model):
    page = ended(opened("patching"))
    assert page.text_input(key="patching_corrupted").value == SEED_TEXT.replace("black", "white")
    assert figures(page) == ["patching", "cell", "checks"]
    assert "20 places differ" in texts(page)
    assert "position 5 (`·black`)" in texts(page)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", ["mlp_out", "z"])
def test_the_map_is_the_sweep_of_the_library(model, site, direction):
    page = lab(patching__site=site, patching__direction=direction)
    ds = swept(model, site, direction)
    base = float(ds["corrupted" if direction == "denoising" else "clean"])
    data = grid(page, "patching_grid")
    np.testing.assert_allclose(data["values"], ds["patched"] - base, atol=1e-4)
    assert data["scheme"] == "signed"
    assert len(data["columns"]) == (20 if site in STREAM_SITES else 4)
    largest = np.unravel_index(np.abs(data["values"]).argmax(), data["values"].shape)
    assert data["marked"] == [int(at) for at in largest]


def test_a_recovered_fraction_runs_from_corrupted_to_clean(model):
    page = lab(patching__shown="recovered_fraction")
    ds = swept(model, "resid_pre")
    expected = (ds["patched"] - ds["corrupted"]) / (ds["clean"] - ds["corrupted"])
    data = grid(page, "patching_grid")
    np.testing.assert_allclose(data["values"], expected, atol=1e-5)
    assert data["limit"] == pytest.approx(max(1.0, float(abs(expected).max())), abs=1e-4)


def test_a_head_at_each_position_alone_is_seen_by_head_or_by_layer(model):
    page = lab(patching__site="z", patching__alone="1", patching__cell="2.1.13")
    ds = swept(model, "z", alone=True)
    effect = ds["patched"] - ds["corrupted"]
    np.testing.assert_allclose(grid(page, "patching_grid")["values"], effect.sel(head=1), atol=1e-4)
    assert grid(page, "patching_grid")["marked"] == [2, 13]
    page.button_group(key="patching.slice").set_value("layer").run()
    np.testing.assert_allclose(
        grid(page, "patching_grid")["values"], effect.sel(layer=2), atol=1e-4
    )
    assert grid(page, "patching_grid")["marked"] == [1, 13]


@pytest.mark.parametrize("cell", ["9.-.3", "1.2.3", "1.-", "-.-.3", "1.-.²"])
def test_a_cell_that_is_not_there_gives_the_largest(cell):
    page = lab(patching__cell=cell)
    assert "This cell: resid_pre at L0, position 5" in texts(page)


@pytest.mark.parametrize(
    ("site", "alone", "cell", "direction"),
    [
        *((site, "0", "1.-.13", "denoising") for site in ("resid_mid", "attn_out")),
        *((site, "0", "1.2.-", "denoising") for site in ("q", "k", "pattern")),
        ("resid_post", "0", "1.-.13", "noising"),
        ("pattern", "0", "1.2.-", "noising"),
        ("v", "1", "1.2.5", "noising"),
    ],
)
def test_the_lines_of_a_cell_give_the_number_of_its_sweep(model, site, alone, cell, direction):
    page = lab(
        patching__site=site, patching__alone=alone, patching__cell=cell,
        patching__direction=direction,
    )  # fmt: skip
    ds = swept(model, site, direction, alone == "1")
    place = dict(zip(("layer", "head", "pos"), cell.split("."), strict=True))
    value = float(ds["patched"].sel({axis: int(at) for axis, at in place.items() if at != "-"}))
    code = page.button_group(key="side_cell").set_value("Python").run()
    variables: dict[str, object] = {}
    exec(shown(code, "cell").code[0].value, variables)
    table = variables["table"]
    assert isinstance(table, pd.DataFrame)
    assert table["logit_difference"][2] == pytest.approx(value, abs=1e-4)
    assert table["logit_difference"][0] == pytest.approx(float(ds["clean"]), abs=1e-4)
    assert f"gives {value:+.5f}"[:-3] in texts(code)
    assert ": the same." in texts(code)


@pytest.mark.parametrize("query", [{}, {"patching__site": "q", "patching__direction": "noising"}])
def test_every_figure_can_be_repeated(query):
    assert check_figures(lab(**query), tolerance=1e-4) == ["patching", "cell", "checks"]


def test_what_must_hold_holds_and_is_shown(model):
    page = lab()
    table = shown(page, "checks").dataframe[0].value
    ds = swept(model, "resid_pre")
    assert table["expected"].tolist() == pytest.approx(
        [float(ds["corrupted"]), float(ds["clean"]), float(ds["clean"])], abs=1e-4
    )
    np.testing.assert_allclose(table["measured"], table["expected"], atol=1e-4)
    assert "All of these hold" in texts(page)
    assert "cells before it have an effect of exactly 0." in texts(page)
    assert "no cells before the difference" in texts(lab(patching__site="z"))


def test_templates_set_both_prompts_and_the_answers():
    page = lab(wrong="", patching__corrupted="")
    assert figures(page) == []
    assert page.info[0].value.startswith("Write the prompt above")
    ended(page.button(key="patching_swap").click().run())
    assert page.text_input(key="patching_corrupted").value == SEED_TEXT.replace("black", "white")
    assert page.text_input(key="wrong").value == " white"
    ended(page.button(key="patching_ioi").click().run())
    first = page.text_area(key="text_box").value
    corrupted = page.text_input(key="patching_corrupted").value
    answer, wrong = (page.text_input(key=name).value for name in ("target", "wrong"))
    assert first.endswith(" to")
    assert corrupted.count(answer.strip()) == first.count(answer.strip()) + 1 == 2
    assert first.count(wrong.strip()) == 2
    assert figures(page) == ["patching", "cell", "checks"]
    ended(page.button(key="patching_ioi").click().run())
    assert page.text_area(key="text_box").value != first


def test_a_prompt_with_two_colours_exchanges_the_answers(model):
    text = "I have a black cat and a red car. The car is"
    answers = model.to_single_token(" red"), model.to_single_token(" black")
    pair = patching.colour_swap(model, text, answers)
    assert pair is not None
    assert (pair.corrupted, pair.answer) == ("I have a red cat and a black car. The car is", " red")
    assert patching.colour_swap(model, "Mary went to", answers) is None
    page = opened("patching", text="Mary and John went to")
    assert page.button(key="patching_swap").disabled


@pytest.mark.parametrize(
    ("corrupted", "says"),
    [
        (f"Oh, {RED}", "Pair 0 has 20 clean and 2"),
        (SEED_TEXT, "Pair 0 does not differ"),
        ("the " * 400, "at most 256"),
        ("x", "Pair 0 has 20 clean and 2 corrupted tokens"),
    ],
)
def test_prompts_that_cannot_be_patched_say_so_in_a_sentence(corrupted, says):
    page = lab()
    page.text_input(key="patching_corrupted").set_value(corrupted).run()
    assert not page.exception
    assert len(page.error) == 1
    assert any(says in code.value for code in page.code)
    assert "patching" not in figures(page)


def test_text_of_a_prompt_is_never_markup():
    text = f"a {' '.join(HOSTILE)} cat black"
    page = ended(opened("patching", text=text, patching__corrupted=text.replace("black", "brown")))
    assert problems(page) == [] or "cannot be patched" in problems(page)[0]
    told = [*(element.value for element in page.caption), *(b.label for b in page.button)]
    prose = re.sub(r"(`+).*?\1", "", texts(page))
    assert not any(token in line for token in HOSTILE[1:] for line in (*told, prose))


@pytest.mark.parametrize(
    "query",
    [
        {"text": " black", "bos": "0", "patching__corrupted": " red"},
        {"patching__site": "nowhere", "patching__direction": "up", "patching__seed": "x"},
        {"query": "0", "key": "9"},
        {"target": " cat", "wrong": " cat"},
    ],
)
def test_odd_links_open(query):
    assert "patching" in figures(lab(**query))


def answers_without_a_gap(model: HookedGPT2) -> tuple[str, str]:
    """Two words whose logit difference is the same in both runs."""
    clean, corrupted = (model(text)[0, -1].double() for text in (SEED_TEXT, RED))
    pieces = [model.tokenizer.piece(i) for i in range(len(model.tokenizer))]
    words = [i for i, piece in enumerate(pieces) if piece[:1] == " " and piece[1:].isalpha()]
    change = (clean - corrupted)[words]
    differs = (change[:, None] - change).abs()
    size = (clean[words][:, None] - clean[words]).abs()
    first, second = divmod(int((differs / size).nan_to_num(1).argmin()), len(words))
    return pieces[words[first]], pieces[words[second]]


def test_a_fraction_without_a_gap_gives_the_effect_and_says_why(model):
    target, wrong = answers_without_a_gap(model)
    page = lab(patching__shown="recovered_fraction", target=target, wrong=wrong)
    assert figures(page) == ["patching", "cell", "checks"]
    assert any("The effect is shown instead." in code.value for code in page.code)
    assert "Effect of patching" in texts(page)
    assert "Recovered fraction:" not in texts(page)
    assert check_figures(page, tolerance=1e-4) == ["patching", "cell", "checks"]


def test_a_model_without_a_tokenizer_is_patched_by_ids(model, tmp_path: Path):
    folder = without_tokenizer(model, tmp_path)
    page = ended(opened("patching", model=str(folder), text="5 6 7", patching__corrupted="5 9 7"))
    assert check_figures(page, tolerance=1e-4) == ["patching", "cell", "checks"]


def without_tokenizer(model: HookedGPT2, folder: Path) -> Path:
    other = HookedGPT2(model.cfg, tokenizer=None)
    other.load_state_dict(model.state_dict())
    interp.save_huggingface(other, folder / "ids")
    return folder / "ids"


def test_long_work_shows_its_cost_and_keeps_what_was_finished_when_stopped(model):
    words = " ".join(["the cat and"] * 60)
    query = {
        "text": f" black {words}", "patching__corrupted": f" red {words}", "target": " cat",
        "patching__site": "z", "patching__alone": "1", "wrong": " red",
    }  # fmt: skip
    page = opened("patching", **query)
    n = len(model.to_tokens(query["text"])[0])
    assert figures(page) == []
    assert f"{16 * n:,} cells" in texts(page)
    assert f"{16 * n + 2:,} runs" in texts(page)
    page.button(key="start_patching").click().run()
    if not [b for b in page.button if b.key == "stop_patching"]:
        pytest.skip("this machine ended the sweep before it could be stopped")
    page.button(key="stop_patching").click().run()
    end = time.monotonic() + 30
    while page.warning == [] and time.monotonic() < end:
        time.sleep(0.2)
        page.run()
    assert page.warning[0].value.startswith("Stopped")
    assert "Stopped early" in texts(page)
    values = grid(page, "patching_grid")["values"]
    assert np.isnan(values).any()
    assert problems(page) == []


def test_a_sweep_that_finished_nothing_says_so(model):
    tokens, other = (tuple(model.to_tokens(text)[0].tolist()) for text in (SEED_TEXT, RED))
    found = patching.sweep(
        model, tokens, other, "resid_pre", "denoising", False, (5, 9),
        progress=lambda steps, _: steps[:0],
    )  # fmt: skip
    assert found.n_finished < found.n_cells
    focus = lab_focus(model, tokens)
    assert readings.sweep(found, "resid_pre", focus)[0].startswith("Stopped early: ")


def lab_focus(model: HookedGPT2, tokens: tuple[int, ...]):
    from dashboards.focus import Focus

    pieces = tuple(model.to_str_tokens(list(tokens)))
    loaded = service().loaded(service().first_model)
    return Focus(loaded, SEED_TEXT, True, tokens, pieces, 1, 0, 0, 0, 5, 9)


def test_readings_say_when_no_cell_matters(model):
    tokens, other = (tuple(model.to_tokens(text)[0].tolist()) for text in (SEED_TEXT, RED))
    found = patching.sweep(
        model, tokens, other, "resid_pre", "noising", False, (5, 9), progress=no_progress
    )
    small = found._replace(cells=found.cells * 1e-6)
    focus = lab_focus(model, tokens)
    assert "No single cell matters" in readings.sweep(small, "z", focus)[0]
    assert "leans on what the clean run has" in readings.sweep(found, "z", focus)[1]
    assert "try z or mlp_out" in readings.sweep(found, "resid_pre", focus)[1]


def test_readings_say_when_a_check_fails():
    table = pd.DataFrame({"largest_difference": [0.0, 0.2]})
    assert "do not trust" in readings.checks(table, 0.0, 3)[0]
    plain = pd.DataFrame({"run": ["clean", "corrupted", "patched"], "logit_difference": [1, 0, 9]})
    model = service().loaded(service().first_model).model
    tokens, other = (tuple(model.to_tokens(text)[0].tolist()) for text in (SEED_TEXT, RED))
    found = patching.sweep(
        model, tokens, other, "resid_pre", "denoising", False, (5, 9), progress=no_progress
    )
    says = readings.cell(found, plain, "resid_pre", Place(1, None, 5), lab_focus(model, tokens))
    assert "not the same, which is a bug" in says[1]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.2, "a moment"), (12.4, "12 s"), (600.0, "10 minutes")]
)
def test_cost_is_said_as_people_say_it(seconds, said):
    assert f"about {said}" in readings.cost(Cost(98, 100, seconds / 100))


def test_every_site_has_words(model):
    assert set(readings.SITE) == set(SITES)
    assert patching.cost(model, (0, 5, 6), "z", True)[:2] == (48, 50)
    assert patching.cost(model, (0, 5, 6), "pattern", False).n_cells == 16
    assert patching.cost(model, (0, 5, 6), "mlp_out", False).n_cells == 12
    assert torch.is_grad_enabled()
