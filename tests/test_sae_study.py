"""The study of autoencoders: its numbers, its classes, and what it says of them."""

import pandas as pd
import pytest
import torch
import xarray as xr

import interp
from analyses import _sae_features as judging
from analyses import _sae_rows as sae_rows
from analyses import sae as study
from interp.errors import PromptError, StoreError
from interp.model.weights import model_hash
from interp.sparse_autoencoder import SparseAutoencoder

SMALL = {"texts": 500, "steps": 150, "n_features": 192}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sae")


@pytest.fixture(scope="module")
def report(folder):
    return study.run(store=folder / "store", save=folder / "sae.safetensors", **SMALL)


def table(report, title):
    (found,) = [part.table for part in report.sections if part.title == title]
    return found


def test_the_rebuilt_activation_keeps_most_of_the_loss(report):
    losses = table(report, "Does it keep what the model needs?").set_index("condition")
    assert losses.loc["rebuilt", "added"] < 0.1 * losses.loc["mean", "added"]
    assert losses.loc["mean", "added low"] > 0.3
    assert losses.loc["clean", "added"] == 0


def zero_behind_the_first(x, hook):
    x[:, 1:] = 0


def test_the_losses_are_the_models_on_the_test_texts(report, folder):
    model = interp.load()
    rows = sae_rows.read_rows(interp.store.open(folder / "store"), study.HOOK, "sequence % 10 = 0")
    batch = sae_rows.as_batch(rows, study.LOSS_TEXTS)
    texts = [model.to_string(ids[1:n]) for ids, n in zip(batch.tokens, batch.lengths, strict=True)]
    losses = table(report, "Does it keep what the model needs?").set_index("condition")
    for condition, hooks in {"clean": [], "zero": [(study.HOOK, zero_behind_the_first)]}.items():
        with model.hooks(hooks):
            expected = sum(float(model(text, "loss")) for text in texts) / len(texts)
        assert losses.loc[condition, "mean"] == pytest.approx(expected, rel=1e-4)


def test_the_rows_are_the_models_and_none_is_a_first_token(report, folder):
    model = interp.load()
    rows = sae_rows.read_rows(interp.store.open(folder / "store"), study.HOOK, "sequence % 10 = 1")
    sequence = int(rows.sequences[0])
    ids = rows.everything.loc[rows.everything["sequence"] == sequence, "token_id"].to_list()
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([ids]), names_filter=study.HOOK)
    mine = rows.x[rows.sequences == sequence]
    assert len(mine) == len(ids) - 1
    torch.testing.assert_close(mine, cache[study.HOOK][0, 1:], atol=2e-3, rtol=2e-3)


def test_where_ablation_costs_nothing_no_loss_is_recovered():
    losses = xr.DataArray(
        [[1.0, 2.0], [1.1, 2.2], [0.9, 2.1], [2.0, 3.0]],
        dims=("condition", "example"),
        coords={"condition": ["clean", "rebuilt", "mean", "zero"]},
    )
    assert study.recovered(losses, "mean", 0) == "not defined (that costs nothing here)"
    assert study.recovered(losses, "zero", 0) == "0.85 [0.80, 0.90]"


def test_every_feature_is_counted_once(report):
    counts = table(report, "How often do features fire?")
    assert counts["features"].sum() == SMALL["n_features"]


def test_kinds_are_judged_alike(report):
    kinds = table(report, "Are features about one thing?").set_index("condition")
    assert kinds["judged"].to_dict() == {
        "features": kinds.loc["features", "judged"],
        "coordinates": 256,
        "random directions": 192,
    }
    assert bool(kinds["mean"].between(1 / 20, 1).all())


def test_the_autoencoder_is_saved_with_where_it_is_from(report, folder):
    sae = SparseAutoencoder.load(folder / "sae.safetensors")
    assert (sae.k, *sae.W_dec.shape) == (8, 192, 128)
    assert sae.about["hook"] == study.HOOK
    assert sae.about["model_hash"] == model_hash(interp.load())
    assert sae.about["seed"] == "0"


def test_a_store_that_is_there_is_used_and_given_what_it_lacks(report, folder):
    hook = "blocks.0.hook_mlp_out"
    again = study.run(store=folder / "store", hook=hook, steps=3, n_features=32, k=4)
    assert again.settings["texts"] == "as stored"
    assert set(interp.store.open(folder / "store").hooks) == {study.HOOK, hook}


def test_a_hook_without_a_vector_is_refused(report, folder):
    with pytest.raises(StoreError, match=r"hook_z has \[4, 32\] numbers at a position"):
        study.run(store=folder / "store", hook="blocks.0.attn.hook_z", steps=3)


