"""Losses with something in place of an activation, and how much of the loss that keeps."""

import pytest
import torch
import xarray as xr

import interp
from interp import splicing
from interp.errors import PromptError
from interp.tiny.lexicon import SEED_SENTENCE

HOOK = "blocks.1.hook_resid_post"
TEXTS = ["I love the color black", "John gave a drink to Mary, and so on", "a cat", "The cat is"]


def zero(x):
    return torch.zeros_like(x)


def same(x):
    return x


@pytest.fixture(scope="module")
def losses(random_gpt2):
    batch = random_gpt2.to_batch(TEXTS)
    replacements = {"same": same, "half": lambda x: x / 2, "zero": zero}
    return splicing.spliced_losses(random_gpt2, batch, HOOK, replacements)


def test_the_clean_losses_are_the_models(random_gpt2, losses):
    for index, text in enumerate(TEXTS):
        expected = float(random_gpt2(text, "loss"))
        assert float(losses.sel(condition="clean")[index]) == pytest.approx(expected, rel=1e-5)


def test_a_replaced_activation_is_replaced_everywhere(random_gpt2, losses):
    for index, text in enumerate(TEXTS):
        with random_gpt2.hooks([(HOOK, lambda x, hook: torch.zeros_like(x))]):
            expected = float(random_gpt2(text, "loss"))
        assert float(losses.sel(condition="zero")[index]) == pytest.approx(expected, rel=1e-5)


def test_an_activation_in_its_own_place_recovers_everything_and_none_nothing():
    model = interp.load()
    batch = model.to_batch([f"{SEED_SENTENCE} The cat is black.", "The war began in 1732."])
    losses = splicing.spliced_losses(model, batch, HOOK, {"same": same, "zero": zero})
    assert splicing.loss_recovered(losses, "same", ablation="zero") == (1.0, 1.0, 1.0)
    assert splicing.loss_recovered(losses, "zero", ablation="zero") == (0.0, 0.0, 0.0)


def test_recovered_loss_is_a_ratio_of_means():
    losses = xr.DataArray(
        [[1.0, 2.0], [2.0, 2.0], [5.0, 4.0]],
        dims=("condition", "example"),
        coords={"condition": ["clean", "sae", "zero"]},
    )
    assert splicing.loss_recovered(losses, "sae", ablation="zero").mean == pytest.approx(5 / 6)


def test_kept_positions_stay_as_they_are(random_gpt2):
    batch = random_gpt2.to_batch(TEXTS)
    everywhere = torch.ones_like(batch.attention_mask)
    kept = splicing.spliced_losses(random_gpt2, batch, HOOK, {"zero": zero}, keep=everywhere)
    assert torch.equal(*(torch.tensor(kept.sel(condition=c).values) for c in ("clean", "zero")))
    seen = []

    def note(x):
        seen.append(x)
        return x

    first = torch.zeros_like(everywhere)
    first[:, 0] = True
    splicing.spliced_losses(random_gpt2, batch, HOOK, {"noted": note}, keep=first)
    assert sum(map(len, seen)) == int(batch.lengths.sum()) - len(TEXTS)


def test_many_examples_are_run_in_parts(random_gpt2, losses, monkeypatch):
    monkeypatch.setattr(splicing, "EXAMPLES_PER_RUN", 3)
    batch = random_gpt2.to_batch(TEXTS)
    parts = splicing.spliced_losses(random_gpt2, batch, HOOK, {"zero": zero})
    expected = losses.sel(condition=["clean", "zero"])
    assert parts.values == pytest.approx(expected.values, rel=1e-5)


def test_only_one_vector_for_each_position_can_be_replaced(random_gpt2):
    batch = random_gpt2.to_batch(TEXTS)
    with pytest.raises(Exception, match="not batch pos d_in"):
        splicing.spliced_losses(random_gpt2, batch, "blocks.1.attn.hook_z", {"zero": zero})


def test_an_ablation_that_costs_nothing_measures_nothing(losses):
    with pytest.raises(PromptError, match="which holds 0"):
        splicing.loss_recovered(losses, "half", ablation="same")
