"""The ablation lab's numbers are the library's, and its words follow from them."""

import re
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import interp
from dashboards.focus import Focus, focus
from dashboards.measurements import ablation as measurements
from dashboards.measurements import costs
from dashboards.readings import ablation as readings
from dashboards.state import SEED_TEXT
from interp import ablation, metrics
from interp.model.config import ModelConfig
from interp.model.saving import save_huggingface
from tests.dashboards.pages import check_figures, figures, grid, opened, shown, side, texts

FIGURES = ["singles", "measures", "interplay", "next_tokens"]
CHOSEN = [(0, "mlp"), (1, 2), (3, 1)]
TOLERANCE = 1e-3
HOSTILE = "</script> $x$ **b** :red[x] `a` ``` \u200b \u202e א 🐈"


@pytest.fixture(scope="module")
def model() -> interp.HookedGPT2:
    return interp.load()


@pytest.fixture
def seen() -> Focus:
    """What the page of the first prompt is about."""
    return focus(opened("ablation").session_state["selection"])


def table(page: AppTest, figure: str) -> pd.DataFrame:
    return shown(page, figure).dataframe[0].value


def options(model: interp.HookedGPT2, kind: str, seed: int = 0) -> dict:
    """What the library is given for a kind of ablation on the first prompt."""
    if kind == "zero":
        return {}
    return {"reference": interp.prompts.other_sentences(model, 15, 20, seed=seed), "seed": seed}


def metric(model: interp.HookedGPT2) -> metrics.Metric:
    return metrics.logit_diff(*map(model.to_single_token, (" black", " white")))


@pytest.mark.parametrize(
    ("kind", "seed"), [("zero", 0), ("mean", 0), ("positional mean", 2), ("resample", 1)]
)
def test_before_and_after_are_those_of_the_ablation(
    model: interp.HookedGPT2, kind: str, seed: int
) -> None:
    page = opened(
        "ablation", ablation__chosen="L0MLP,L1H2,L3H1", ablation__kind=kind,
        ablation__seed=str(seed),
    )  # fmt: skip
    measured = ablation.ablate_together(
        model, SEED_TEXT, {"all": CHOSEN}, metric(model), kind, **options(model, kind, seed)
    )
    own = table(page, "measures").set_index("measure").loc["logit difference"]
    assert own["before"] == pytest.approx(measured["original"].item(), abs=TOLERANCE)
    assert own["change"] == pytest.approx(measured["effect"].item(), abs=TOLERANCE)
    assert own["after"] == pytest.approx(measured["ablated"].item(), abs=TOLERANCE)
    hooks = ablation.replacing_hooks(model, SEED_TEXT, CHOSEN, kind, **options(model, kind, seed))
    after = interp.predictions.predictions(model, SEED_TEXT, fwd_hooks=hooks)
    tokens = table(page, "next_tokens").sort_values("rank_after")
    np.testing.assert_allclose(tokens["after"][:10], after["prob"].values, atol=1e-5)
    assert tokens["rank_after"].tolist()[:10] == list(range(1, 11))


def test_the_loss_and_the_probability_are_the_models(model: interp.HookedGPT2) -> None:
    own = table(opened("ablation"), "measures").set_index("measure")
    batch = model.as_batch(SEED_TEXT)
    logits = model.run_with_hooks(batch, ablation.zero_heads([(1, 2)]))
    loss = metrics.next_token_loss(batch)
    black = model.to_single_token(" black")
    assert own.loc["loss on the prompt", "after"] == pytest.approx(loss(logits).item(), abs=1e-4)
    assert own.loc["loss on the prompt", "before"] == pytest.approx(
        loss(model(batch)).item(), abs=1e-4
    )
    probability = logits[0, -1].softmax(dim=-1)[black].item()
    assert own.loc["answer's probability", "after"] == pytest.approx(probability, abs=1e-6)


def test_the_map_holds_what_each_part_does_alone(model: interp.HookedGPT2) -> None:
    page = opened("ablation", ablation__kind="mean", ablation__chosen="L0MLP,L2H1")
    data = grid(page, "component_grid")
    given = options(model, "mean")
    for of, columns in (("heads", slice(0, 4)), ("mlps", 4)):
        swept = ablation.sweep(model, SEED_TEXT, metric(model), "mean", of=of, **given)
        np.testing.assert_allclose(
            data["values"][:, columns], swept["effect"].values[..., 0], atol=TOLERANCE
        )
    assert data["columns"] == ["0", "1", "2", "3", "MLP"]
    assert data["chosen"] == [[0, 4], [2, 1]]
    assert data["pickable"]


