"""The study of probes: what it finds in the embedded model, and that its numbers are right."""

import tempfile

import numpy as np
import pandas as pd
import pytest
import torch

import interp
from analyses import _probed_directions as directions
from analyses import _probed_sentences as probed
from analyses import probe
from analyses._stored import collected
from interp.errors import PromptError, StoreError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.saving import save_huggingface
from interp.report import Report
from tests.comparison import assert_close

N = 250
HALF_PRECISION = 1e-3
"""Rounding of stored float16, relative to the largest value."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("probe") / "store"


@pytest.fixture(scope="module")
def sentences() -> probed.Sentences:
    return probed.draw_sentences(interp.load(), N, seed=0)


@pytest.fixture(scope="module")
def report(store) -> Report:
    return probe.run(n=N, store=store)


def table(report: Report, title: str) -> pd.DataFrame:
    (found,) = [part.table for part in report.sections if part.title == title]
    assert found is not None
    return found


def test_a_probe_finds_the_colour_where_it_is_and_nowhere_before(report):
    cells = table(report, "Where can the colour be read?").set_index(["place", "depth"])
    assert cells.loc[("colour", "L0"), "low"] > 0.95
    assert cells.loc[("thing", "L2"), "low"] > 0.8
    assert cells.loc[("thing", "L0"), "high"] < 0.3
    assert cells.loc[("END", "end"), "low"] > 0.8
    assert cells.loc["before", "accuracy"].max() < 0.3
    assert cells.loc["other_thing", "accuracy"].max() < 0.35
    assert cells.loc[("thing", "L2"), "selectivity"] > 0.5


def test_readable_is_not_used(report):
    cells = table(report, "Readable, but is it used?").set_index(["place", "depth"])
    assert cells.loc[("colour", "L0"), "verdict"] == "readable, used"
    assert cells.loc[("thing", "L2"), "verdict"] == "readable, used"
    assert cells.loc[("after", "L2"), "verdict"] == "readable, not used"
    assert cells.loc[("before", "L0"), "moved"] == pytest.approx(0, abs=1e-6)
    assert cells.loc[("END", "end"), "moved"] == pytest.approx(1, abs=1e-4)


def test_the_model_uses_what_the_probe_reads(report):
    rows = table(report, "Does the model use what the probe reads?").set_index("condition")
    assert rows.loc["what the probe reads", "share moved"] > 0.5
    assert rows.loc["random directions", "share moved"] < 0.2
    assert rows.loc["what the probe reads", "low"] > rows.loc["random directions", "high"]


def test_exchanging_every_direction_is_activation_patching(report):
    cells = table(report, "Readable, but is it used?").set_index(["place", "depth"])
    rows = table(report, "Does the model use what the probe reads?").set_index("condition")
    patched = cells.loc["thing", "moved"].max()
    assert rows.loc["all directions", "share moved"] == pytest.approx(patched, abs=2e-3)


def test_the_stored_rows_are_those_of_the_places(store, report, sentences):
    model = interp.load()
    hooks = probed.depths(model)
    with collected(model, sentences.pairs.clean, list(hooks.values()), store) as activations:
        features = probed.at_places(activations, sentences, hooks)
    with torch.no_grad():
        _, cache = model.run_with_cache(sentences.pairs.clean[:50], names_filter=[*hooks.values()])
    for (depth, place), x in features.items():
        expected = cache[hooks[depth]][torch.arange(50), sentences.places[place][:50]]
        assert_close(x[:50], expected, HALF_PRECISION)


def test_a_store_is_used_again_and_never_for_other_sentences(store, report, sentences):
    model, hooks = interp.load(), list(probed.depths(interp.load()).values())
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    with collected(model, sentences.pairs.clean, hooks, store) as activations:
        assert activations.n_documents == N
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*") if p.is_file()} == before
    with (
        pytest.raises(StoreError, match="texts differ"),
        collected(model, sentences.pairs.clean[1:], hooks, store),
    ):
        pass


def test_a_temporary_store_goes_away(sentences, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    hook = "blocks.0.hook_resid_pre"
    with collected(interp.load(), sentences.pairs.clean[:3], [hook], None) as activations:
        assert len(activations.view(hook))
        assert list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_the_words_of_a_place_are_learned_by_heart_and_combinations_are_not(report):
    rows = table(report, "What could the probe learn by heart?").groupby("task")["mean"].max()
    assert rows["random, by word at the place"] > 0.8
    assert rows["random, by combination"] < 0.4


CELLS = pd.DataFrame(
    {
        "depth": ["L0", "L0", "L1", "L1"],
        "place": ["colour", "thing", "colour", "thing"],
        "accuracy": [1.0, 0.1, 1.0, 0.9],
        "low": [1.0, 0.0, 1.0, 0.8],
        "moved": [1.0, 0.0, 0.0, 0.9],
    }
)


def test_the_reading_follows_the_numbers():
    section = probe.use_section(CELLS)
    assert "1 of 3 readable places are not used: colour at L1. That is" in section.reading[1]
    assert section.n_shown == 3
    every = probe.use_section(CELLS.assign(moved=[1.0, 0.0, 0.5, 0.9]))
    assert "Every readable place is also used" in every.reading[1]
    unread = probe.use_section(CELLS.assign(moved=[1.0, 0.2, 0.5, 0.9]))
    assert "cannot read them: thing at L0." in unread.reading[2]


@pytest.mark.parametrize(
    ("moved", "expected"),
    [
        (9.0, "reads the colour from directions that the probe found."),
        (3.0, "some of those that carry it"),
        (0.5, "no more than random directions do"),
    ],
)
def test_the_verdict_on_directions_follows_the_numbers(moved, expected):
    rows = {
        "what the probe reads": (moved, moved - 0.5, moved + 0.5),
        "all but what the probe reads": (1.0, 0.9, 1.1),
        "random directions": (0.4, 0.3, 0.5),
    }
    exchanged = pd.DataFrame(rows, index=["mean", "low", "high"]).T
    exchanged["share moved"] = exchanged["mean"] / 10
    exchanged["share lost if removed"] = 0.0
    exchanged["directions"] = 11
    exchanged = exchanged.rename_axis("condition").reset_index()
    section = directions.exchange_section(exchanged, "L2")
    assert expected in section.reading[1]


def test_of_a_model_that_binds_nothing_no_use_is_claimed(tmp_path):
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 8, "d_mlp": 8, "n_ctx": 128}
    cfg = ModelConfig(**sizes, d_vocab=interp.load().cfg.d_vocab)
    save_huggingface(HookedGPT2(cfg, interp.load().tokenizer), tmp_path / "model")
    report = probe.run(str(tmp_path / "model"), n=100)
    assert [part.title for part in report.sections] == [
        "Where can the colour be read?",
        "Readable, but is it used?",
    ]
    assert "does not prefer the right colour" in report.sections[1].reading[0]


def test_a_study_needs_prompts_and_a_penalty():
    with pytest.raises(PromptError, match="Use 100 or more prompts and a positive penalty"):
        probe.run(n=50)
    with pytest.raises(PromptError, match="positive penalty; got 800 and 0"):
        probe.run(penalty=0)


def test_colours_and_things_are_drawn_independently(sentences):
    assert len(set(sentences.types)) > 0.55 * N  # held-out combinations alone are about 50
    assert np.unique(sentences.labels).size == 12
