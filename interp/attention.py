"""One attention weight: where it comes from, and whether it matters.

`explain` recomputes the weight from query and key to key step by step. The others cut edges (the
score is set to -inf, so the row renormalises: an attention knock-out) and measure what that does
to the output: edges all together, each alone, or in a window of layers.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from interp.attention_edges import (
    EVERY,
    PATTERN,
    Edge,
    PlacedEdge,
    TokenPosition,
    check_positions,
    cut_edges,
    edges_between,
    placed,
)
from interp.base_run import BaseRun, Edit
from interp.branches import Branch, Outcome, evaluate, window_around
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import BlockHooks, Hooks, block_name
from interp.model.tokens import Prompt
from interp.progress import Progress, no_progress
from interp.results import provenance, token_names


@torch.no_grad()
def knockout(
    model: HookedGPT2, tokens: Prompt, edges: Iterable[Edge], metric: Metric
) -> xr.Dataset:
    """The metric without and with these edges cut, all together.

    Returns:
        `original`, `cut` and `effect` = cut - original over `example`, in the metric's unit.

    Raises:
        PromptError: an edge that is not there, or a query that would lose all its keys.
    """
    batch, edges = model.as_batch(tokens), list(edges)
    for edge in edges:
        placed(model, batch, edge)
    measured = []
    for hooks in ([], cut_edges(edges)):
        logits = model.run_with_hooks(batch, hooks, positions=metric.positions)
        assert isinstance(logits, Tensor)
        measured.append(metric(logits))
    original, cut = measured
    return _dataset(model, metric, original, cut, {})


@torch.no_grad()
def knockout_each(
    model: HookedGPT2,
    tokens: Prompt,
    edges: Iterable[Edge],
    metric: Metric,
    *,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """The metric with each of these edges cut alone.

    An edge of one layer is a branch of one run (`interp.branches`); an edge that is cut in every
    layer is a run of its own.

    Args:
        max_memory: Bytes for what is computed together; see `branches.evaluate`.
        progress: Shows how far it is; what it no longer asks for stays NaN, and the result is
            marked `partial`.

    Returns:
        `cut` and `effect` = cut - original over (`edge`, `example`), in the metric's unit, and
        `original` over `example`. Coordinates over (`edge`, `example`): `layer` and `head` (-1
        for every one), `query`, `key`, and their tokens.

    Raises:
        PromptError: an edge that is not there, or a query that would lose all its keys.
    """
    base, edges = BaseRun(model, model.as_batch(tokens), metric), list(edges)
    each = [placed(model, base.batch, edge) for edge in edges]
    outcome = _each_alone(base, edges, each, max_memory, progress)
    dataset = _dataset(model, metric, base.value, outcome.values, {"edge": range(len(edges))})
    over, names = ("edge", "example"), token_names(model, base.batch)
    shape = (len(edges), len(base.value))  # also of no edges
    places = {
        name: np.array([getattr(edge, name).tolist() for edge in each], dtype=int).reshape(shape)
        for name in PlacedEdge._fields
    }
    coords: dict[str, Any] = {name: (over, places[name]) for name in places}
    for name in ("query", "key"):
        rows = [[row[at] for row, at in zip(names, r, strict=True)] for r in places[name]]
        coords[f"{name}_token"] = (over, np.array(rows, dtype=object).reshape(shape))
    partial = int(not bool(outcome.finished.all()))
    return dataset.assign_coords(coords).assign_attrs(partial=partial)


@torch.no_grad()
def edge_effects(
    model: HookedGPT2,
    tokens: Prompt,
    query: TokenPosition,
    key: TokenPosition,
    metric: Metric,
    *,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """For each head alone: its weight from query to key, and what cutting that edge does.

    Returns:
        Over (`layer`, `head`, `example`): `weight`; `rank` of the key in the query's row (1 is
        highest); `lift`, weight over uniform attention to all visible positions; and `effect`,
        metric with the edge cut minus metric as is, in the metric's unit.

    Raises:
        PromptError: a position that is not there, or a query that would lose all its keys.
    """
    base, n_heads = BaseRun(model, model.as_batch(tokens), metric), model.cfg.n_heads
    edges = [
        (layer, head, query, key) for layer in range(model.cfg.n_layers) for head in range(n_heads)
    ]
    each = [placed(model, base.batch, edge) for edge in edges]
    outcome = _each_alone(base, edges, each, None, progress)
    _, cache = model.run_with_cache(
        base.batch, names_filter=f"blocks.*.{PATTERN}", return_type=None
    )
    pattern = torch.stack([cache["pattern", layer] for layer in range(model.cfg.n_layers)])
    example, queries, keys = torch.arange(len(base.value)), each[0].query, each[0].key
    rows = pattern[:, example, :, queries]  # indexed axes come first: example layer head key_pos
    weight = rows[example, :, :, keys]
    values = {
        "weight": weight,
        "rank": 1 + (rows > weight[..., None]).sum(dim=-1),
        "lift": weight * (queries + 1).to(weight.device)[:, None, None],
        "effect": rearrange(
            outcome.values - base.value, "(layer head) example -> example layer head", head=n_heads
        ),
    }
    dims = ("example", "layer", "head")
    return xr.Dataset(
        {name: (dims, value.numpy(force=True)) for name, value in values.items()},
        coords={"layer": range(model.cfg.n_layers), "head": range(n_heads)},
        attrs={"metric": metric.name, "unit": metric.unit, **provenance(model)},
    ).transpose("layer", "head", "example")


@torch.no_grad()
def window_knockout(
    model: HookedGPT2,
    tokens: Prompt,
    queries: Sequence[TokenPosition],
    keys: Sequence[TokenPosition],
    metric: Metric,
    *,
    window: int = 1,
    heads: Sequence[int] | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Cut all edges between two sets of positions in a window of layers, around each layer.

    Where in the model does information flow from these keys to these queries?

    Args:
        queries, keys: As in `attention_edges.edges_between`.
        window: Number of layers, centred on `layer`; fewer at the ends of the model.
        heads: By default all heads of those layers.
        progress: Sees the layers; what it no longer asks for stays NaN, and the result is marked
            `partial`.

    Returns:
        `cut` and `effect` = cut - original over (`layer`, `example`), in the metric's unit, and
        `original` over `example`.

    Raises:
        PromptError: a position, head or window that is not there, or a query that would lose all
            its keys.

    Source: Geva et al. 2023, arXiv:2304.14767.
    """
    n_layers = model.cfg.n_layers
    windows = [window_around(layer, window, n_layers) for layer in range(n_layers)]
    base = BaseRun(model, model.as_batch(tokens), metric)
    for edge in edges_between(queries, keys, heads=heads):
        placed(model, base.batch, edge)
    cut = base.value.new_full((n_layers, len(base.value)), torch.nan)
    n_done = 0
    for layer in progress(range(n_layers), "Cutting windows of layers"):
        edges = edges_between(queries, keys, layers=windows[layer], heads=heads)
        cut[layer] = _cut_from(base, edges, windows[layer][0])
        n_done += 1
    dataset = _dataset(model, metric, base.value, cut, {"layer": range(n_layers)})
    return dataset.assign_attrs(window=window, partial=int(n_done < n_layers))


