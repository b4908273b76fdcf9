"""Attention edges: from a query position of a head to the key position that it looks at.

Which edges there are between words, which one is a fair control, and how a run is made without
some. A cut edge has the score -inf, so that the query's other weights renormalise.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, HookFunction, NamesFilter, block_name
from interp.model.tokens import Prompt, TokenBatch

TokenPosition = int | Sequence[int] | Int[Tensor, " example"]
"""A position in the prompt; one for all examples, or one each."""
Index = int | Sequence[int] | None
"""A layer or head; one for all examples, or one each; `None` stands for every one."""
Edge = tuple[Index, Index, TokenPosition, TokenPosition]
"""(layer, head, query position, key position)."""

SCORES = "attn.hook_attn_scores"
PATTERN = "attn.hook_pattern"
EVERY = -1
"""Stands for every layer or head in a `PlacedEdge`."""


class PlacedEdge(NamedTuple):
    """An edge as it is in each example."""

    layer: Int[Tensor, " example"]
    head: Int[Tensor, " example"]
    query: Int[Tensor, " example"]
    key: Int[Tensor, " example"]


def edges_between(
    queries: Sequence[TokenPosition],
    keys: Sequence[TokenPosition],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> list[Edge]:
    """Every edge from one set of positions back to another.

    Args:
        queries, keys: Positions, such as those of the tokens of two words. A position in both sets
            also has the edge to itself.
        layers, heads: By default one edge stands for all of them.

    Raises:
        PromptError: a key comes after the query in some examples only, or no edge is left.
    """
    pairs = [(query, key) for query in queries for key in keys if _looks_back(query, key)]
    if not pairs:
        raise PromptError(
            f"No query {list(queries)} comes after a key {list(keys)}: GPT-2 never looks ahead."
        )
    return [
        (layer, head, query, key)
        for layer in ([None] if layers is None else layers)
        for head in ([None] if heads is None else heads)
        for query, key in pairs
    ]


def _looks_back(query: TokenPosition, key: TokenPosition) -> bool:
    back = torch.as_tensor(key) <= torch.as_tensor(query)
    if bool(back.any()) and not bool(back.all()):
        raise PromptError(
            f"Key {key} comes after query {query} in some examples only; run those apart."
        )
    return bool(back.all())


def placed(model: HookedGPT2, batch: TokenBatch, edge: Edge) -> PlacedEdge:
    """An edge with its layer, head and positions in every example.

    Raises:
        PromptError: a layer, head or position that is not there, or a key after its query.
    """
    names = ("layer", "head", "query position", "key position")
    ends = (model.cfg.n_layers, model.cfg.n_heads, batch.lengths.cpu(), batch.lengths.cpu())
    columns = []
    for name, value, end in zip(names, edge, ends, strict=True):
        column = per_example(EVERY if value is None else value, len(batch.tokens), name)
        if value is not None:
            _check_inside(name, column, torch.as_tensor(end))
        columns.append(column)
    edge_in_each = PlacedEdge(*columns)
    _check_looks_back(edge_in_each.query, edge_in_each.key)
    return edge_in_each


def per_example(
    value: TokenPosition, n_examples: int, name: str = "position"
) -> Int[Tensor, " example"]:
    """One number for each example, on the CPU."""
    column = torch.as_tensor(value).long().cpu()
    if column.ndim > 1 or column.numel() not in (1, n_examples):
        raise PromptError(
            f"The {name} has {column.numel()} values for {n_examples} examples; give one for all, "
            "or one each."
        )
    return column.expand(n_examples)


def check_positions(queries: Tensor, keys: Tensor, n_positions: int) -> None:
    """Raise PromptError for a position outside the prompt, or a key after its query."""
    for name, positions in (("query position", queries), ("key position", keys)):
        _check_inside(name, positions, torch.tensor(n_positions))
    _check_looks_back(queries, keys)


def _check_inside(
    name: str, values: Int[Tensor, "*#example"], ends: Int[Tensor, "*#example"]
) -> None:
    values, ends = (x.flatten() for x in torch.broadcast_tensors(values, ends))
    wrong = ((values < 0) | (values >= ends)).nonzero().flatten().tolist()
    if wrong:
        example = wrong[0]
        raise PromptError(
            f"The {name} {int(values[example])} is outside 0-{int(ends[example]) - 1} of example "
            f"{example}."
        )


def _check_looks_back(queries: Int[Tensor, "*#example"], keys: Int[Tensor, "*#example"]) -> None:
    if bool((keys > queries).any()):
        raise PromptError(
            f"Key {keys.tolist()} comes after query {queries.tolist()}: GPT-2 never looks ahead."
        )


def cut_edges(edges: Iterable[Edge]) -> list[tuple[NamesFilter, HookFunction]]:
    """Forward hooks that set the scores of these edges to -inf.

    A position outside the prompt, or a query that would lose all its keys, is an error when they
    run.
    """
    return [_cut(edge) for edge in edges]


def _cut(edge: Edge) -> tuple[NamesFilter, HookFunction]:
    layer, head, query, key = edge

    def remove(scores: Tensor, hook: Hook) -> None:
        n_examples = len(scores)
        example = torch.arange(n_examples)
        queries, keys = (per_example(position, n_examples) for position in (query, key))
        check_positions(queries, keys, scores.shape[-1])
        if layer is not None:
            here = per_example(layer, n_examples, "layer") == hook.layer()
            example, queries, keys = example[here], queries[here], keys[here]
        heads = slice(None) if head is None else per_example(head, n_examples, "head")[example]
        scores[example, heads, queries, keys] = float("-inf")
        if bool(scores[example, heads, queries].isneginf().all(dim=-1).any()):
            raise PromptError(f"{hook.name}: cutting this edge leaves a query without any key.")

    return (block_name(layer, SCORES) if isinstance(layer, int) else f"blocks.*.{SCORES}", remove)


@torch.no_grad()
def control_edges(
    model: HookedGPT2,
    prompt: Prompt,
    layer: int,
    head: int,
    query: TokenPosition,
    key: TokenPosition,
) -> xr.Dataset:
    """For each example the edge elsewhere whose weight is nearest to the given edge's.

    Any layer and head may hold it. It touches neither of the two positions; its key is not the
    first position, which many heads use as a sink; and its query is not the last, where the answer
    is read off.

    Returns:
        `layer`, `head`, `query`, `key` and `weight` of the control edge, and `original_weight`,
        over `example`.

    Raises:
        PromptError: a prompt is too short to hold another edge, or the edge is not there.
    """
    batch = model.as_batch(prompt)
    _, cache = model.run_with_cache(batch, names_filter=f"blocks.*.{PATTERN}", return_type=None)
    layers = [cache["pattern", index] for index in range(model.cfg.n_layers)]
    pattern = torch.stack(layers, dim=1).cpu()  # example layer head query_pos key_pos
    n_positions = pattern.shape[-1]
    example, place = torch.arange(len(pattern)), torch.arange(n_positions)
    edge = placed(model, batch, (layer, head, query, key))
    original = pattern[example, *edge]
    before_last = place < batch.lengths.cpu()[:, None] - 1
    allowed = (place <= place[:, None]) & (place > 0) & before_last[:, :, None]
    for touched in (edge.query, edge.key):
        allowed[example, touched] = False
        allowed[example, :, touched] = False
    if not bool(allowed.flatten(1).any(dim=1).all()):
        raise PromptError("The prompt is too short to hold a control edge.")
    distance = (pattern - original[:, None, None, None, None]).abs()
    nearest = distance.masked_fill(~allowed[:, None, None], torch.inf).flatten(1).argmin(dim=1)
    found = torch.unravel_index(nearest, pattern.shape[1:])
    values = dict(zip(("layer", "head", "query", "key"), found, strict=True))
    values |= {"weight": pattern[example, *found], "original_weight": original}
    return xr.Dataset({name: ("example", x.numpy()) for name, x in values.items()})
