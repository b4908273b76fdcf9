"""Which few directions, out of many, make up an activation? A sparse autoencoder learns them.

An activation is rebuilt as a bias plus k of the decoder's directions, each with a positive weight:
the k strongest features (TopK: Gao et al. 2024, arXiv:2406.04093, whose recipe this follows). TopK
rather than a penalty on the sum of the weights (L1; Bricken et al. 2023), because k is the sparsity
itself, there is no coefficient to search for, and weights are not shrunk towards zero.

Features that no longer fire are trained on what the others leave over (the paper's AuxK loss).
How good it is: explained variance, how many features fire, and above all what the model predicts
when the rebuilt activation takes the place of the true one (`interp.splicing`).

A feature is a direction that helps to rebuild, and nothing says that the model uses it as such.
"""

from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path

import torch
import xarray as xr
from einops import einsum
from jaxtyping import Bool, Float
from safetensors import safe_open
from torch import Tensor, nn

from interp.errors import CheckpointError
from interp.model.checkpoints import read_safetensors, save_tensors, staged
from interp.progress import Progress, no_progress

AUXILIARY = 1 / 32
"""Weight of the dead features' loss."""
WARM_UP, DECAY = 0.05, 0.2
"""Shares of the steps in which the learning rate rises, and in which it falls to zero."""