def _each_alone(
    base: BaseRun,
    edges: Sequence[Edge],
    each: Sequence[PlacedEdge],
    max_memory: int | None,
    progress: Progress,
) -> Outcome:
    """The metric with each edge cut alone."""
    in_one_layer = [edge[0] is not None for edge in edges]
    branches = [
        branch
        for cell, edge in enumerate(each)
        if in_one_layer[cell]
        for branch in _branches(base, cell, edge)
    ]
    outcome = evaluate(
        base, branches, len(edges), max_memory=max_memory, progress=progress, description="Cutting"
    )
    in_every_layer = [cell for cell, one in enumerate(in_one_layer) if not one]
    outcome.values[in_every_layer] = torch.nan
    outcome.finished[in_every_layer] = False
    for cell in progress(in_every_layer, "Cutting in every layer"):
        outcome.values[cell] = _cut_from(base, [edges[cell]], 0)
        outcome.finished[cell] = True
    return outcome


def _branches(base: BaseRun, cell: int, edge: PlacedEdge) -> Iterator[Branch]:
    """A cut edge as an edit of what its head, or all of attention, writes at its query."""
    together: dict[tuple[int, ...], list[int]] = {}
    for example, place in enumerate(zip(*(column.tolist() for column in edge), strict=True)):
        together.setdefault(place, []).append(example)
    for (layer, head, query, key), examples in together.items():
        attn = base.model.blocks[layer].attn
        # A softmax without a key is the softmax with its score at -inf.
        others = [position for position in range(query + 1) if position != key]
        if not others:
            raise PromptError(f"Cutting key {key} leaves query {query} without any key.")
        q, k, v = (x[layer][examples] for x in (base.q, base.k, base.v))
        no_hooks = BlockHooks(Hooks(base.model), layer)
        z = attn.mix(q[:, [query]], k[:, others], v[:, others], no_hooks, None)
        if head == EVERY:
            edit = Edit("attn_out", layer, (query,), attn.project(z))
        else:
            edit = Edit("z", layer, (query,), z[:, :, head], head)
        yield Branch(cell, tuple(examples), (edit,))


