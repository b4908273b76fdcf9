"""The attribution page: its numbers are the library's, they add up, and they follow the choice."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.ipc
import pytest
import xarray as xr
from streamlit.testing.v1 import AppTest

import interp
from dashboards.focus import Focus, focus
from dashboards.measurements import attribution
from dashboards.readings import attribution as readings
from dashboards.state import SEED_TEXT, Selection
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.loading import EMBEDDED
from interp.model.saving import save_huggingface
from tests.dashboards.pages import check_figures, grid, opened, problems, shown, texts

FIGURES = ["heads", "sum_check", "largest", "parts", "positions", "neurons"]
HOSTILE = "</script> $x$ **b** :red[x] `a` ``` ﷽ \u200b🦊 <b>"


@pytest.fixture(scope="module")
def model() -> interp.HookedGPT2:
    return interp.load()


@pytest.fixture(scope="module")
def metric(model: interp.HookedGPT2) -> interp.metrics.Metric:
    return interp.metrics.logit_diff(
        *(model.to_single_token(word) for word in (" black", " white"))
    )


@pytest.fixture(scope="module")
def da(model: interp.HookedGPT2, metric: interp.metrics.Metric) -> xr.DataArray:
    return interp.logit_attribution.decompose(model, model.to_tokens(SEED_TEXT), metric)


def seen(**chosen: object) -> Focus:
    """What a page shows numbers of."""
    return focus(Selection(EMBEDDED, **chosen))  # pyright: ignore[reportArgumentType]


def drawn(page: AppTest, figure: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """The chart of a figure, and the rows that it draws."""
    chart = shown(page, figure).get("vega_lite_chart")[0].proto
    data = chart.datasets[0].data.data if chart.datasets else chart.data.data
    return json.loads(chart.spec), pyarrow.ipc.open_stream(data).read_pandas()


def test_the_grid_holds_what_every_head_adds(da: xr.DataArray) -> None:
    page = opened("attribution", layer="3", head="1")
    data = grid(page, "contribution_grid")
    heads = da.sel(component=da.kind == "head").sum("pos").isel(example=0).values
    np.testing.assert_allclose(data["values"], heads.reshape(4, 4), rtol=1e-5, atol=1e-6)
    assert data["scheme"] == "signed"
    assert data["marked"] == [3, 1]
    assert "L3H1 adds +2.53, place 1 of 16 by size" in texts(page)


def test_the_sum_is_checked_against_a_plain_run(
    model: interp.HookedGPT2, metric: interp.metrics.Metric
) -> None:
    page = opened("attribution")
    total, own, gap = shown(page, "sum_check").dataframe[0].value["logits"]
    plain = float(metric(model(model.to_tokens(SEED_TEXT))))
    assert own == pytest.approx(plain, abs=1e-5)
    assert total == pytest.approx(plain, abs=1e-4)
    assert gap == total - own
    assert "is rounding" in texts(page)


def test_the_residue_is_no_part_of_the_sum(da: xr.DataArray) -> None:
    broken = da.copy(deep=True)
    broken[-1, -1, 0] += 5.0
    before, after = (attribution.sum_check(x, 17.0)["logits"] for x in (da, broken))
    assert before.tolist() == after.tolist()


def test_parts_sum_to_the_logit_difference(da: xr.DataArray) -> None:
    table = attribution.parts(da)
    assert table["contribution"].sum() == pytest.approx(float(da.sum()))
    assert table["part"].tolist()[:4] == ["embed", "pos_embed", "L0 heads", "L0 MLP"]
    assert table["part"].tolist()[-1] == "residue"


def test_components_come_largest_first(da: xr.DataArray) -> None:
    table = attribution.components(da)
    sizes = table["contribution"].abs().tolist()
    assert sizes == sorted(sizes, reverse=True)
    assert len(table) == da.sizes["component"]
    assert table.iloc[0]["component"] == "L3 MLP"


@pytest.mark.parametrize(
    ("of", "title", "selected"),
    [
        ("head", "L2H3: what", lambda da: da.sel(component=["L2H3"])),
        ("heads", "All heads: what", lambda da: da.sel(component=da.kind == "head")),
        ("all", "Everything: what", lambda da: da),
    ],
)
def test_positions_are_of_what_is_chosen(da: xr.DataArray, of: str, title: str, selected) -> None:
    page = opened("attribution", layer="2", head="3", attribution__of=of)
    assert title in texts(page)
    table = shown(check(page, "positions"), "positions").dataframe[0].value
    expected = selected(da).sum("component").isel(example=0)
    np.testing.assert_allclose(table["contribution"], expected.values, rtol=1e-5, atol=1e-6)
    assert table["token"].tolist() == expected["token"].values.tolist()


def check(page: AppTest, figure: str) -> AppTest:
    """The page after a check of one figure's Python, with its table turned up."""
    assert check_figures(page, only=[figure]) == [figure]
    return page.button_group(key=f"side_{figure}").set_value("Table").run()


