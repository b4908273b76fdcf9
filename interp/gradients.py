"""Attribution patching: all cells of a patching sweep, estimated from one gradient.

Patching replaces a value x of the base run by the source run's x'. To first order this changes the
metric by (x' - x) · ∂metric/∂x: two forwards and one backward give every cell of every site. The
estimate fails where the model is far from linear between the two values. Two corrections (AtP*):

    qk_fix      A saturated softmax has no slope. For q and k the pattern that the patch gives is
                computed exactly, and only what follows the pattern is linearised.
    grad_drop   A direct and an indirect effect may cancel. One layer at a time, no gradient flows
                through what that layer writes; the absolute effects that are left are averaged.

`interp.agreement.compare` says how well an estimate agrees with the exact sweep.
Sources: Nanda 2023, "Attribution Patching"; Syed et al. 2023, arXiv:2310.10348; Kramár et al. 2024,
arXiv:2403.00745 (AtP*).
"""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import xarray as xr
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from interp.derivatives import DifferentiableRun, read_positions
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import full_name
from interp.model.tokens import Prompt
from interp.pairs import Positions, TokenPairs, chosen_positions, token_pairs
from interp.patched_patterns import effects_by_query, effects_of_single_keys
from interp.results import patched_dataset
from interp.sites import SITES, STREAM_SITES, check_site

CORRECTIONS = ("qk_fix", "grad_drop")
THROUGH_SOFTMAX = ("q", "k")

Cells = Float[Tensor, "layer *head_and_pos example"]


@dataclass(frozen=True)
class _Options:
    direction: str
    positions: Positions
    per_position: bool = False
    corrections: Collection[str] = ()

    def check(self, site: str, n_layers: int) -> None:
        """Refuse what has no meaning for this site."""
        check_site(site, self.per_position)
        for name in set(self.corrections) - set(CORRECTIONS):
            raise PromptError(f"Unknown correction {name!r}. Known: {', '.join(CORRECTIONS)}.")
        if "qk_fix" in self.corrections and site not in THROUGH_SOFTMAX:
            raise PromptError(f"qk_fix is for q and k; {site} does not act through the softmax.")
        if "grad_drop" in self.corrections and n_layers == 1:
            raise PromptError("grad_drop drops one layer and keeps others; this model has one.")

    def by_position(self, site: str) -> bool:
        """Whether the cells of this site are single positions."""
        return site in STREAM_SITES or self.per_position


def attribution_patching(
    model: HookedGPT2,
    clean: Prompt,
    corrupted: Prompt,
    site: str,
    metric: Metric,
    direction: str = "denoising",
    positions: Positions = None,
    *,
    per_position: bool = False,
    corrections: Collection[str] = (),
) -> xr.Dataset:
    """Estimate `patching.sweep` of the same arguments in two forwards and one backward.

    Args:
        site: What is patched: one of `sites.SITES`.
        direction: Denoising patches clean values into the corrupted run, noising the reverse. The
            gradient is taken in the run that is patched.
        positions: Which positions are patched (of a pattern: which queries); by default all. Named
            ones, with a position for each example, name the coordinate `pos`.
        per_position: For z, q, k and v: each position by itself instead of the whole head.
        corrections: "qk_fix", for q and k only; "grad_drop", one more backward for each layer.

    Returns:
        A dataset like the sweep's. `patched`: metric of the base run plus estimated effect, in the
        metric's unit, over (`layer`, `pos`, `example`) in the residual stream and (`layer`, `head`,
        [`pos`,] `example`) for heads; NaN beyond a prompt. With grad_drop also `magnitude`, the
        mean absolute effect with a layer dropped: over all layers for resid_*; for other sites over
        all but their own, which cuts them off. It ranks cells, and has no sign.

    Raises:
        PromptError: prompts that are no pairs, options that do not fit the site or the model, or a
            metric that is not finite.
    """
    options = _Options(direction, positions, per_position, corrections)
    options.check(site, model.cfg.n_layers)
    pairs = token_pairs(model, clean, corrupted)
    return _Estimator(model, pairs, [site], metric, options).dataset(site)


def all_sites(
    model: HookedGPT2,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    direction: str = "denoising",
    positions: Positions = None,
) -> dict[str, xr.Dataset]:
    """`attribution_patching` of every site, all from the same two forwards and one backward."""
    options = _Options(direction, positions)
    pairs = token_pairs(model, clean, corrupted)
    estimator = _Estimator(model, pairs, SITES, metric, options)
    return {site: estimator.dataset(site) for site in SITES}


