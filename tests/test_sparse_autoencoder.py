"""Sparse autoencoders: planted features are found again, and what is rebuilt is measured right."""

import pytest
import torch
from torch.nn.functional import normalize

from interp import features, sparse_autoencoder
from interp.errors import CheckpointError
from interp.sparse_autoencoder import SparseAutoencoder
from tests.comparison import assert_close

D, N_TRUE, ACTIVE, BATCH = 16, 32, 3, 1024


def planted_batches(seed=0, offset=0.0, size=1.0):
    """Endless rows: each the sum of `ACTIVE` of `N_TRUE` directions with weights from 1 to 2."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        weights = torch.rand(BATCH, N_TRUE, generator=generator) + 1
        order = torch.rand(BATCH, N_TRUE, generator=generator)
        active = order >= order.topk(ACTIVE, dim=1).values[:, -1:]
        yield size * (weights * active) @ true_directions() + offset


def true_directions():
    generator = torch.Generator().manual_seed(99)
    return normalize(torch.randn(N_TRUE, D, generator=generator))


def train(n_steps=900, seed=0, **settings):
    settings = {"n_features": 48, "k": ACTIVE, "dead_after": 20_000, "seed": seed} | settings
    batches = settings.pop("batches", None) or planted_batches()
    return sparse_autoencoder.train(batches, n_steps, **settings)


@pytest.fixture(scope="module")
def trained():
    sae, history = train(learning_rate=3e-3)
    return sae.requires_grad_(False), history


@pytest.fixture(scope="module")
def held_out():
    batches = planted_batches(seed=1)
    return [next(batches) for _ in range(2)]


def test_planted_features_are_found_again(trained, held_out):
    sae, history = trained
    matches = features.best_matches(true_directions(), sae.W_dec)
    assert float(matches.mean()) > 0.9
    untrained = SparseAutoencoder(D, 48, ACTIVE).requires_grad_(False)
    assert float(features.best_matches(true_directions(), untrained.W_dec).mean()) < 0.75
    rebuilt = sparse_autoencoder.reconstruction(sae, held_out)
    assert float(rebuilt.explained_variance) > 0.9
    assert float(rebuilt.l0) == pytest.approx(ACTIVE, abs=0.2)
    assert float(history.unexplained[-1]) == pytest.approx(
        1 - float(rebuilt.explained_variance), abs=0.02
    )


def test_directions_keep_the_length_one(trained):
    sae, _ = trained
    assert_close(sae.W_dec.norm(dim=1), torch.ones(48))


def test_at_most_k_features_fire_and_none_below_zero(trained, held_out):
    sae, _ = trained
    weights = sae.encode(held_out[0])
    assert int((weights != 0).sum(dim=1).max()) == ACTIVE
    assert float(weights.min()) == 0
    all_weights = sae.weights(held_out[0])
    kept = weights > 0
    assert torch.equal(weights[kept], all_weights[kept])
    threshold = torch.where(kept, weights, torch.inf).amin(dim=1, keepdim=True)
    assert bool((all_weights[~kept] <= threshold.expand(-1, 48)[~kept]).all())


def test_units_and_offset_of_the_activations_do_not_matter(held_out):
    """Training sees them standardised; the result is in the activations' own units."""
    plain, _ = train(60)
    scaled, _ = train(60, batches=planted_batches(offset=7.0, size=50.0))
    expected = plain(held_out[0]) * 50 + 7
    assert_close(scaled(held_out[0] * 50 + 7), expected, 1e-3)
    assert_close(scaled.encode(held_out[0] * 50 + 7), plain.encode(held_out[0]) * 50, 2e-2)


def test_equal_seeds_give_equal_weights():
    one, same, other = (train(5, seed=seed)[0] for seed in (3, 3, 4))
    for name, weights in one.state_dict().items():
        assert torch.equal(weights, same.state_dict()[name])
    assert not torch.equal(one.W_dec, other.W_dec)


def test_the_rate_rises_and_falls():
    rates = [sparse_autoencoder._rate(step, 100) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5:81] == [1.0] * 76
    assert rates[-1] == pytest.approx(1 / 20)


def handmade() -> SparseAutoencoder:
    """Features (1, 0) and (0, 1), of which the stronger is kept; bias (1, 0)."""
    sae = SparseAutoencoder(2, 2, 1)
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(2))
        sae.W_dec.copy_(torch.eye(2))
        sae.b_dec.copy_(torch.tensor([1.0, 0.0]))
    return sae


