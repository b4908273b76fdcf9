"""What must hold for every patch, whatever the model does: measured by plain hooked forwards.

Before the first token in which a pair differs both runs are the same, so that a patch there has no
effect; after the last layer, patching every position leaves nothing of the run that is patched. A
cell of a sweep must equal one forward pass with a hook, which shares nothing with the engine.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, full_name
from interp.model.tokens import Prompt
from interp.pairs import Positions, TokenPairs, chosen_positions, token_pairs
from interp.sites import VECTOR_SITES, check_site


class Fact(NamedTuple):
    """What a metric must be, and what it is; means over examples, in the metric's unit."""

    expected: float
    measured: float
    largest_difference: float
    """Of any example."""


@torch.no_grad()
def nothing_before_the_difference(
    model: HookedGPT2, clean: Prompt, corrupted: Prompt, metric: Metric, direction: str
) -> Fact:
    """Patch the stream of every layer at all positions before a pair differs: no effect."""
    pairs = token_pairs(model, clean, corrupted)
    place = torch.arange(pairs.clean.tokens.shape[1], device=pairs.clean.tokens.device)
    before = place < pairs.first_difference[:, None]
    names = [full_name("resid_pre", layer) for layer in range(model.cfg.n_layers)]
    base = _metric_of(model, pairs.base(direction), metric)
    return _fact(base, _patched(model, pairs, metric, direction, names, before))


@torch.no_grad()
def everything_before_the_first_layer(
    model: HookedGPT2, clean: Prompt, corrupted: Prompt, metric: Metric, direction: str
) -> Fact:
    """Patch the first residual stream, the embeddings, at all positions: the other run."""
    pairs = token_pairs(model, clean, corrupted)
    source = _metric_of(model, pairs.source(direction), metric)
    names = [full_name("resid_pre", 0)]
    return _fact(
        source, _patched(model, pairs, metric, direction, names, pairs.clean.attention_mask)
    )


@torch.no_grad()
def everything_after_the_last_layer(
    model: HookedGPT2, clean: Prompt, corrupted: Prompt, metric: Metric, direction: str
) -> Fact:
    """Patch the last residual stream at all positions: the other run."""
    pairs = token_pairs(model, clean, corrupted)
    names = [full_name("resid_post", model.cfg.n_layers - 1)]
    source = _metric_of(model, pairs.source(direction), metric)
    return _fact(
        source, _patched(model, pairs, metric, direction, names, pairs.clean.attention_mask)
    )


@torch.no_grad()
def cell_by_a_plain_forward(
    model: HookedGPT2,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    ds: xr.Dataset,
    cell: Mapping[Hashable, Any],
    positions: Positions = None,
) -> Fact:
    """Measure one cell of a sweep again, in one forward pass with a hook.

    Args:
        ds: A sweep of these prompts, with a window of one layer.
        cell: Its `layer`, and `head` and `pos` where the sweep has them.
        positions: As in the sweep.
    """
    pairs = token_pairs(model, clean, corrupted)
    columns = chosen_positions(pairs, positions)
    chosen = [columns[cell["pos"]]] if "pos" in cell else list(columns.values())
    where = torch.zeros_like(pairs.clean.attention_mask)
    where.scatter_(1, torch.stack(chosen, dim=1).to(where.device), True)
    site, direction = ds.attrs["site"], ds.attrs["direction"]
    names = [full_name(site, int(cell["layer"]))]
    expected = _patched(model, pairs, metric, direction, names, where, cell.get("head"))
    measured = torch.as_tensor(ds.patched.sel(cell).values, device=expected.device)
    real = measured.isfinite()
    return _fact(expected[real], measured[real])


@torch.no_grad()
def one_patch(
    model: HookedGPT2,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    direction: str,
    site: str,
    layer: int,
    *,
    head: int | None = None,
    position: int | None = None,
) -> Float[Tensor, " example"]:
    """The metric with one activation from the other run, in one forward pass with a hook.

    Args:
        site, layer: Where; one of `sites.SITES`.
        head: Of z, q, k, v or pattern; all heads by default.
        position: All by default.

    Raises:
        PromptError: as `interp.patching.sweep`.
    """
    check_site(site, site in VECTOR_SITES and position is not None)
    pairs = token_pairs(model, clean, corrupted)
    where = pairs.clean.attention_mask
    if position is not None:
        where = torch.zeros_like(where)
        where[:, chosen_positions(pairs, [position])[position]] = True
    return _patched(model, pairs, metric, direction, [full_name(site, layer)], where, head)


def _metric_of(model: HookedGPT2, tokens: Prompt, metric: Metric) -> Float[Tensor, " example"]:
    logits = model(tokens, positions=metric.positions)
    assert isinstance(logits, Tensor)
    return metric(logits)


def _patched(
    model: HookedGPT2,
    pairs: TokenPairs,
    metric: Metric,
    direction: str,
    names: Iterable[str],
    where: Bool[Tensor, "example pos"],
    head: int | None = None,
) -> Float[Tensor, " example"]:
    """The metric when these activations come from the other run, at these positions."""
    names = list(names)
    _, cache = model.run_with_cache(pairs.source(direction), names_filter=names)

    def replace(value: Tensor, hook: Hook) -> Tensor:
        if hook.name.endswith("pattern"):
            here = where[:, None, :, None]
        else:
            here = where.reshape(*where.shape, *[1] * (value.ndim - 2))
        if head is not None:
            axis = 1 if hook.name.endswith("pattern") else 2
            heads = torch.arange(value.shape[axis], device=value.device) == head
            here = here & heads.reshape(-1, *[1] * (value.ndim - axis - 1))
        return torch.where(here, cache[hook.name], value)

    hooks = [(name, replace) for name in names]
    logits = model.run_with_hooks(pairs.base(direction), hooks, positions=metric.positions)
    assert isinstance(logits, Tensor)
    return metric(logits)


def _fact(expected: Float[Tensor, " example"], measured: Float[Tensor, " example"]) -> Fact:
    difference = (measured - expected).abs().max() if len(expected) else torch.zeros(())
    return Fact(float(expected.mean()), float(measured.mean()), float(difference))