class _Estimator:
    """Both runs of the pairs, with the gradients in the one that is patched."""

    def __init__(
        self,
        model: HookedGPT2,
        pairs: TokenPairs,
        sites: Iterable[str],
        metric: Metric,
        options: _Options,
    ) -> None:
        self.model, self.pairs, self.metric, self.options = model, pairs, metric, options
        self.layers = range(model.cfg.n_layers)
        self.positions = chosen_positions(pairs, options.positions)
        self.where = torch.stack(list(self.positions.values())).to(pairs.clean.tokens.device)
        self.fixed = "qk_fix" in options.corrections
        with torch.no_grad():
            logits, self.source = model.run_with_cache(
                pairs.source(options.direction),
                names_filter=self._names(sites),
                positions=read_positions(metric, len(pairs.clean.tokens)),
            )
            assert isinstance(logits, Tensor)
            self.source_metric = metric(logits)
        names = self._names((*THROUGH_SOFTMAX, "pattern") if self.fixed else sites)
        self.run = DifferentiableRun(model, pairs.base(options.direction), metric, names)
        _check_finite(metric, self.source_metric, self.run.metric)
        self.base, self.gradients = self.run.values, self.run.gradients()

    def _names(self, sites: Iterable[str]) -> list[str]:
        return [full_name(site, layer) for site in sites for layer in self.layers]

    def dataset(self, site: str) -> xr.Dataset:
        """The estimate for one site."""
        dims: dict[str, Sequence[Hashable]] = {"layer": self.layers}
        dims |= {} if site in STREAM_SITES else {"head": range(self.model.cfg.n_heads)}
        dims |= {"pos": list(self.positions)} if self.options.by_position(site) else {}
        patched = self.run.metric + self._cells(site, self.gradients)
        runs = self.source_metric, self.run.metric
        clean, corrupted = runs if self.options.direction == "denoising" else reversed(runs)
        dataset = patched_dataset(
            self.model,
            self.pairs,
            self.metric,
            dims,
            patched.flatten(0, -2),
            clean,
            corrupted,
            self.positions,
        )
        if "grad_drop" in self.options.corrections:
            magnitude = self._magnitude(site).numpy(force=True)
            dataset["magnitude"] = (dataset.patched.dims, magnitude)
        return dataset.assign_attrs(
            direction=self.options.direction,
            site=site,
            method="attribution patching",
            corrections=", ".join(sorted(self.options.corrections)),
            partial=0,
        )

    def _magnitude(self, site: str) -> Cells:
        """Mean absolute effect with one layer dropped, over the layers that leave one."""
        left = [self._cells(site, self.run.gradients(dropped=layer)).abs() for layer in self.layers]
        # What a layer computes is cut off when it is dropped; the stream that passes it is not.
        n_left = len(left) if site.startswith("resid") else len(left) - 1
        return torch.stack(left).sum(dim=0) / n_left

    def _cells(self, site: str, gradients: Mapping[str, Tensor]) -> Cells:
        """Estimated effect of each cell's patch."""
        effects = torch.stack([self._effects(site, layer, gradients) for layer in self.layers])
        if not self.options.by_position(site):
            return reduce(effects, "layer example pos head -> layer head example", "sum")
        effects = rearrange(effects, "layer example pos ... -> layer ... pos example")
        beyond = ~self.pairs.clean.attention_mask.T
        example = torch.arange(beyond.shape[1], device=beyond.device)
        return effects.masked_fill(beyond, torch.nan)[..., self.where, example]

    def _can_matter(self) -> Bool[Tensor, "example pos"]:
        """Where a patch is made and may have an effect: not before the pair differs."""
        real = self.pairs.clean.attention_mask
        chosen = torch.zeros_like(real).scatter(1, self.where.T, True)
        place = torch.arange(real.shape[1], device=real.device)
        return real & chosen & (place >= self.pairs.first_difference[:, None])

    def _effects(
        self, site: str, layer: int, gradients: Mapping[str, Tensor]
    ) -> Float[Tensor, "example pos *head"]:
        """Effect of patching one layer, by position; a whole head's is their sum."""
        name = full_name(site, layer)
        base, source = (_by_position(values[name], site) for values in (self.base, self.source))
        here = self._can_matter()
        source = torch.where(here.reshape(*here.shape, *[1] * (base.ndim - 2)), source, base)
        if not self.fixed:
            return ((source - base) * _by_position(gradients[name], site)).sum(dim=-1)
        q, k = (self.base[full_name(letter, layer)] for letter in THROUGH_SOFTMAX)
        after_softmax = gradients[full_name("pattern", layer)]
        factor = self.model.cfg.score_factor(layer)
        if site == "k" and self.options.per_position:
            return effects_of_single_keys(q, k, source, after_softmax, factor)
        patched = (source, k) if site == "q" else (q, source)
        return effects_by_query(q, k, *patched, after_softmax, factor)


def _check_finite(metric: Metric, *runs: Float[Tensor, " example"]) -> None:
    wrong = (~torch.stack(runs).isfinite().all(dim=0)).nonzero().flatten().tolist()
    if wrong:
        raise PromptError(f"The metric {metric.name} is not finite in examples {wrong[:5]}.")


def _by_position(value: Tensor, site: str) -> Float[Tensor, "example pos *rest"]:
    """At least float32, with the position that a patch replaces (a pattern's query) second."""
    value = at_least_float32(value)
    return (
        rearrange(value, "b head query_pos k -> b query_pos head k") if site == "pattern" else value
    )