def test_a_small_one_by_hand():
    sae = handmade()
    x = torch.tensor([[4.0, 1.0], [1.0, 2.0], [0.0, -1.0]])
    assert sae.encode(x).tolist() == [[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]
    assert sae(x).tolist() == [[4.0, 0.0], [1.0, 2.0], [1.0, 0.0]]
    assert sae(x.half()).dtype == torch.float16


@pytest.mark.parametrize("dead", [False, True])
def test_a_dead_feature_learns_what_the_others_leave_over(dead):
    """Feature (0, 1) never fires here; its weight 0.5 is half of what is left, (0, 1)."""
    sae = handmade()
    with torch.no_grad():
        sae.W_enc[1, 1] = 0.5
    x = torch.tensor([[4.0, 1.0], [5.0, 1.0]])
    is_dead = torch.tensor([False, dead])
    history = {"unexplained": [], "n_dead": []}
    loss, fired = sparse_autoencoder._losses(x, sae, is_dead, history)
    loss.backward()
    # Half the squared error is left: d/dw of (1 - w)^2 at 0.5, over the error's own mean square.
    expected = -1.0 * sparse_autoencoder.AUXILIARY if dead else 0.0
    assert float(sae.b_enc.grad[1]) == pytest.approx(expected)
    assert float(sae.b_enc.grad[0]) == 0.0
    # The feature that fires learns from its own error alone: -2 * (3 + 4) * (0, 1) / 4 numbers.
    assert sae.W_dec.grad[0].tolist() == pytest.approx([0.0, -3.5])
    assert fired.tolist() == [True, False]
    assert history == {"unexplained": [pytest.approx(2.0 * 0.5 / 0.25)], "n_dead": [int(dead)]}


def test_silent_features_are_dead_after_so_many_rows():
    """Rows along one axis leave most of the features silent: dead after more than two batches."""
    rows = [torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])] * 4
    _, history = train(4, batches=rows, n_features=50, k=1, dead_after=6)
    assert history.n_dead.values[:3].tolist() == [0, 0, 0]
    assert int(history.n_dead[3]) > 40


@pytest.mark.parametrize("parts", [1, 3])
def test_explained_variance_by_hand(parts):
    x = torch.tensor([[4.0, 1.0], [1.0, 2.0], [1.0, 0.0]])
    rebuilt = sparse_autoencoder.reconstruction(handmade(), x.split(3 // parts))
    # Errors 1, 0, 0; the mean is (2, 1), at squared distances 4, 2 and 2.
    assert float(rebuilt.explained_variance) == pytest.approx(1 - 1 / 8)
    assert float(rebuilt.l0) == pytest.approx(2 / 3)
    assert rebuilt.frequency.values.tolist() == pytest.approx([1 / 3, 1 / 3])
    assert rebuilt.attrs["n_rows"] == 3


def test_a_saved_one_is_the_same(trained, tmp_path, held_out):
    sae, _ = trained
    sae.about["hook"] = "blocks.1.hook_resid_post"
    sae.save(tmp_path / "sae.safetensors")
    loaded = SparseAutoencoder.load(tmp_path / "sae.safetensors")
    assert loaded.about == sae.about
    assert torch.equal(loaded(held_out[0]), sae(held_out[0]))
    assert [path.name for path in tmp_path.iterdir()] == ["sae.safetensors"]


def test_a_file_of_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"W_dec": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="is not a sparse autoencoder: expected W_dec, W_enc"):
        SparseAutoencoder.load(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="absent"):
        SparseAutoencoder.load(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="There is no folder"):
        handmade().save(tmp_path / "nowhere" / "sae.safetensors")


def test_training_needs_its_batches():
    few = [next(planted_batches()) for _ in range(2)]
    with pytest.raises(ValueError, match="takes 5 batches, and there were only 2"):
        train(5, batches=few)


def test_k_is_at_most_the_number_of_features():
    with pytest.raises(ValueError, match="k is 1 to the number of features, 4; got 5"):
        SparseAutoencoder(8, 4, 5)


def test_nothing_cannot_be_rebuilt():
    with pytest.raises(ValueError, match="no activations"):
        sparse_autoencoder.reconstruction(handmade(), [])
