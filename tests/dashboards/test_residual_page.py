"""The page of the residual stream: its numbers are the library's, and follow the selection."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from streamlit.testing.v1 import AppTest

import interp
from dashboards.focus import Focus, focus
from dashboards.measurements import residual
from dashboards.readings import residual as readings
from dashboards.state import SEED_TEXT, Selection
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import EMBEDDED
from interp.model.saving import save_huggingface
from interp.model.tokens import visible
from tests.dashboards.pages import check_figures, grid, opened, problems, shown, texts

LAST, MIDDLE = 19, 5
HOSTILE = "</script> $x$ **b** :red[x] `a` ``` ﷽ \u200b🦊 <b>"


@pytest.fixture(scope="module")
def model() -> interp.HookedGPT2:
    return interp.load()


@pytest.fixture(scope="module")
def ids(model: interp.HookedGPT2) -> list[int]:
    return [model.to_single_token(word) for word in (" black", " white")]


@pytest.fixture(scope="module")
def lens(model: interp.HookedGPT2, ids: list[int]) -> xr.Dataset:
    tokens = model.to_tokens(SEED_TEXT)
    return interp.logit_lens.logit_lens(model, tokens, ids[0], n_top=10).isel(example=0)


def seen(**chosen: object) -> Focus:
    """What a page shows numbers of."""
    return focus(Selection(EMBEDDED, **chosen))  # pyright: ignore[reportArgumentType]


def chart(page: AppTest, figure: str) -> dict[str, Any]:
    """The drawn chart of a figure."""
    return json.loads(shown(page, figure).get("vega_lite_chart")[0].proto.spec)


@pytest.mark.parametrize(
    ("colour", "scheme"),
    [("prob", "amount"), ("answer_prob", "amount"), ("answer_rank", "rank"), ("kl", "amount")],
)
def test_the_grid_holds_the_lens(lens: xr.Dataset, colour: str, scheme: str) -> None:
    data = grid(opened("residual", residual__colour=colour, query="13", layer="2"), "lens_grid")
    expected = lens[colour].isel(rank=0) if colour == "prob" else lens[colour]
    np.testing.assert_allclose(data["values"], expected.values, rtol=1e-4, atol=1e-6)
    assert data["rows"] == lens["layer"].values.tolist()
    words = lens["token"].isel(rank=0).values
    assert data["words"] == [[visible(word) for word in row] for row in words]
    assert data["marked"] == [6, 13]  # L2 post
    assert data["scheme"] == scheme


def test_the_final_words_rank_is_of_each_positions_own_word(model: interp.HookedGPT2) -> None:
    page = opened("residual", residual__colour="final_rank")
    ds = interp.logit_lens.logit_lens(model, model.to_tokens(SEED_TEXT)).isel(example=0)
    data = grid(page, "lens_grid")
    assert (data["values"] == ds["answer_rank"].values).all()
    assert (data["values"][-1] == 1).all()
    assert "the final word `·darker` ranks first from" in texts(page)


@pytest.mark.parametrize(
    ("layer", "place", "row"),
    [("0", "pre", 0), ("2", "pre", 4), ("2", "mid", 5), ("2", "post", 6), ("2", "nowhere", 6)],
)
def test_the_chosen_cell_is_marked_and_read(
    lens: xr.Dataset, layer: str, place: str, row: int
) -> None:
    page = opened("residual", layer=layer, residual__place=place, query=str(LAST))
    assert grid(page, "lens_grid")["marked"] == [row, LAST]
    table = shown(page, "top_tokens").dataframe[0].value
    here = lens.isel(layer=row, pos=LAST)
    assert table["token"].tolist() == [visible(token) for token in here["token"].values]
    np.testing.assert_allclose(table["prob"], here["prob"], rtol=1e-4)


def test_a_click_moves_the_whole_selection() -> None:
    def click() -> None:
        from dashboards import state
        from dashboards.views.residual import choose_cell

        state.begin()
        choose_cell("L2 mid", 7, 3)
        state.write_url()

    page = AppTest.from_function(click).run()
    assert not page.exception
    assert dict(page.query_params) == {
        "layer": "2",
        "head": "3",
        "query": "7",
        "residual.place": "mid",
    }


def test_the_answers_are_followed_over_depth(
    model: interp.HookedGPT2, ids: list[int], lens: xr.Dataset
) -> None:
    page = opened("residual", query=str(LAST))
    spec = chart(page, "trajectory")
    assert spec["encoding"]["x"]["sort"] is None
    here = (residual.at_position(model, seen().tokens, token, LAST, 3) for token in ids)
    table = residual.trajectory(*here)
    answer = table[table["which"] == "answer"]
    np.testing.assert_allclose(answer["prob"], lens["answer_prob"].sel(pos=LAST), rtol=1e-4)
    assert answer["rank"].tolist() == lens["answer_rank"].sel(pos=LAST).values.tolist()
    assert table[table["which"] == "wrong answer"]["rank"].iloc[-1] > 1
    assert "`·black` is ahead of `·white` from L1 post on" in texts(page)


def test_ranks_are_followed_on_a_logarithmic_axis() -> None:
    page = opened("residual", residual__follow="rank")
    spec = chart(page, "trajectory")
    assert spec["encoding"]["y"]["scale"]["type"] == "log"


def test_what_a_block_wrote_is_read_as_words(model: interp.HookedGPT2, ids: list[int]) -> None:
    page = opened("residual", layer="3", query=str(LAST))
    ds = interp.logit_lens.component_lens(
        model, model.to_tokens(SEED_TEXT), ids[0], n_top=10, positions=[LAST]
    ).isel(example=0, pos=0)
    tables = [frame.value for frame in shown(page, "written").dataframe]
    for part, table in zip(("L3 attn_out", "L3 mlp_out"), tables, strict=True):
        here = ds.sel(component=part)
        assert table["token"].tolist() == [visible(token) for token in here["token"].values]
        np.testing.assert_allclose(table["lowest_logit"], here["lowest_logit"], rtol=1e-4)
    answer = float(ds["answer_logit"].sel(component="L3 mlp_out"))
    assert f"`·black` gets {answer:+.2f}" in texts(page)


@pytest.mark.parametrize(("name", "scheme"), [("written", "amount"), ("cosine", "signed")])
def test_lengths_and_directions_are_the_librarys(
    model: interp.HookedGPT2, ids: list[int], name: str, scheme: str
) -> None:
    data = grid(opened("residual", residual__geometry=name), "geometry_grid")
    metric = interp.metrics.logit_diff(*ids)
    ds = interp.residual_stream.geometry(model, model.to_tokens(SEED_TEXT), metric)
    np.testing.assert_allclose(data["values"], ds[name].isel(example=0), rtol=1e-4, atol=1e-5)
    assert data["scheme"] == scheme


def test_the_first_token_can_be_hidden() -> None:
    values = grid(opened("residual", residual__hide_first="1"), "geometry_grid")["values"]
    assert np.isnan(values[:, 0]).all()
    assert np.isfinite(values[:, 1:]).all()


def test_depths_are_compared(model: interp.HookedGPT2) -> None:
    page = opened("residual", residual__below="similarity", query="4")
    da = interp.residual_stream.similarity(model, model.to_tokens(SEED_TEXT), positions=[4])
    values = grid(page, "similarity_grid")["values"]
    np.testing.assert_allclose(values, da.isel(pos=0, example=0), rtol=1e-4, atol=1e-5)


def test_every_figure_is_reproduced_by_its_python() -> None:
    page = opened("residual", query="14", layer="2", residual__place="mid")
    assert check_figures(page) == ["lens", "top_tokens", "trajectory", "written", "geometry"]


def test_the_figures_of_the_other_views_are_too() -> None:
    page = opened(
        "residual", residual__below="similarity", residual__follow="lens",
        residual__colour="final_rank",
    )  # fmt: skip
    found = check_figures(page)
    assert found == ["lens", "top_tokens", "difference", "written", "similarity"]


def test_a_long_prompt_is_shown_around_the_query(model: interp.HookedGPT2) -> None:
    page = opened("residual", text=" cat" * 199, query="70")
    data = grid(page, "lens_grid")
    assert data["columns"][0] == "48 ·cat"
    assert len(data["columns"]) == 24
    assert data["marked"][1] == 22
    assert ", positions 48 to 71 of 200" in texts(page)
    assert len(grid(page, "geometry_grid")["columns"]) == 200
    page.button(key="go_to_end").click().run()
    assert grid(page, "lens_grid")["columns"][-1] == "199 ·cat"
    assert page.query_params["query"] == "199"


def test_a_prompt_of_one_token_has_a_page() -> None:
    page = opened("residual", text=" cat", bos="0")
    assert grid(page, "lens_grid")["columns"] == ["0 ·cat"]


def test_wrong_options_fall_back() -> None:
    page = opened("residual", residual__colour="x", residual__geometry="y", residual__below="z")
    assert grid(page, "geometry_grid")["scheme"] == "amount"


@pytest.mark.parametrize("n_classes", [None, 2])
def test_models_without_words_have_a_page(tmp_path: Path, n_classes: int | None) -> None:
    cfg = ModelConfig(
        n_layers=1, n_heads=2, d_model=16, d_mlp=16, d_vocab=30, n_ctx=16, n_classes=n_classes
    )
    save_huggingface(HookedGPT2(cfg), tmp_path / "model")
    page = opened("residual", model=str(tmp_path / "model"), text="3 1 4 1 5")
    assert len(shown(page, "top_tokens").dataframe[0].value) == (n_classes or 10)
    assert len(check_figures(page, only=["lens", "written"])) == 2


@pytest.mark.parametrize("below", ["geometry", "similarity"])
def test_any_text_can_be_shown(below: str) -> None:
    page = opened("residual", text=HOSTILE, residual__below=below)
    assert problems(page) == []


def test_the_reading_says_where_the_answer_settles() -> None:
    chosen = seen(query=LAST)
    pieces = {"pos": LAST, "layer": ["L0 pre", "L0 mid", "L0 post"], "token": [" a", " b", " c"]}
    table = pd.DataFrame({**pieces, "prob": 0.5, "answer_prob": [0.1, 0.2, 0.875]})
    for ranks, says in {
        (1, 1, 1): "ranks first at every depth",
        (1, 4, 1): "ranks first from L0 post on, and ends at probability 0.875",
        (9, 1, 2): "its best rank is 1, at L0 mid; the model says `·c` (0.500)",
    }.items():
        text = readings.lens(table.assign(answer_rank=ranks), chosen, own=False)[0]
        assert says in text
        assert "the answer `·black`" in text
        assert "is asked for at the end" not in text
    elsewhere = readings.lens(
        table.assign(pos=MIDDLE, answer_rank=3), seen(query=MIDDLE), own=False
    )
    assert "The answer is asked for at the end of the prompt, position 19" in elsewhere[0]
    own = readings.lens(table.assign(answer_rank=1), chosen, own=True)[0]
    assert "the final word `·c` ranks first at every depth" in own


def test_the_reading_of_the_answers_says_who_wins_and_where_it_rises() -> None:
    chosen = seen(query=LAST)
    both = {"layer": ["L0 pre", "L0 mid", "L0 post"] * 2}
    both["which"] = ["answer"] * 3 + ["wrong answer"] * 3
    table = pd.DataFrame({**both, "prob": [0.1, 0.2, 0.7, 0, 0, 0], "rank": [5, 5, 1, 4, 6, 2]})
    text = readings.trajectory(table, chosen)[0]
    assert "`·black` is ahead of `·white` from L0 mid on" in text
    assert "rises most at L0 post, by 0.500" in text
    falling = table.assign(prob=[0.3, 0.2, 0.1, 0, 0, 0], rank=[1, 1, 7, 2, 2, 2])
    text = readings.trajectory(falling, chosen)[0]
    assert "`·black` ends behind `·white`, at rank 7" in text
    assert "never rises" in text


def test_the_reading_tells_of_a_first_token_that_is_long() -> None:
    table = pd.DataFrame(
        {"pos": [0, 1], "layer": "L0 post", "norm": [3000.0, 60.0], "written": [5.0, 5.0]}
    )
    assert (
        "At the first token it reaches 3000" in readings.geometry(table, "norm", seen(query=1))[0]
    )
    assert "first token" not in readings.geometry(table, "written", seen(query=1))[0]


def test_the_reading_of_the_embeddings_says_that_nothing_is_computed_yet() -> None:
    table = pd.DataFrame({"token": [" is", " a"], "prob": [0.9, 0.05]})
    chosen = seen(query=LAST)
    assert "nothing has been computed yet" in readings.top_tokens(table, "L0 pre", chosen)[0]
    assert "computed" not in readings.top_tokens(table, "L1 post", chosen)[0]
    assert "share 0.050" in readings.top_tokens(table, "L1 post", chosen)[0]


def test_the_reading_names_the_sharpest_turn() -> None:
    names = ["L0 pre", "L0 mid", "L0 post"]
    cosines = {(0, 1): 0.2, (1, 2): 0.9, (0, 2): 0.1}
    rows = [
        (a, b, 1.0 if i == j else cosines[min(i, j), max(i, j)])
        for i, a in enumerate(names)
        for j, b in enumerate(names)
    ]
    table = pd.DataFrame(rows, columns=["layer", "other_layer", "cosine"])
    text = readings.similarity(table, seen())[0]
    assert "have cosine +0.10" in text
    assert "sharpest turn is at L0 mid (+0.20" in text
