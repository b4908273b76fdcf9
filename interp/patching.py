"""Activation patching: put one run's activations into another, and see what the output does.

A sweep patches each place alone: every layer and position, or every layer and head. Denoising puts
values of the clean run into the corrupted run (what restores the behaviour?), noising the reverse
(what breaks it?). Source: Vig et al. 2020, arXiv:2004.12265; Wang et al. 2022, arXiv:2211.00593.
All patches of a sweep are branches of one run (`interp.branches`): exact, and much less work than
one forward pass each.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.base_run import BaseRun, Point
from interp.branches import ROWS, Component, Outcome, Values, evaluate, grid, together
from interp.metrics import Metric
from interp.model import formula
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import BlockHooks, Hooks
from interp.model.tokens import Prompt
from interp.pairs import Positions, TokenPairs, chosen_positions, places_of, token_pairs
from interp.progress import Progress, no_progress
from interp.results import patched_dataset
from interp.sites import HEAD_SITES, STREAM_SITES, check_site

POINTS: dict[str, Point] = {
    "resid_pre": "resid_pre",
    "resid_mid": "resid_mid",
    "resid_post": "resid_post",
    "attn_out": "attn_out",
    "mlp_out": "mlp_out",
    "z": "z",
    "q": "z",
    "k": "k",
    "v": "v",
    "pattern": "z",
}
"""Where the engine edits: a patched query or pattern is a patched z."""


@torch.no_grad()
def sweep(
    model: HookedGPT2,
    clean: Prompt,
    corrupted: Prompt,
    site: str,
    metric: Metric,
    direction: str = "denoising",
    positions: Positions = None,
    *,
    per_position: bool = False,
    window: int = 1,
    max_memory: int | None = None,
    rows: int = ROWS,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Patch each place alone, and measure each example.

    Args:
        clean, corrupted: Prompts of equal token length per pair; row i of one belongs to row i of
            the other.
        site: One of `sites.SITES`.
        metric: What is measured, for each example.
        direction: "denoising" (clean values into the corrupted run) or "noising".
        positions: Where to patch: everywhere by default, or positions, or named positions (one for
            each example), whose names become the coordinate `pos`.
        per_position: Patch z, q, k or v of a head at each position alone.
        window: Patch this many neighbouring layers together, centred on `layer` (causal tracing,
            Meng et al. 2022, arXiv:2202.05262).
        max_memory: Bytes for what is computed together; see `branches.evaluate`.
        rows: Positions that are multiplied together; with fewer, `progress` sees shorter steps.
        progress: Shows how far it is; what it no longer asks for stays NaN, and the result is
            marked `partial`.

    Returns:
        `patched` over (`layer`, `pos`, `example`), (`layer`, `head`, `example`), or all four, in
        the metric's unit; NaN beyond a prompt's end. `clean` and `corrupted`, the metric of the
        unpatched runs, over `example`. Tokens are the coordinates `clean_token` and
        `corrupted_token`.

    Raises:
        PromptError: pairs that cannot be compared, an unknown site or direction, a position out
            of range, a metric that is not finite, too little memory for one branch.
    """
    check_site(site, per_position)
    pairs = token_pairs(model, clean, corrupted)
    chosen = chosen_positions(pairs, positions)
    base = BaseRun(model, pairs.base(direction), metric)
    other, point, values = _source(base, pairs, direction, site)
    by_position = site in STREAM_SITES or per_position
    heads = range(model.cfg.n_heads) if site in HEAD_SITES else None
    dims = {"layer": range(model.cfg.n_layers)}
    dims |= {"head": heads} if heads else {}
    dims |= {"pos": list(chosen)} if by_position else {}
    at = [[column] for column in chosen.values()] if by_position else [list(chosen.values())]
    places = [places_of(pairs, columns) for columns in at]
    branches = list(grid(point, values, heads or [None], places, window))
    n_cells = torch.Size(map(len, dims.values())).numel()
    outcome = evaluate(base, branches, n_cells, max_memory=max_memory, rows=rows, progress=progress)
    dataset = _dataset(base, other, pairs, direction, chosen, dims, outcome)
    return dataset.assign_attrs(site=site, window=window)


@torch.no_grad()
def patch_together(
    model: HookedGPT2,
    clean: Prompt,
    corrupted: Prompt,
    groups: Mapping[str, Sequence[Component]],
    metric: Metric,
    direction: str = "denoising",
    positions: Positions = None,
    *,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Patch several heads (their z) and MLPs (their output) at the same time.

    Args:
        groups: Components that are patched together, by a name; the rest as in `sweep`.

    Returns:
        `patched` over (`group`, `example`), with `clean` and `corrupted` as in `sweep`.

    Raises:
        PromptError: as `sweep`; also a component that the model does not have.
    """
    pairs = token_pairs(model, clean, corrupted)
    chosen = chosen_positions(pairs, positions)
    base = BaseRun(model, pairs.base(direction), metric)
    other, _, z = _source(base, pairs, direction, "z")
    *_, mlp_out = _source(base, pairs, direction, "mlp_out")
    values: dict[Point, Values] = {"z": z, "mlp_out": mlp_out}
    places = places_of(pairs, list(chosen.values()))
    branches = list(together(model, groups.values(), values, places))
    outcome = evaluate(base, branches, len(groups), max_memory=max_memory, progress=progress)
    dims = {"group": list(groups)}
    return _dataset(base, other, pairs, direction, chosen, dims, outcome)


def _source(
    base: BaseRun, pairs: TokenPairs, direction: str, site: str
) -> tuple[Float[Tensor, " example"], Point, Values]:
    """The source run's metric, and what it puts where."""
    model = base.model
    layers = range(model.cfg.n_layers)
    n_shared = int(pairs.first_difference.min())
    value, values = base.run_other(pairs.source(direction), site, n_shared)
    if site == "q":
        no_hooks = [BlockHooks(Hooks(model), layer) for layer in layers]
        values = [
            model.blocks[layer].attn.mix(
                values[layer], base.k[layer], base.v[layer], no_hooks[layer], None
            )
            for layer in layers
        ]
    if site == "pattern":
        values = [formula.weighted_values(values[layer], base.v[layer]) for layer in layers]
    return value, POINTS[site], values


def _dataset(
    base: BaseRun,
    other: Float[Tensor, " example"],
    pairs: TokenPairs,
    direction: str,
    chosen: Mapping[Any, Tensor],
    dims: Mapping[str, Sequence[Any]],
    outcome: Outcome,
) -> xr.Dataset:
    clean, corrupted = (other, base.value) if direction == "denoising" else (base.value, other)
    values = outcome.values.clone()
    if "pos" in dims:
        beyond = torch.stack([chosen[name] for name in dims["pos"]]) >= pairs.clean.lengths.cpu()
        values[beyond.to(values.device).repeat(len(values) // len(beyond), 1)] = torch.nan
    dataset = patched_dataset(
        base.model, pairs, base.metric, dims, values, clean, corrupted, chosen
    )
    partial = int(not bool(outcome.finished.all()))
    return dataset.assign_attrs(direction=direction, partial=partial)
