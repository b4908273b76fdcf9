"""One attention weight: where it comes from, and whether it matters.

`explain` recomputes the weight from query and key to key step by step. `cut_edges` removes edges
(the score is set to -inf, so the row renormalises: an attention knock-out), and `knockout` and
`edge_effects` measure what that does to the output.
"""

from collections.abc import Iterable, Sequence

import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, HookFunction, NamesFilter, block_name
from interp.model.tokens import Prompt

TokenPosition = int | Sequence[int] | Int[Tensor, " example"]
"""A position in the prompt; one for all examples, or one each."""
Index = int | Sequence[int] | None
"""A layer or head; one for all examples, or one each; `None` stands for every one."""
Edge = tuple[Index, Index, TokenPosition, TokenPosition]
"""(layer, head, query position, key position)."""

SCORES = "attn.hook_attn_scores"
PATTERN = "attn.hook_pattern"


def cut_edges(edges: Iterable[Edge]) -> list[tuple[NamesFilter, HookFunction]]:
    """Forward hooks that set the scores of these edges to -inf.

    A position outside the prompt, or a query that would lose all its keys, is an error when they
    run.
    """
    return [_cut(edge) for edge in edges]


def _cut(edge: Edge) -> tuple[NamesFilter, HookFunction]:
    layer, head, query, key = edge

    def remove(scores: Tensor, hook: Hook) -> None:
        example = torch.arange(len(scores))
        places = [torch.as_tensor(position).long() for position in (query, key)]
        _check_positions(*places, n_positions=scores.shape[-1])
        queries, keys = (place.expand(len(scores)) for place in places)
        if layer is not None:
            here = torch.as_tensor(layer).expand(len(scores)) == hook.layer()
            example, queries, keys = example[here], queries[here], keys[here]
        heads = slice(None) if head is None else torch.as_tensor(head).expand(len(scores))[example]
        scores[example, heads, queries, keys] = float("-inf")
        if bool(scores[example, heads, queries].isneginf().all(dim=-1).any()):
            raise PromptError(f"{hook.name}: cutting this edge leaves a query without any key.")

    return (block_name(layer, SCORES) if isinstance(layer, int) else f"blocks.*.{SCORES}", remove)


def _check_positions(queries: Tensor, keys: Tensor, n_positions: int) -> None:
    for name, positions in (("query", queries), ("key", keys)):
        if int(positions.min()) < 0 or int(positions.max()) >= n_positions:
            raise PromptError(
                f"The {name} position {positions.tolist()} is outside 0-{n_positions - 1}."
            )
    if bool((keys > queries).any()):
        raise PromptError(
            f"Key {keys.tolist()} comes after query {queries.tolist()}: GPT-2 never looks ahead."
        )


def _last_logits(
    model: HookedGPT2, prompt: Prompt, edges: Iterable[Edge] = ()
) -> Float[Tensor, "batch 1 d_vocab"]:
    """Logits after each prompt's last real token, with some edges cut."""
    logits = model.run_with_hooks(prompt, cut_edges(edges), positions="last")
    assert isinstance(logits, Tensor)
    return logits


@torch.no_grad()
def knockout(
    model: HookedGPT2, tokens: Prompt, edges: Iterable[Edge], metric: Metric
) -> xr.Dataset:
    """The metric without and with these edges cut, all together.

    Returns:
        `original`, `cut` and `effect` = cut - original over `example`, in the metric's unit.
    """
    original = metric(_last_logits(model, tokens))
    cut = metric(_last_logits(model, tokens, edges))
    return xr.Dataset(
        {
            "original": ("example", original.numpy(force=True)),
            "cut": ("example", cut.numpy(force=True)),
            "effect": ("example", (cut - original).numpy(force=True)),
        },
        attrs={"metric": metric.name, "unit": metric.unit, "model": model.cfg.model_name},
    )


@torch.no_grad()
def edge_effects(
    model: HookedGPT2, tokens: Prompt, query: TokenPosition, key: TokenPosition, metric: Metric
) -> xr.Dataset:
    """For each head alone: its weight from query to key, and what cutting that edge does.

    Returns:
        Over (`layer`, `head`, `example`): `weight`; `rank` of the key in the query's row (1 is
        highest); `lift`, weight over uniform attention to all visible positions; and `effect`,
        metric with the edge cut minus metric as is, in the metric's unit.
    """
    names = f"blocks.*.{PATTERN}"
    _, cache = model.run_with_cache(tokens, names_filter=names, return_type=None)
    original = metric(_last_logits(model, tokens))
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    pattern = torch.stack([cache["pattern", layer] for layer in range(n_layers)])
    example = torch.arange(pattern.shape[1])
    queries, keys = (torch.as_tensor(p).long().expand(len(example)) for p in (query, key))
    rows = pattern[:, example, :, queries]  # indexed axes come first: example layer head key_pos
    weight = rows[example, :, :, keys]
    rank = 1 + (rows > weight[..., None]).sum(dim=-1)
    effect = torch.stack(
        [
            metric(_last_logits(model, tokens, [edge])) - original
            for edge in _one_per_head(n_layers, n_heads, query, key)
        ]
    )
    dims = ("example", "layer", "head")
    return xr.Dataset(
        {
            "weight": (dims, weight.numpy(force=True)),
            "rank": (dims, rank.numpy(force=True)),
            "lift": (dims, (weight * (queries + 1)[:, None, None]).numpy(force=True)),
            "effect": (
                ("layer", "head", "example"),
                effect.reshape(n_layers, n_heads, -1).numpy(force=True),
            ),
        },
        coords={"layer": range(n_layers), "head": range(n_heads)},
        attrs={"metric": metric.name, "unit": metric.unit, "model": model.cfg.model_name},
    ).transpose("layer", "head", "example")


def _one_per_head(
    n_layers: int, n_heads: int, query: TokenPosition, key: TokenPosition
) -> list[Edge]:
    return [(layer, head, query, key) for layer in range(n_layers) for head in range(n_heads)]


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
    _check_positions(torch.tensor(query), torch.tensor(key), keys.shape[1])
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
        coords={"token": ("key_pos", model.to_str_tokens(model.to_tokens(tokens)[0]))},
        attrs={"model": model.cfg.model_name, "layer": layer, "head": head, "score_factor": factor},
    )


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
        PromptError: a prompt is too short to hold another edge.
    """
    batch = model.as_batch(prompt)
    _, cache = model.run_with_cache(batch, names_filter=f"blocks.*.{PATTERN}", return_type=None)
    layers = [cache["pattern", index] for index in range(model.cfg.n_layers)]
    pattern = torch.stack(layers, dim=1).cpu()  # example layer head query_pos key_pos
    n_positions = pattern.shape[-1]
    example, place = torch.arange(len(pattern)), torch.arange(n_positions)
    queries, keys = (torch.as_tensor(p).long().expand(len(pattern)) for p in (query, key))
    original = pattern[example, layer, head, queries, keys]
    before_last = place < batch.lengths.cpu()[:, None] - 1
    allowed = (place <= place[:, None]) & (place > 0) & before_last[:, :, None]
    for touched in (queries, keys):
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