def test_interplay_is_together_minus_the_sum(model: interp.HookedGPT2) -> None:
    page = opened("ablation", ablation__chosen="L1H2,L0MLP")
    found = table(side(page, "interplay", "Table"), "interplay").set_index("taken_out")["effect"]
    ds = ablation.interplay(model, SEED_TEXT, [(0, "mlp"), (1, 2)], metric(model), "zero")
    assert found["L0MLP"] == pytest.approx(ds["alone"].sel(component="L0MLP").item(), abs=TOLERANCE)
    assert found["all together"] == pytest.approx(ds["together"].item(), abs=TOLERANCE)
    assert found["interplay"] == pytest.approx(
        found["all together"] - found["L0MLP"] - found["L1H2"], abs=TOLERANCE
    )


def test_the_list_and_the_map_choose_the_same(model: interp.HookedGPT2) -> None:
    page = opened("ablation", layer="2", head="1")
    assert grid(page, "component_grid")["chosen"] == [[2, 1]]
    page.multiselect(key="ablation.chosen").set_value(["L3H0", "L1MLP"]).run()
    assert grid(page, "component_grid")["chosen"] == [[1, 4], [3, 0]]
    assert page.session_state["selection"].options["ablation.chosen"] == "L3H0,L1MLP"
    page.multiselect(key="ablation.chosen").set_value([]).run()
    assert figures(page) == ["singles"]
    assert "Nothing is taken out" in texts(page)
    assert page.session_state["selection"].options["ablation.chosen"] == "none"


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "zero", "chosen": "L1H2,L3MLP"},
        {"kind": "mean", "reference": "shuffled", "seed": "3"},
        {"kind": "positional mean", "chosen": "L0H0"},
        {"kind": "resample", "chosen": "L1H2,L0MLP", "reference": "shuffled"},
    ],
)
def test_every_figure_is_reproduced_by_its_python(given: dict[str, str]) -> None:
    page = opened("ablation", **{f"ablation__{name}": value for name, value in given.items()})
    assert check_figures(page, tolerance=1e-4) == FIGURES


def test_a_prompt_of_one_token_has_no_loss() -> None:
    page = opened("ablation", text="a", bos="0", ablation__kind="resample")
    assert check_figures(page, only=FIGURES[1:3]) == FIGURES[1:3]
    assert "loss on the prompt" not in table(page, "measures")["measure"].tolist()


def test_hostile_tokens_are_only_shown() -> None:
    page = opened("ablation", text=HOSTILE, ablation__kind="mean")
    assert check_figures(page, only=["next_tokens"], tolerance=1e-4) == ["next_tokens"]
    outside = re.sub(r"(`+).*?\1", "", texts(page))
    assert not any(part in outside for part in (":red", "script", "$", "`"))


def test_a_long_prompt_and_a_wrong_link_have_a_page() -> None:
    long = " ".join(["The cat is black and the dog is white."] * 20)
    page = opened(
        "ablation", text=long, ablation__kind="positional mean", ablation__chosen="L9H9,L1H2",
        ablation__seed="-4", ablation__reference="x",
    )  # fmt: skip
    assert figures(page) == FIGURES
    assert grid(page, "component_grid")["chosen"] == [[1, 2]]
    assert "of 4 reference prompts (other sentences, seed 0)" in texts(page)


@pytest.mark.parametrize("n_classes", [None, 3])
def test_models_without_tokenizer_and_classifiers(tmp_path: Path, n_classes: int | None) -> None:
    cfg = ModelConfig(
        n_layers=2, n_heads=2, d_model=8, d_mlp=8, d_vocab=11, n_ctx=16, n_classes=n_classes
    )
    save_huggingface(interp.HookedGPT2(cfg, seed=0), tmp_path / "model")
    page = opened(
        "ablation", model=str(tmp_path / "model"), text="1 2 3 1 2", ablation__kind="resample"
    )
    assert figures(page) == FIGURES
    assert check_figures(page, only=["measures"]) == ["measures"]
    assert "this prompt's words in random order" in texts(page)
    measured = table(page, "measures")["measure"].tolist()
    assert ("loss on the prompt" in measured) == (n_classes is None)


def test_a_large_model_is_asked_before_each_part_is_taken_out(
    model: interp.HookedGPT2, tmp_path: Path
) -> None:
    cfg = ModelConfig(n_layers=2, n_heads=2, d_model=256, d_mlp=8192, d_vocab=40_000, n_ctx=64)
    large = interp.HookedGPT2(cfg, seed=0)
    tokens = tuple(range(1, 61))
    n_parts = len(measurements.components(model))
    assert costs.work(large.cfg, 6, len(tokens)) > costs.CHEAP
    assert costs.work(model.cfg, n_parts, model.cfg.n_ctx) < costs.CHEAP
    save_huggingface(large, tmp_path / "model")
    page = opened("ablation", model=str(tmp_path / "model"), text=" ".join(map(str, tokens)))
    assert figures(page) == FIGURES[1:]
    assert "each of the 6 heads and MLPs" in texts(page)
    data = grid(page, "component_grid")
    assert (data["chosen"], data["pickable"]) == ([list(chosen_of(page))], True)
    page.button(key="start_singles").click().run()
    for _ in range(40):
        if "singles" in figures(page):
            break
        page.run()
    assert check_figures(page, only=["singles"]) == ["singles"]