class SparseAutoencoder(nn.Module):
    """x ≈ b_dec + the k strongest features' weights times their directions.

    Args:
        about: What it was trained on and how; kept in its file.
    """

    def __init__(
        self, d_in: int, n_features: int, k: int, *, seed: int = 0,
        about: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= k <= n_features:
            raise ValueError(f"k is 1 to the number of features, {n_features}; got {k}.")
        self.k = k
        self.about = dict(about or {})
        generator = torch.Generator().manual_seed(seed)
        directions = nn.functional.normalize(torch.randn(n_features, d_in, generator=generator))
        self.W_enc = nn.Parameter(directions.T.clone())
        self.b_enc = nn.Parameter(torch.zeros(n_features))
        self.W_dec = nn.Parameter(directions)
        self.b_dec = nn.Parameter(torch.zeros(d_in))

    def weights(self, x: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row feature"]:
        """How strong each feature is, before the strongest are chosen."""
        read = einsum(x - self.b_dec, self.W_enc, "... d_in, d_in feature -> ... feature")
        return torch.relu(read + self.b_enc)

    def encode(self, x: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row feature"]:
        """The weights of the k strongest features; all others are 0."""
        return strongest_only(self.weights(x.float()), self.k)

    def decode(self, weights: Float[Tensor, "*row feature"]) -> Float[Tensor, "*row d_in"]:
        """The activation that features add up to."""
        return einsum(weights, self.W_dec, "... feature, feature d_in -> ... d_in") + self.b_dec

    def forward(self, x: Float[Tensor, "*row d_in"]) -> Float[Tensor, "*row d_in"]:
        """The rebuilt activation, in the type of the given one."""
        return self.decode(self.encode(x)).to(x.dtype)

    def save(self, path: str | Path) -> None:
        """Write weights, k and `about` as a safetensors file, whole or not at all.

        Raises:
            CheckpointError: it cannot be written.
        """
        path = Path(path).expanduser()
        if not path.parent.is_dir():
            raise CheckpointError(f"There is no folder {path.parent} to save {path.name} in.")
        with staged(path.parent) as folder:
            metadata = {f"about.{name}": value for name, value in self.about.items()}
            tensors = dict(self.state_dict())
            save_tensors(tensors, folder / path.name, metadata | {"k": str(self.k)})

    @classmethod
    def load(cls, path: str | Path) -> "SparseAutoencoder":
        """Read what `save` wrote.

        Raises:
            CheckpointError: there is no such file, or it holds something else.
        """
        path = Path(path).expanduser()
        tensors = read_safetensors(path)
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        names = ["W_dec", "W_enc", "b_dec", "b_enc"]
        if sorted(tensors) != names or not metadata.get("k", "").isdigit():
            raise CheckpointError(
                f"{path} is not a sparse autoencoder: expected {', '.join(names)} and k in its "
                f"metadata; it holds {', '.join(sorted(tensors))}."
            )
        about = {
            name.removeprefix("about."): value
            for name, value in metadata.items()
            if name.startswith("about.")
        }
        n_features, d_in = tensors["W_dec"].shape
        sae = cls(d_in, n_features, int(metadata["k"]), about=about)
        sae.load_state_dict(tensors)
        return sae


def strongest_only(
    weights: Float[Tensor, "*row feature"], k: int
) -> Float[Tensor, "*row feature"]:  # fmt: skip
    """The k largest numbers of each row, and 0 in place of the others."""
    top = weights.topk(k, dim=-1)
    return torch.zeros_like(weights).scatter(-1, top.indices, top.values)


def train(
    batches: Iterable[Float[Tensor, "_row d_in"]],
    n_steps: int,
    *,
    n_features: int,
    k: int,
    learning_rate: float = 1e-3,
    dead_after: int = 100_000,
    seed: int = 0,
    about: Mapping[str, str] | None = None,
    progress: Progress = no_progress,
) -> tuple[SparseAutoencoder, xr.Dataset]:
    """Train on random rows, such as a store's `view.shuffled`; equal seeds and rows, equal weights.

    Args:
        batches: At least `n_steps`, of any float type; large ones, since the first one's mean and
            size set the scale.
        n_features: How many directions to learn.
        k: How many make up one activation.
        learning_rate: Of Adam, at its highest.
        dead_after: A feature that was silent for so many rows is dead, and trained to help.
        seed: Of the first directions.

    Returns:
        The autoencoder, in the activations' units; `unexplained` (share of the batch's variance)
        and `n_dead` over `step`.

    Raises:
        ValueError: there are too few batches.
    """
    stream = iter(batches)
    first = next(stream).float()
    mean = first.mean(dim=0)
    scale = (first - mean).square().mean().sqrt()
    sae = SparseAutoencoder(first.shape[1], n_features, k, seed=seed, about=about)
    sae = sae.to(first.device)
    optimizer = torch.optim.Adam(sae.parameters(), lr=learning_rate, eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, n_steps))
    silent = torch.zeros(n_features, dtype=torch.long, device=first.device)
    history: dict[str, list[float]] = {"unexplained": [], "n_dead": []}
    rows = chain([first], stream)
    for _ in progress(range(n_steps), "Training a sparse autoencoder"):
        batch = next(rows, None)
        if batch is None:
            done = len(history["n_dead"])
            raise ValueError(f"Training takes {n_steps} batches, and there were only {done}.")
        dead = silent > dead_after
        loss, fired = _losses((batch.float() - mean) / scale, sae, dead, history)
        optimizer.zero_grad()
        loss.backward()
        _step_on_sphere(sae, optimizer)
        schedule.step()
        silent = torch.where(fired, 0, silent + len(batch))
    with torch.no_grad():  # back to the activations' own units
        sae.b_enc.mul_(scale)
        sae.b_dec.copy_(sae.b_dec * scale + mean)
    return sae, xr.Dataset({name: ("step", values) for name, values in history.items()})


def _losses(
    x: Float[Tensor, "row d_in"],
    sae: SparseAutoencoder,
    dead: Bool[Tensor, " feature"],
    history: Mapping[str, list[float]],
) -> tuple[Float[Tensor, ""], Bool[Tensor, " feature"]]:
    """The loss, and which features fired; notes both parts in the history."""
    weights = sae.weights(x)
    chosen = strongest_only(weights, sae.k)
    error = x - sae.decode(chosen)
    loss = error.square().mean()
    variance = (x - x.mean(dim=0)).square().mean()
    history["unexplained"].append(float(loss.detach() / variance))
    history["n_dead"].append(int(dead.sum()))
    n_helping = min(int(dead.sum()), x.shape[1] // 2)
    if n_helping:
        left_over = error.detach()
        help_weights = strongest_only(weights * dead, n_helping)
        help_error = left_over - (sae.decode(help_weights) - sae.b_dec)
        loss = loss + AUXILIARY * help_error.square().mean() / left_over.square().mean()
    return loss, (chosen > 0).any(dim=0)


def _step_on_sphere(sae: SparseAutoencoder, optimizer: torch.optim.Optimizer) -> None:
    """A step that keeps the directions at length 1 and wastes none of it on their lengths."""
    assert sae.W_dec.grad is not None
    with torch.no_grad():
        along = (sae.W_dec.grad * sae.W_dec).sum(dim=1, keepdim=True)
        sae.W_dec.grad -= along * sae.W_dec
        optimizer.step()
        sae.W_dec.copy_(nn.functional.normalize(sae.W_dec))


def _rate(step: int, n_steps: int) -> float:
    """Share of the learning rate: up in a line, level, down to zero in a line."""
    return min(1.0, (step + 1) / (WARM_UP * n_steps), (n_steps - step) / (DECAY * n_steps))


@torch.no_grad()
def reconstruction(
    sae: SparseAutoencoder, batches: Iterable[Float[Tensor, "_row d_in"]]
) -> xr.Dataset:  # fmt: skip
    """How well activations are rebuilt, and by how many features.

    Returns:
        `explained_variance` (1 - squared error / squared distance from the mean, all dimensions
        together), `l0` (features per row), and `frequency` (share of the rows) over `feature`.
    """
    n_rows, error = 0, 0.0
    fired = torch.zeros(sae.W_dec.shape[0], dtype=torch.double)
    total = torch.zeros(sae.W_dec.shape[1], dtype=torch.double)
    squares = 0.0
    for batch in batches:
        weights = sae.encode(batch)
        x = batch.double()
        error += float((x - sae.decode(weights).double()).square().sum())
        fired += (weights > 0).sum(dim=0).double().cpu()
        total += x.sum(dim=0).cpu()
        squares += float(x.square().sum())
        n_rows += len(batch)
    if not n_rows:
        raise ValueError("There are no activations to rebuild.")
    variance = squares - float(total.square().sum()) / n_rows
    return xr.Dataset(
        {
            "explained_variance": 1 - error / variance,
            "l0": float(fired.sum()) / n_rows,
            "frequency": ("feature", (fired / n_rows).numpy()),
        },
        attrs={"n_rows": n_rows},
    )
