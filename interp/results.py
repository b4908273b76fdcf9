"""Labelled results: what every number carries, so that it can be traced to a model and a run."""

from collections.abc import Hashable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import TokenBatch
from interp.model.weights import model_hash
from interp.pairs import TokenPairs

PACKAGES = ("interp", "torch", "transformer-lens", "xarray")
"""Packages whose versions decide a number."""


def provenance(model: HookedGPT2) -> dict[str, str]:
    """Attributes of a result: `model`, `model_hash` and `versions`."""
    return {
        "model": model.cfg.model_name,
        "model_hash": model_hash(model),
        "versions": versions(),
    }


@cache
def versions() -> str:
    """What is installed of the packages that decide a number."""
    return ", ".join(f"{package} {version(package)}" for package in PACKAGES)


def token_names(model: HookedGPT2, batch: TokenBatch) -> list[list[str]]:
    """The text of each token (its id, without a tokenizer), empty at padding: `example pos`."""
    rows = zip(batch.tokens.tolist(), batch.attention_mask.tolist(), strict=True)
    piece = model.tokenizer.piece if model.tokenizer else str
    return [
        [piece(i) if real else "" for i, real in zip(ids, mask, strict=True)] for ids, mask in rows
    ]


def patched_dataset(
    model: HookedGPT2,
    pairs: TokenPairs,
    metric: Metric,
    dims: Mapping[str, Sequence[Any]],
    patched: Float[Tensor, "cell example"],
    clean: Float[Tensor, " example"],
    corrupted: Float[Tensor, " example"],
    positions: Mapping[Hashable, Int[Tensor, " example"]],
) -> xr.Dataset:
    """`patched` over (`dims`, `example`), `clean` and `corrupted` over `example`, with tokens.

    Args:
        dims: Coordinates of each axis of a cell, in order; the last varies fastest.
        positions: Each position that the axis `pos` names, for every example.
    """
    shape = (*map(len, dims.values()), len(clean))
    numbers = {"clean": clean, "corrupted": corrupted}
    coords: dict[str, Any] = {name: list(values) for name, values in dims.items()}
    for name, batch in (("clean_token", pairs.clean), ("corrupted_token", pairs.corrupted)):
        names = token_names(model, batch)
        chosen = [positions[name] for name in dims["pos"]] if "pos" in dims else _all(batch)
        coords[name] = (
            ("example", "pos"),
            [[row[int(column[i])] for column in chosen] for i, row in enumerate(names)],
        )
    return xr.Dataset(
        {"patched": ((*dims, "example"), patched.reshape(shape).numpy(force=True))}
        | {name: ("example", value.numpy(force=True)) for name, value in numbers.items()},
        coords=coords,
        attrs={"metric": metric.name, "unit": metric.unit, **provenance(model)},
    )


def _all(batch: TokenBatch) -> Int[Tensor, "pos example"]:
    return torch.arange(batch.tokens.shape[1])[:, None].expand(-1, len(batch.tokens))