def test_neurons_are_the_strongest_of_the_chosen_layer(
    model: interp.HookedGPT2, metric: interp.metrics.Metric
) -> None:
    page = check(opened("attribution", layer="3"), "neurons")
    found = interp.logit_attribution.neurons(model, model.to_tokens(SEED_TEXT), metric)
    values = found.sel(layer=3).isel(example=0).to_series().sort_values(ascending=False)
    table = shown(page, "neurons").dataframe[0].value
    assert table["neuron"].tolist() == [*values.index[:10], *values.index[-10:]]
    np.testing.assert_allclose(table["contribution"], values.loc[table["neuron"]], rtol=1e-4)
    activation = found.activation.sel(layer=3, neuron=table["neuron"].iloc[0]).item()
    assert table["activation"].iloc[0] == pytest.approx(activation, rel=1e-4)


def test_every_figure_is_reproduced_by_its_python() -> None:
    assert check_figures(opened("attribution")) == FIGURES


def test_bars_are_drawn_for_each_token_and_the_title_is_written_once() -> None:
    page = opened("attribution", text=" cat" * 60, attribution__of="heads")
    spec, rows = drawn(page, "positions")
    assert not spec.get("title")
    assert len(rows) == 41
    assert rows["token"].iloc[-1] == "21 others"


def test_a_head_is_chosen_by_a_click_and_linked_to_its_page() -> None:
    def click() -> None:
        from dashboards import state
        from dashboards.views.attribution import choose_head

        state.begin()
        choose_head(2, 3)
        state.write_url()

    assert dict(AppTest.from_function(click).run().query_params) == {"layer": "2", "head": "3"}
    page = opened("attribution", layer="2", head="3")
    links = [link.proto for link in page.get("page_link")]
    assert [(link.page, link.label) for link in links] == [("head", "What L2H3 does in general")]


@pytest.mark.parametrize("n_classes", [None, 2])
def test_models_without_words_have_a_page(tmp_path: Path, n_classes: int | None) -> None:
    cfg = ModelConfig(
        n_layers=1, n_heads=2, d_model=16, d_mlp=16, d_vocab=30, n_ctx=16, n_classes=n_classes
    )
    save_huggingface(HookedGPT2(cfg), tmp_path / "model")
    page = opened("attribution", model=str(tmp_path / "model"), text="3 1 4 1 5")
    assert check_figures(page, only=["sum_check", "neurons"]) == ["sum_check", "neurons"]


@pytest.mark.parametrize("text", [" cat", HOSTILE])
def test_any_text_can_be_shown(text: str) -> None:
    page = opened("attribution", text=text, bos="0", attribution__of="nothing")
    assert problems(page) == []
    assert "place" in texts(page)