def chosen_of(page: AppTest) -> tuple[int, int]:
    """The head of the selection."""
    own = focus(page.session_state["selection"])
    return own.layer, own.head


def effects(*alone: float, together: float) -> pd.DataFrame:
    """A table of interplay."""
    names = [f"L0H{head}" for head in range(len(alone))]
    total = sum(alone)
    rows = [*alone, total, together, together - total]
    names += ["sum of each alone", "all together", "interplay"]
    return pd.DataFrame({"taken_out": names, "effect": rows})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (effects(-2.0, together=-2.0), "One part is taken out, with an effect of -2.00"),
        (effects(-2.0, -3.0, together=-5.1), "act independently"),
        (effects(-1.0, -1.0, together=-9.0), "More together than apart"),
        (effects(-8.0, -8.0, together=-9.0), "Less together than apart"),
        (effects(-1.0, -1.0, together=4.0), "pull the other way"),
        (effects(0.0, 0.0, together=0.0), "act independently"),
    ],
)
def test_interplay_is_put_into_words_and_never_without_the_warning(
    given: pd.DataFrame, said: str
) -> None:
    (paragraph,) = readings.interplay(given)
    assert said in paragraph
    assert "backup heads, self-repair" in paragraph


@pytest.mark.parametrize(
    ("before", "after", "loss", "said"),
    [
        (10.0, 9.9, 0.0, ["hardly moves (-0.10)", "changes by +0.00 nats"]),
        (10.0, 4.0, 0.5, ["goes from +10.00 to +4.00", "rises by 0.50 nats"]),
        (10.0, -4.0, -0.5, ["turns round", "`·white` is ahead now", "falls by 0.50 nats"]),
        (-3.0, 4.0, None, ["`·black` is ahead now"]),
    ],
)
def test_measures_are_put_into_words(
    seen: Focus, before: float, after: float, loss: float | None, said: list[str]
) -> None:
    rows = [{"measure": "logit difference", "before": before, "change": after - before}]
    if loss is not None:
        rows.append({"measure": "loss on the prompt", "before": 1.0, "change": loss})
    (paragraph,) = readings.measures(pd.DataFrame(rows), seen)
    assert all(part in paragraph for part in said)
    assert ("loss" in paragraph) == (loss is not None)


def test_what_takes_the_place_is_said(seen: Focus) -> None:
    kinds = get_args(ablation.Kind)
    said = {kind: readings.replacement(kind, "sentences", 5, seen) for kind in kinds}
    assert "by nothing" in said["zero"]
    assert "over all positions of 15 reference prompts (other sentences, seed 5)" in said["mean"]
    assert "same position of 15 reference prompts" in said["positional mean"]
    assert "of one prompt, drawn from 15" in said["resample"]


def test_next_tokens_and_single_effects_are_put_into_words() -> None:
    rows = {
        "token_id": [1, 2], "token": [" black", " white"], "before": [0.9, 0.05],
        "after": [0.2, 0.7], "rank_before": [1, 2], "rank_after": [2, 1],
    }  # fmt: skip
    changed = pd.DataFrame(rows).assign(change=[-0.7, 0.65])
    assert (
        "says `·white` (0.700) instead of `·black` (0.900, now 0.200)"
        in (readings.next_tokens(changed, ["L1H2"])[0])
    )
    same = changed.assign(after=[0.8, 0.1], rank_after=[1, 2], change=[-0.1, 0.05])
    assert (
        "still says `·black`, with probability 0.800 instead of 0.900"
        in (readings.next_tokens(same, ["L1H2"])[0])
    )
    assert (
        "L0H0, L0H1, L0H2, L0H3 and 2 more"
        in (readings.next_tokens(same, [f"L0H{head}" for head in range(6)])[0])
    )
    single = pd.DataFrame(
        {"layer": [0, 0, 1], "part": ["0", "MLP", "1"], "effect": [-5.0, 2.0, 0.1]}
    )
    (said,) = readings.singles(single, 10.0)
    assert "L0H0 lowers it most (-5.00), L0MLP raises it most (+2.00); 1 of 3 parts" in said
    (below,) = readings.singles(single.assign(effect=[-5.0, -2.0, -0.1]), 10.0)
    assert "go from -5.00 (L0H0) to -0.10 (L1H1)" in below
    assert readings.singles(single.assign(effect=float("nan")), 1.0) == ["Nothing was finished."]


def test_draws_say_whether_they_agree() -> None:
    assert "all agree in sign" in readings.draws(-3.0, -1.0, 16)
    assert "do not agree in sign" in readings.draws(-3.0, 1.0, 16)
