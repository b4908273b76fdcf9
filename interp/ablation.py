"""Removing components: what breaks when a head or an MLP no longer writes what it writes?

What takes the place of the output is always named:

- zero: nothing. Far from what a head usually writes, so effects can be overstated.
- mean: its mean over all positions of a reference set.
- positional mean: its mean over the reference set at the same position, as the IOI study does with
  prompts of one template (Wang et al. 2022, arXiv:2211.00593).
- resample: what it writes at the same position of a random reference prompt.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
import xarray as xr
from einops import einsum
from jaxtyping import Int
from torch import Tensor

from interp.base_run import BaseRun, Point
from interp.branches import Component, Outcome, Values, check_component, evaluate, grid, together
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, HookFunction, NamesFilter, block_name, full_name
from interp.model.tokens import Prompt, TokenBatch
from interp.pairs import Place, grouped_places
from interp.progress import Progress, no_progress
from interp.results import provenance, token_names

Kind = Literal["zero", "mean", "positional mean", "resample"]
Of = Literal["heads", "mlps"]


@torch.no_grad()
def sweep(
    model: HookedGPT2,
    tokens: Prompt,
    metric: Metric,
    kind: str,
    *,
    of: str = "heads",
    reference: Prompt | None = None,
    per_position: bool = False,
    seed: int = 0,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Ablate every head (its z), or every MLP (its output), alone.

    Args:
        kind: "zero", "mean", "positional mean" or "resample".
        of: "heads" or "mlps".
        reference: Prompts whose values take the place; the tokens themselves by default. Not for
            "zero".
        per_position: Ablate at each position alone instead of at all together.
        seed: Of the reference prompts that "resample" draws.

    Returns:
        `ablated` and `effect` (ablated - original, in the metric's unit) over (`layer`, `head`,
        `example`), without `head` for MLPs, and with `pos` per position (NaN beyond a prompt's
        end); `original` over `example`.

    Raises:
        PromptError: an unknown kind, or a reference that is too short for it.
    """
    if of not in get_args(Of):
        raise PromptError(f"of is {of!r}; use 'heads' or 'mlps'.")
    base = BaseRun(model, model.as_batch(tokens), metric)
    point: Point = "z" if of == "heads" else "mlp_out"
    values = replacements(model, base.batch, [point], kind, reference, seed)[point]
    n_positions = base.batch.tokens.shape[1]
    everywhere = range(n_positions)
    heads = range(model.cfg.n_heads) if of == "heads" else None
    dims = {"layer": range(model.cfg.n_layers)}
    dims |= {"head": heads} if heads else {}
    dims |= {"pos": everywhere} if per_position else {}
    together = [[p] for p in everywhere] if per_position else [everywhere]
    places = [_places(base.batch, positions) for positions in together]
    branches = list(grid(point, values, heads or [None], places, window=1))
    n_cells = torch.Size(map(len, dims.values())).numel()
    outcome = evaluate(
        base, branches, n_cells, max_memory=max_memory, progress=progress, description="Ablating"
    )
    return _dataset(base, dims, outcome).assign_attrs(kind=kind, seed=seed)