HEADS = pd.DataFrame(
    {"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "contribution": [0.5, -0.25, 3.0, -1.0]}
)


def test_the_reading_of_heads_names_both_ends_and_the_chosen_one() -> None:
    text = readings.heads(HEADS, 4.5, seen(layer=1, head=1))[0]
    assert "All heads together add +2.25 (50%) of the logit difference of +4.50" in text
    assert "The largest sum is layer 1's, +2.00" in text
    assert "favouring the answer: L1H0 +3.00, L0H0 +0.50;" in text
    assert "favouring the wrong answer: L1H1 -1.00, L0H1 -0.25" in text
    assert "L1H1 adds -1.00, place 2 of 4" in text


def test_no_share_is_given_of_what_is_left_of_opposites() -> None:
    text = readings.heads(HEADS, 0.01, seen(layer=0, head=0))[0]
    assert "add +2.25 of the logit difference of +0.01" in text
    one_sided = HEADS.assign(contribution=[1.0, 2.0, 3.0, 4.0])
    assert "none is against it" in readings.heads(one_sided, 9.0, seen(layer=0, head=0))[0]
    against = HEADS.assign(contribution=[-1.0, -2.0, -3.0, -4.0])
    assert "none favours the answer" in readings.heads(against, -9.0, seen(layer=0, head=0))[0]


def test_the_reading_of_parts_weighs_mlps_against_heads() -> None:
    table = pd.DataFrame(
        {"part": ["embed", "L0 heads", "L0 MLP", "L1 MLP"], "contribution": [-1.0, 2.0, 6.0, 1.0]}
    )
    text = readings.parts(table, seen())[0]
    assert "Of +8.00 logits for `·black` over `·white`, L0 MLP adds +6.00 (75%)" in text
    assert "all MLPs +7.00, all heads +2.00" in text
    assert "pull the other way sum to -1.00" in text
    turned = readings.parts(table.assign(contribution=-table["contribution"]), seen())[0]
    assert "pull the other way sum to +1.00" in turned


def test_a_sum_that_does_not_hold_is_said() -> None:
    names = ["sum of the parts", "own", "gap"]
    holds = pd.DataFrame({"number": names, "logits": [17.0, 17.00001, -0.00001]})
    assert "is rounding" in readings.sum_check(holds)[0]
    broken = pd.DataFrame({"number": names, "logits": [17.0, 16.0, 1.0]})
    assert "The sum does not hold" in readings.sum_check(broken)[0]


def test_the_reading_of_positions_names_the_token() -> None:
    table = pd.DataFrame({"pos": [0, 1], "token": ["I", "`$x$`"], "contribution": [0.5, 1.5]})
    text = readings.positions(table, "L1H2")[0]
    assert "L1H2: +1.50 (75%) of +2.00 comes from `` `$x$` `` (position 1)" in text
    assert "the last one" in readings.positions(table, "Everything")[0]


def test_the_reading_of_the_largest_counts_what_holds_half() -> None:
    table = pd.DataFrame({"component": list("abcd"), "contribution": [4.0, -3.0, 2.0, 1.0]})
    text = readings.largest(table, 3)[0]
    assert "a adds most, +4.00" in text
    assert "the first 2 parts hold half" in text
    assert "by 4 parts; 1 small ones share one bar" in text
    assert "tells" in readings.largest(table.assign(contribution=0.0), 3)[0]


def test_the_reading_of_neurons_tells_few_from_many() -> None:
    every = pd.DataFrame(
        {"neuron": [0, 1, 2], "activation": [1.0, 0.5, 2.0], "contribution": [0.5, -3.0, 0.5]}
    )
    text = readings.neurons(every, every.iloc[[1]], 2)[0]
    assert "Neuron 1 has the largest part, -3.00 at activation 0.50" in text
    assert "hold 75% of all" in text
    assert "few neurons" in text
    assert "spread over many" in readings.neurons(every, every.iloc[[0]], 2)[0]
    assert "No neuron" in readings.neurons(every.assign(contribution=0.0), every, 2)[0]
