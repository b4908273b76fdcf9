"""The attention explorer's numbers are the library's, and follow the selection."""

import numpy as np
import pytest

import interp
from dashboards import focus as focuses
from dashboards.measurements import costs
from dashboards.readings import attention as readings
from dashboards.state import SEED_TEXT
from tests.dashboards.pages import check_figures, figures, grid, opened, texts

CAT, BLACK = 13, 5


@pytest.fixture(scope="module")
def model() -> interp.HookedGPT2:
    return interp.load()


def pattern(model: interp.HookedGPT2, text: str = SEED_TEXT) -> np.ndarray:
    """Weights over (layer, head, query, key)."""
    _, cache = model.run_with_cache(model.to_tokens(text))
    return np.stack([cache["pattern", layer][0] for layer in range(model.cfg.n_layers)])


def test_the_map_holds_every_heads_weight_on_the_edge(model: interp.HookedGPT2) -> None:
    data = grid(opened("attention"), "head_map_grid")
    np.testing.assert_allclose(
        data["values"], pattern(model)[:, :, CAT, BLACK], rtol=1e-5, atol=1e-6
    )
    assert data["marked"] == [1, 2]


def test_the_map_follows_query_and_key(model: interp.HookedGPT2) -> None:
    data = grid(opened("attention", query="9", key="4"), "head_map_grid")
    np.testing.assert_allclose(data["values"], pattern(model)[:, :, 9, 4], rtol=1e-5, atol=1e-6)


def test_the_effect_map_holds_what_cutting_does(model: interp.HookedGPT2) -> None:
    data = grid(opened("attention", attention__measure="effect"), "head_map_grid")
    answers = [model.to_single_token(word) for word in (" black", " white")]
    metric = interp.metrics.logit_diff(*answers)
    cut = interp.attention.knockout(model, SEED_TEXT, [(1, 2, CAT, BLACK)], metric)
    assert data["values"][1, 2] == pytest.approx(cut.effect.item(), abs=1e-4)
    assert data["scheme"] == "signed"


def test_the_pattern_is_the_chosen_heads_and_hides_what_is_masked(
    model: interp.HookedGPT2,
) -> None:
    data = grid(opened("attention", layer="2", head="1"), "pattern_grid")
    expected = pattern(model)[2, 1]
    lower = np.tril(np.ones_like(expected, dtype=bool))
    np.testing.assert_allclose(data["values"][lower], expected[lower], rtol=1e-5, atol=1e-6)
    assert np.isnan(data["values"][~lower]).all()
    assert data["rows"][CAT] == "13 ·cat"


def test_the_first_token_can_be_hidden() -> None:
    page = opened("attention", attention__hide_first="1")
    assert np.isnan(grid(page, "pattern_grid")["values"][:, 0]).all()
    assert 0 not in page.dataframe[0].value["key"].tolist()


def test_edges_stand_beside_their_effects(model: interp.HookedGPT2) -> None:
    table = opened("attention").dataframe[0].value
    first = table.iloc[0]
    assert (first["query"], first["key"]) == (CAT, BLACK)
    assert first["weight"] == pytest.approx(pattern(model)[1, 2, CAT, BLACK], abs=1e-5)
    assert table["weight"].is_monotonic_decreasing
    assert first["effect"] == pytest.approx(-15.26, abs=0.01)


def test_every_figure_is_reproduced_by_its_python() -> None:
    assert check_figures(opened("attention")) == ["head_map", "pattern", "edges"]


def test_the_figures_of_another_view_are_too() -> None:
    page = opened(
        "attention", attention__below="all", attention__measure="entropy", bos="0", text="a$b `c`"
    )
    assert check_figures(page) == ["head_map", "pattern", "all_heads"]


def test_an_edge_behind_the_mask_is_explained() -> None:
    page = opened("attention", query="3", key="9")
    assert "causal mask" in texts(page)
    assert check_figures(page)[0] == "head_map"


@pytest.mark.parametrize("query", ["0", "1"])
def test_the_first_queries_have_a_page(query: str) -> None:
    assert check_figures(opened("attention", query=query, key="0")) != []


def test_a_prompt_of_one_token_has_a_page() -> None:
    assert check_figures(opened("attention", text="a", bos="0")) != []


def test_a_large_model_shows_weights_at_once_and_asks_before_it_cuts_everywhere(
    model: interp.HookedGPT2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "CHEAP", 0.0)
    page = opened("attention")
    assert check_figures(page, only=["head_map"]) == ["head_map"]
    said = texts(page)
    assert "L1H2 looks hardest from `·cat` to `·black`: weight 0.900" in said
    assert "Cutting this edge in L1H2, where its weight is 0.900" in said
    assert "-15.26 logits" in said
    page = opened("attention", attention__measure="effect")
    assert figures(page) == ["pattern", "edges"]
    page.button(key="start_edge_effects").click().run()
    page.run()
    answers = [model.to_single_token(word) for word in (" black", " white")]
    metric = interp.metrics.logit_diff(*answers)
    ds = interp.attention.edge_effects(model, SEED_TEXT, CAT, BLACK, metric)
    effects = ds["effect"].isel(example=0).values
    np.testing.assert_allclose(grid(page, "head_map_grid")["values"], effects, atol=1e-4)


def test_long_prompts_keep_no_pattern_of_all_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = opened("attention", query="9")
    monkeypatch.setattr(focuses, "KEPT_BYTES", 0)
    alone = opened("attention", query="9")
    for key in ("head_map_grid", "pattern_grid"):
        expected, measured = (grid(page, key)["values"] for page in (kept, alone))
        np.testing.assert_allclose(measured, expected, atol=1e-6)


def test_the_reading_names_the_head_that_matters() -> None:
    page = texts(opened("attention"))
    assert "L1H2 looks hardest from `·cat` to `·black`: weight 0.900" in page
    assert "matters most" in page


def test_the_reading_says_so_where_no_head_looks() -> None:
    assert "No head looks hard" in texts(opened("attention", query="18", key="3"))


def test_the_reading_tells_weight_from_effect(model: interp.HookedGPT2) -> None:
    ds = interp.attention.edge_effects(
        model, SEED_TEXT, CAT, BLACK, interp.metrics.logit_diff(1, 2)
    )
    table = ds.isel(example=0, drop=True).to_dataframe().reset_index()
    table.loc[table["weight"].idxmax(), "effect"] = 0.0
    table.loc[0, "effect"] = -5.0
    page = opened("attention")
    from dashboards.focus import focus

    seen = focus(page.session_state["selection"])
    assert "weight is not effect" in readings.edge(table, seen)[0]