@torch.no_grad()
def ablate_together(
    model: HookedGPT2,
    tokens: Prompt,
    groups: Mapping[str, Sequence[Component]],
    metric: Metric,
    kind: str,
    *,
    reference: Prompt | None = None,
    seed: int = 0,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Ablate the heads and MLPs of each group at the same time, at all positions.

    Args:
        groups: Components, as (layer, head) or (layer, "mlp"), by a name; the rest as in `sweep`.

    Returns:
        `ablated` and `effect` over (`group`, `example`); `original` over `example`.

    Raises:
        PromptError: as `sweep`; also a component that the model does not have.
    """
    base = BaseRun(model, model.as_batch(tokens), metric)
    components = [component for group in groups.values() for component in group]
    values = _replacements_of(model, base.batch, components, kind, reference, seed)
    places = _places(base.batch, range(base.batch.tokens.shape[1]))
    branches = list(together(model, groups.values(), values, places))
    outcome = evaluate(
        base, branches, len(groups), max_memory=max_memory, progress=progress,
        description="Ablating",
    )  # fmt: skip
    return _dataset(base, {"group": list(groups)}, outcome).assign_attrs(kind=kind, seed=seed)


def interplay(
    model: HookedGPT2,
    tokens: Prompt,
    components: Sequence[Component],
    metric: Metric,
    kind: str,
    *,
    reference: Prompt | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Whether components act independently: the effect of all together against the sum of each.

    Args:
        components: At least one, each once; the rest as in `ablate_together`.

    Returns:
        `alone` over (`component`, `example`), named as in L1H2 and L0MLP; `sum` of these, effect
        `together`, and `interplay` = together - sum, over `example`; all in the metric's unit.

    Raises:
        PromptError: as `ablate_together`; no component, or one twice.
    """
    names = [component_name(*component) for component in components]
    if not names or len(set(names)) < len(names):
        raise PromptError(f"Give components, each once; got {', '.join(names) or 'none'}.")
    groups = {name: [own] for name, own in zip(names, components, strict=True)}
    ds = ablate_together(
        model, tokens, groups | {"all": components}, metric, kind, reference=reference, seed=seed
    )
    alone = ds["effect"].sel(group=names).rename(group="component")
    together = ds["effect"].sel(group="all", drop=True)
    total = alone.sum("component")
    found = {"alone": alone, "sum": total, "together": together, "interplay": together - total}
    return xr.Dataset(found | {"original": ds["original"]}, attrs=ds.attrs)


def component_name(layer: int, part: int | str) -> str:
    """As in L1H2, or L0MLP."""
    return f"L{layer}MLP" if part == "mlp" else f"L{layer}H{part}"


@torch.no_grad()
def replacing_hooks(
    model: HookedGPT2,
    tokens: Prompt,
    components: Sequence[Component],
    kind: str,
    *,
    reference: Prompt | None = None,
    seed: int = 0,
) -> list[tuple[NamesFilter, HookFunction]]:
    """Forward hooks that ablate components at all positions, for runs of your own on these tokens.

    A run with them is the one that `ablate_together` measures.

    Args:
        components: As (layer, head) or (layer, "mlp"); the rest as in `sweep`.

    Raises:
        PromptError: as `ablate_together`.
    """
    batch = model.as_batch(tokens)
    for layer, part in components:
        check_component(model, layer, part)
    values = _replacements_of(model, batch, components, kind, reference, seed)
    return [
        _putting(layer, part, values["mlp_out" if part == "mlp" else "z"][layer])
        for layer, part in components
    ]


def _putting(layer: int, part: int | str, values: Tensor) -> tuple[NamesFilter, HookFunction]:
    """The hook that puts values (`example pos [head] width`) in a component's place."""
    head = part if isinstance(part, int) else None

    def put(value: Tensor, hook: Hook) -> None:  # noqa: ARG001
        own = slice(None) if head is None else head
        value[:, :, own] = values[:, :, own]

    return block_name(layer, "hook_mlp_out" if head is None else "attn.hook_z"), put


def _replacements_of(
    model: HookedGPT2, batch: TokenBatch, components: Sequence[Component], kind: str,
    reference: Prompt | None, seed: int,
) -> dict[Point, Values]:  # fmt: skip
    """What is put at the points that these components write; of none, what z would get."""
    parts = {part for _, part in components}
    points: list[Point] = []
    if parts - {"mlp"}:
        points.append("z")
    if "mlp" in parts:
        points.append("mlp_out")
    return replacements(model, batch, points or ["z"], kind, reference, seed)


def replacements(
    model: HookedGPT2, tokens: TokenBatch, points: Sequence[Point], kind: str,
    reference: Prompt | None, seed: int,
) -> dict[Point, Values]:  # fmt: skip
    """What takes the place of these values, at every position of the tokens, for each layer."""
    if kind not in get_args(Kind):
        raise PromptError(f"There is no ablation {kind!r}; use {', '.join(get_args(Kind))}.")
    if kind == "zero":
        if reference is not None:
            raise PromptError("Zero ablation takes no reference.")
        return {point: _nothing(model, tokens, point) for point in points}
    batch = tokens if reference is None else model.as_batch(reference)
    layers = range(model.cfg.n_layers)
    names = [full_name(point, layer) for point in points for layer in layers]
    _, cache = model.run_with_cache(batch, names_filter=names, return_type=None)
    take = _chosen_rows(kind, tokens, batch, seed)
    return {point: [take(cache[point, layer]) for layer in layers] for point in points}


def _nothing(model: HookedGPT2, tokens: TokenBatch, point: Point) -> Values:
    cfg = model.cfg
    width = (cfg.n_heads, cfg.d_head) if point == "z" else (cfg.d_model,)
    nothing = torch.zeros((), dtype=cfg.dtype, device=cfg.device)
    return [nothing.expand(*tokens.tokens.shape, *width)] * cfg.n_layers


def _chosen_rows(
    kind: str, batch: TokenBatch, reference: TokenBatch, seed: int
) -> Callable[[Tensor], Tensor]:
    """How a reference value `reference pos ...` becomes one for `example pos ...`."""
    n_examples, n_positions = batch.tokens.shape
    mask = reference.attention_mask
    if kind == "mean":
        return lambda value: (
            value[mask].mean(dim=0).expand(n_examples, n_positions, *value.shape[2:])
        )
    if reference is batch and n_examples == 1:
        raise PromptError(f"A {kind} of one prompt is itself. Give a reference of other prompts.")
    longest = int(batch.lengths.max())
    if int(reference.lengths.max()) < longest:
        raise PromptError(
            f"A {kind} needs reference prompts of {longest} tokens; the longest has "
            f"{int(reference.lengths.max())}. Use longer ones, or kind='mean'."
        )
    if kind == "positional mean":
        share = mask / mask.sum(dim=0).clamp(min=1)

        def mean(value: Tensor) -> Tensor:
            weighted = einsum(value, share.to(value.dtype), "ref pos ..., ref pos -> pos ...")
            return weighted[:n_positions].expand(n_examples, *weighted[:n_positions].shape)

        return mean
    rows = _drawn(batch, reference, seed)
    return lambda value: value[rows, :n_positions]


def _drawn(batch: TokenBatch, reference: TokenBatch, seed: int) -> Int[Tensor, " example"]:
    """For each example a random reference prompt that is long enough, and not itself."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for example, length in enumerate(batch.lengths.tolist()):
        fits = (reference.lengths >= length).cpu()
        if reference is batch:
            fits[example] = False
        candidates = fits.nonzero().flatten()
        if not len(candidates):
            raise PromptError(
                f"No reference prompt other than itself has the {length} tokens of example "
                f"{example}. Give a reference, or kind='mean'."
            )
        rows.append(candidates[torch.randint(len(candidates), (), generator=generator)])
    return torch.stack(rows).to(batch.tokens.device)


def _places(batch: TokenBatch, positions: Sequence[int]) -> list[Place]:
    """Examples by which of these positions they have."""
    n_examples = len(batch.tokens)
    return grouped_places([positions] * n_examples, [0] * n_examples, batch.lengths.tolist())


def _dataset(base: BaseRun, dims: Mapping[str, Sequence[Any]], outcome: Outcome) -> xr.Dataset:
    values = outcome.values
    if "pos" in dims:
        beyond = torch.arange(len(dims["pos"]), device=values.device)[:, None] >= base.batch.lengths
        values = values.masked_fill(beyond.repeat(len(values) // len(beyond), 1), torch.nan)
    shape, axes = (*map(len, dims.values()), len(base.value)), (*dims, "example")
    ablated = values.reshape(shape)
    return xr.Dataset(
        {
            "original": ("example", base.value.numpy(force=True)),
            "ablated": (axes, ablated.numpy(force=True)),
            "effect": (axes, (ablated - base.value).numpy(force=True)),
        },
        coords={name: list(values) for name, values in dims.items()}
        | {"token": (("example", "token_pos"), token_names(base.model, base.batch))},
        attrs={
            "metric": base.metric.name,
            "unit": base.metric.unit,
            "partial": int(not bool(outcome.finished.all())),
            **provenance(base.model),
        },
    )


def zero_heads(heads: Iterable[tuple[int, int]]) -> list[tuple[NamesFilter, HookFunction]]:
    """Forward hooks that replace the z of each (layer, head) by zero, for runs of your own."""
    return [_zero_head(layer, head) for layer, head in heads]


def _zero_head(layer: int, head: int) -> tuple[NamesFilter, HookFunction]:
    def zero(z: Tensor, hook: Hook) -> None:  # noqa: ARG001
        z[:, :, head] = 0

    return block_name(layer, "attn.hook_z"), zero