def _cut_from(base: BaseRun, edges: Sequence[Edge], first: int) -> Float[Tensor, " example"]:
    """The metric with edges cut together, none of them before layer `first`."""
    logits = base.model.run_with_hooks(
        base.streams[first],
        cut_edges(edges),
        positions=base.metric.positions,
        attention_mask=base.batch.attention_mask,
        start_at_layer=first,
    )
    assert isinstance(logits, Tensor)
    return base.metric(logits)


def _dataset(
    model: HookedGPT2,
    metric: Metric,
    original: Float[Tensor, " example"],
    cut: Float[Tensor, "*dims example"],
    dims: Mapping[str, Sequence[Any]],
) -> xr.Dataset:
    over = (*dims, "example")
    return xr.Dataset(
        {
            "original": ("example", original.numpy(force=True)),
            "cut": (over, cut.numpy(force=True)),
            "effect": (over, (cut - original).numpy(force=True)),
        },
        coords={name: list(values) for name, values in dims.items()},
        attrs={"metric": metric.name, "unit": metric.unit, **provenance(model)},
    )


@torch.no_grad()
def explain(
    model: HookedGPT2, tokens: Prompt, layer: int, head: int, query: int, key: int
) -> xr.Dataset:
    """Attention(Q, K, V) = softmax(Q Kᵀ / √d_head) V with its numbers, for one query of one head.

    Returns:
        `q`, `k` and `product` = q·k by coordinate, over `d_head`; `dot`, their sum; `scaled`, dot
        times the score factor (1/√d_head in a plain GPT-2). Over `key_pos`: `score`, the scaled
        row with -inf where masked; `weight`, its softmax; `value_norm`, |v|; and `share`, the part
        of the head's output Σ A v W_O that comes from each key, as the projection on that output:
        the shares sum to 1. `difference` is the largest difference between `weight` and the model's
        own hook_pattern. Token strings are a coordinate.

    Raises:
        PromptError: more than one prompt, or a position outside it or after the query.
    """
    _, cache = model.run_with_cache(
        tokens,
        names_filter=[block_name(layer, f"attn.hook_{x}") for x in ("q", "k", "v", "pattern")],
        return_type=None,
        stop_at_layer=layer + 1,
    )
    keys = cache["k", layer]
    if len(keys) != 1:
        raise PromptError(f"explain takes one prompt, got {len(keys)}.")
    check_positions(torch.tensor(query), torch.tensor(key), keys.shape[1])
    q, k, v = cache["q", layer][0, query, head], keys[0, :, head], cache["v", layer][0, :, head]
    factor = model.cfg.score_factor(layer)
    score = (k @ q) * factor
    score[query + 1 :] = float("-inf")
    weight = score.softmax(dim=-1)
    W_O = model.blocks[layer].attn.W_O[head]
    written = einsum(weight, v, W_O, "key_pos, key_pos d_head, d_head d_model -> key_pos d_model")
    output = written.sum(dim=0)
    own = cache["pattern", layer][0, head, query]
    steps = {
        "q": ("d_head", q),
        "k": ("d_head", k[key]),
        "product": ("d_head", q * k[key]),
        "dot": ((), q @ k[key]),
        "scaled": ((), (q @ k[key]) * factor),
        "score": ("key_pos", score),
        "weight": ("key_pos", weight),
        "value_norm": ("key_pos", v.norm(dim=-1)),
        "share": ("key_pos", written @ output / output.square().sum()),
        "difference": ((), (weight - own).abs().max()),
    }
    return xr.Dataset(
        {name: (dims, value.numpy(force=True)) for name, (dims, value) in steps.items()},
        coords={"token": ("key_pos", token_names(model, model.as_batch(tokens))[0])},
        attrs={"model": model.cfg.model_name, "layer": layer, "head": head, "score_factor": factor},
    )