def test_a_store_of_some_positions_is_refused(tmp_path):
    texts = ["The cat is black.", "The dog is red."]
    interp.store.collect(
        interp.load(), texts, path=tmp_path / "last", hooks=[study.HOOK], positions="last"
    )
    activations = interp.store.open(tmp_path / "last")
    with pytest.raises(StoreError, match="Use a store of all positions"):
        sae_rows.read_rows(activations, study.HOOK, "sequence >= 0")


def some_tokens() -> pd.DataFrame:
    pieces = ["<|endoftext|>", " The", " red", " cat", " is", ".", " A", " blue", " dog", " black"]
    others = ["<|endoftext|>", " A", " cat"]
    return pd.DataFrame(
        {
            "token": pieces + others,
            "sequence": [0] * len(pieces) + [1] * len(others),
            "pos": [*range(len(pieces)), *range(len(others))],
        }
    )


def test_a_colour_holds_to_the_end_of_its_sentence():
    found = [sae_rows.COLOURS[i] if i >= 0 else "" for i in sae_rows.last_colour(some_tokens())]
    assert found[:5] == ["", "", "red", "red", "red"]
    assert found[5:] == ["", "", "blue", "blue", "black", "", "", ""]


def test_an_example_shows_what_is_around_it():
    tokens = some_tokens()
    tokens["colour"] = sae_rows.last_colour(tokens)
    inside = tokens[tokens["pos"] > 0].reset_index(drop=True)
    rows = sae_rows.Rows(torch.zeros(len(inside), 2), inside, tokens)
    assert rows.context(2) == "… The red [cat] is"
    assert rows.context(len(inside) - 1) == "… A [cat]"
    assert rows.things().tolist() == [2, 7]


KINDS = pd.DataFrame(
    {
        "condition": ["features", "coordinates", "random directions"],
        "judged": [100, 256, 100],
        "mean": [0.8, 0.4, 0.5],
        "low": [0.7, 0.3, 0.4],
        "high": [0.9, 0.5, 0.6],
        "of one word": [0.7, 0.1, 0.1],
        "of one colour, many words": [8, 0, 1],
    }
)


def test_the_purity_is_read_against_random_directions():
    reading = " ".join(judging.purity_section(KINDS).reading)
    assert "Features are purer. 70% of them stand at one word" in reading
    assert "as expected." in reading
    assert "8 of 100 features, 0 of 256 coordinates, 1 of 100 random directions" in reading
    alike = KINDS.assign(low=0.3, **{"of one word": 0.2})
    reading = " ".join(judging.purity_section(alike).reading)
    assert "not purer than random directions. 20% of them" in reading
    assert "not most of them, as was expected" in reading


@pytest.mark.parametrize(
    ("gain", "expected"), [(0.2, "has found some of the colours"), (0.0, "did not single")]
)
def test_a_colours_feature_is_read_against_the_best_random_direction(gain, expected):
    found = pd.DataFrame({"random directions": [0.3, 0.4, 0.5], "chance": [0.1] * 3})
    found = found.assign(features=found["random directions"] + gain, coordinates=0.2)
    assert expected in judging.colour_section(found, 0).reading[1]


@pytest.mark.parametrize(
    ("lost", "expected"),
    [(5.0, "needs this feature more than another"), (0.5, "found is not the same as used")],
)
def test_use_is_read_against_another_feature(lost, expected):
    rows = [("intact", 0.0), ("without the colour's feature", lost), ("without another", 0.4)]
    found = pd.DataFrame(rows, columns=["condition", "mean"])
    found = found.assign(
        low=found["mean"] - 0.2, high=found["mean"] + 0.2, n=9, **{"logit difference": 10.0}
    )
    found["share lost"] = found["mean"] / 10
    assert expected in judging.use_section(found).reading[1]


def test_without_a_feature_its_part_is_gone():
    """An autoencoder whose one feature for a colour is a direction that the answer needs."""
    model = interp.load()
    sae = SparseAutoencoder(128, 4, 1).requires_grad_(False)
    colours = pd.DataFrame({"colour": list(sae_rows.COLOURS), "feature": 0})
    sae.b_enc[:] = torch.tensor([1.0, 0.0, 0.0, 0.0])  # fires everywhere, weight about 1
    sae.W_enc.zero_()
    sae.W_dec[0] = 0.0
    nothing = judging.use_table(model, sae, study.HOOK, colours, 8, 0)
    assert nothing is not None
    assert nothing["mean"].abs().max() < 1e-4
    sae.W_dec[0] = 100.0 * torch.randn(128, generator=torch.Generator().manual_seed(0))
    lost = judging.use_table(model, sae, study.HOOK, colours, 8, 0)
    assert lost is not None
    assert lost["mean"][1] > 1
    assert lost["mean"][2] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("arguments", [{"texts": 20}, {"steps": 0}, {"k": 9, "n_features": 8}])
def test_a_study_needs_texts_steps_and_features(arguments):
    with pytest.raises(PromptError, match="Use 50 or more texts, 1 or more steps and k from 1"):
        study.run(**arguments)
