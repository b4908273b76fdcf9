"""The first page: one result, checked, and doors to the rest."""

import pytest

import interp
from dashboards.focus import focus
from dashboards.readings.start import cut_edge
from dashboards.state import SEED_TEXT, Selection
from tests.dashboards.pages import check_figures, opened, shown, side, texts


def test_the_first_result_is_the_librarys() -> None:
    page = opened("start")
    table = shown(side(page, "first_result", "Table"), "first_result").dataframe[0].value
    model = interp.load()
    answers = [model.to_single_token(word) for word in (" black", " white")]
    metric = interp.metrics.logit_diff(*answers)
    cut = interp.attention.knockout(model, SEED_TEXT, [(1, 2, 13, 5)], metric)
    assert table["logit_diff"][:2].tolist() == pytest.approx(
        [cut.original.item(), cut.cut.item()], abs=1e-4
    )
    clean = model(model.to_tokens(SEED_TEXT), positions="last")[0, -1].softmax(dim=-1)
    assert table["probability"][0] == pytest.approx(float(clean[answers[0]]), abs=1e-5)
    assert "88% of the logit difference" in texts(page)


def test_its_python_gives_its_table() -> None:
    assert check_figures(opened("start")) == ["first_result"]
    assert check_figures(opened("start", layer="0", head="1", query="9", key="0")) != []


@pytest.mark.parametrize(("query", "key"), [("0", "0"), ("3", "9")])
def test_an_edge_that_cannot_be_cut_is_no_error(query: str, key: str) -> None:
    page = opened("start", query=query, key=key)
    assert "before the query" in page.info[0].value


@pytest.mark.parametrize(
    ("differences", "says"),
    [
        ([10.0, 2.0, 1.0], "takes 80% of the logit difference"),
        ([10.0, 9.9, 1.0], "other heads carry the same information"),
        ([10.0, 9.9, 9.8], "no sign that the answer depends"),
        ([-1.0, 9.9, 9.8], "does not prefer `·black`"),
    ],
)
def test_the_reading_follows_the_numbers(differences: list[float], says: str) -> None:
    import pandas as pd

    table = pd.DataFrame({"logit_diff": differences, "probability": [0.9, 0.1, 0.1]})
    assert says in cut_edge(table, 0.9, focus(Selection("tiny")))[0]
