"""What every head attends to on one prompt, reduced while the model runs.

A pattern has heads x positions x positions numbers in each layer; of a long prompt, all layers
together are hundreds of megabytes. So each layer's is reduced to what is asked as it passes.
"""

from collections.abc import Callable

import pandas as pd
import torch
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from interp.errors import PromptError
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook
from interp.model.tokens import Prompt, TokenBatch
from interp.results import provenance, token_names

PATTERN = "blocks.*.attn.hook_pattern"
MEASURES = {
    "first_token": "mean weight on the first token, over all later queries",
    "previous_token": "mean weight on the token before, over all queries but the first",
    "self": "mean weight on the query's own token, over all queries but the first",
    "entropy": "mean entropy of the weights / log(number of visible keys); 1 = even attention",
    "distance": "mean number of positions between query and key, weighted by attention",
    "strongest": "largest weight of any edge that does not end at the first token",
}
"""What each measure of a head's pattern on one prompt is."""

Pattern = Float[Tensor, "head query_pos key_pos"]


@torch.no_grad()
def row(model: HookedGPT2, tokens: Prompt, query: int) -> xr.DataArray:
    """How one query divides its attention, in every head: over (`layer`, `head`, `key_pos`).

    Keys after the query have weight 0.

    Raises:
        PromptError: more than one prompt, or a position outside it.
    """
    batch = _one_prompt(model, tokens)
    n = batch.tokens.shape[1]
    if not 0 <= query < n:
        raise PromptError(f"There is no query position {query}; the prompt has 0-{n - 1}.")
    weights = _reduced(model, batch, lambda pattern: pattern[:, query])
    return _labelled(model, batch, weights, ("layer", "head", "key_pos"), query=query)


def edge(model: HookedGPT2, tokens: Prompt, query: int, key: int) -> xr.Dataset:
    """How much one query attends to one key in every head, and how that compares.

    Returns:
        Over (`layer`, `head`): `weight`; `rank` of the key in the query's row, 1 is highest, where
        the first token, on which many heads rest, does not count; `lift`, weight over even
        attention to all visible keys; and `first_token`, the weight on the first token.

    Raises:
        PromptError: more than one prompt, a position outside it, or a key after the query.
    """
    return edge_of(row(model, tokens, query), key)


def edge_of(weights: xr.DataArray, key: int) -> xr.Dataset:
    """`edge` of a row that is there already.

    Args:
        weights: As of `row`, with its query.
    """
    n, query = weights.sizes["key_pos"], weights.attrs["query"]
    if not 0 <= key < n:
        raise PromptError(f"There is no key position {key}; the prompt has 0-{n - 1}.")
    if key > query:
        raise PromptError(f"Key {key} comes after query {query}: GPT-2 never looks ahead.")
    weight = weights.isel(key_pos=key, drop=True)
    values = {
        "weight": weight,
        "rank": 1 + (weights[..., 1:] > weight).sum("key_pos"),
        "lift": weight * (query + 1),
        "first_token": weights.isel(key_pos=0, drop=True),
    }
    return xr.Dataset(values).assign_attrs(weights.attrs | {"key": key})


@torch.no_grad()
def of_head(model: HookedGPT2, tokens: Prompt, layer: int, head: int) -> xr.DataArray:
    """One head's whole pattern: over (`query_pos`, `key_pos`); each row sums to 1.

    Raises:
        PromptError: more than one prompt, or no such head.
    """
    batch = _one_prompt(model, tokens)
    _check_head(model, layer, head)
    weights = _reduced(model, batch, lambda pattern: pattern[head], layer=layer)[0]
    dims = ("query_pos", "key_pos")
    return _labelled(model, batch, weights, dims, layer=layer, head=head)


@torch.no_grad()
def of_all_heads(model: HookedGPT2, tokens: Prompt) -> xr.DataArray:
    """Every head's whole pattern: over (`layer`, `head`, `query_pos`, `key_pos`).

    It has layers x heads x positions² numbers; for long prompts the other functions need less.

    Raises:
        PromptError: more than one prompt.
    """
    batch = _one_prompt(model, tokens)
    weights = _reduced(model, batch, lambda pattern: pattern)
    return _labelled(model, batch, weights, ("layer", "head", "query_pos", "key_pos"))


def top_edges(
    model: HookedGPT2, tokens: Prompt, layer: int, head: int, *, n: int = 10, first_key: int = 1
) -> pd.DataFrame:
    """One head's heaviest edges: `query`, `query_token`, `key`, `key_token`, `weight`.

    Args:
        first_key: 1 leaves out edges to the first token, where many heads rest; 0 leaves out none.
            The first query, which has one key, is always left out: cutting it would leave none.

    Raises:
        PromptError: more than one prompt, or no such head.
    """
    pattern = of_head(model, tokens, layer, head)
    table = pattern[1:, first_key:].to_dataframe().reset_index()
    table = table[table["key_pos"] <= table["query_pos"]]
    table = table.rename(columns={"query_pos": "query", "key_pos": "key"})
    columns = ["query", "query_token", "key", "key_token", "weight"]
    return table.nlargest(n, "weight")[columns].reset_index(drop=True)


@torch.no_grad()
def thumbnails(model: HookedGPT2, tokens: Prompt, *, size: int = 48) -> xr.DataArray:
    """Every head's pattern at most `size` cells wide: over (`layer`, `head`, `row`, `column`).

    A cell of a longer prompt is the largest weight of the edges that it stands for.

    Raises:
        PromptError: more than one prompt.
    """
    batch = _one_prompt(model, tokens)
    cells = min(size, batch.tokens.shape[1])
    weights = _reduced(
        model, batch, lambda pattern: torch.nn.functional.adaptive_max_pool2d(pattern, cells)
    )
    return _labelled(model, batch, weights, ("layer", "head", "row", "column"))


@torch.no_grad()
def overlap(model: HookedGPT2, tokens: Prompt, layer: int, head: int) -> xr.DataArray:
    """How alike every head looks to one head: the share of attention that goes to the same keys.

    The sum over keys of the smaller of both weights, averaged over all queries but each prompt's
    first: 1 = the same patterns, 0 = never the same key. Heads that look alike may still write
    different things.

    Args:
        tokens: One prompt or several.

    Returns:
        Over (`layer`, `head`), each in [0, 1]; 1 for the head itself.

    Raises:
        PromptError: no such head, or only prompts of one token.
    """
    batch = model.as_batch(tokens)
    _check_head(model, layer, head)
    if int(batch.lengths.max()) < 2:
        raise PromptError("A prompt of one token has one pattern; give at least two tokens.")
    own: list[Tensor] = []
    found: list[Tensor] = []

    def keep(pattern: Tensor, hook: Hook) -> None:  # noqa: ARG001
        own.append(at_least_float32(pattern[:, [head]]))

    def compare(pattern: Tensor, hook: Hook) -> None:  # noqa: ARG001
        shared = torch.minimum(at_least_float32(pattern), own[0]).sum(dim=-1)
        real = batch.attention_mask[:, None, 1:].to(shared)
        found.append((shared[:, :, 1:] * real).sum(dim=(0, 2)) / real.sum())

    name = PATTERN.replace("*", str(layer))
    model.run_with_hooks(batch, [(name, keep)], return_type=None, stop_at_layer=layer + 1)
    model.run_with_hooks(batch, [(PATTERN, compare)], return_type=None)
    return xr.DataArray(
        torch.stack(found).clamp(max=1).numpy(force=True),
        dims=("layer", "head"),
        coords={"layer": range(model.cfg.n_layers), "head": range(model.cfg.n_heads)},
        attrs={"of_layer": layer, "of_head": head, **provenance(model)},
        name="overlap",
    )


@torch.no_grad()
def measures(model: HookedGPT2, tokens: Prompt) -> xr.Dataset:
    """Each of `MEASURES` for every head, over (`layer`, `head`).

    Raises:
        PromptError: more than one prompt.
    """
    batch = _one_prompt(model, tokens)
    names = list(MEASURES)
    values = _reduced(model, batch, lambda pattern: torch.stack(_measured(pattern), dim=-1))
    array = _labelled(model, batch, values, ("layer", "head", "measure"))
    return array.assign_coords(measure=names).to_dataset("measure").assign_attrs(array.attrs)


def _measured(pattern: Pattern) -> list[Float[Tensor, " head"]]:
    """The measures in the order of `MEASURES`."""
    n = pattern.shape[-1]
    query = torch.arange(n, device=pattern.device)
    behind = (query[:, None] - query).clamp(min=0).to(pattern.dtype)
    if n == 1:  # one token looks at itself, and there is nothing else to measure
        nothing = pattern.new_zeros(len(pattern))
        return [nothing, nothing, pattern[:, 0, 0], nothing, nothing, nothing]
    later = pattern[:, 1:]
    entropy = (
        -torch.special.xlogy(later, later).sum(dim=-1)
        / query[2:].new_tensor(range(2, n + 1)).to(pattern.dtype).log()
    )
    return [
        later[:, :, 0].mean(dim=-1),
        pattern.diagonal(-1, dim1=1, dim2=2).mean(dim=-1),
        pattern.diagonal(0, dim1=1, dim2=2)[:, 1:].mean(dim=-1),
        entropy.mean(dim=-1),
        einsum(later, behind[1:], "head query key, query key -> head query").mean(dim=-1),
        rearrange(later[:, :, 1:], "head query key -> head (query key)").max(dim=-1).values,
    ]


def _one_prompt(model: HookedGPT2, tokens: Prompt) -> TokenBatch:
    batch = model.as_batch(tokens)
    if len(batch.tokens) != 1:
        raise PromptError(f"Patterns are of one prompt, got {len(batch.tokens)}.")
    return batch


def _check_head(model: HookedGPT2, layer: int, head: int) -> None:
    if not (0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads):
        raise PromptError(
            f"There is no head {head} in layer {layer}: layers are 0-{model.cfg.n_layers - 1}, "
            f"heads 0-{model.cfg.n_heads - 1}."
        )


def _reduced(
    model: HookedGPT2,
    batch: TokenBatch,
    reduce: Callable[[Pattern], Tensor],
    *,
    layer: int | None = None,
) -> Float[Tensor, "layer ..."]:
    """What `reduce` makes of each layer's pattern, or of one layer's."""
    found: list[Tensor] = []

    def keep(pattern: Tensor, hook: Hook) -> None:  # noqa: ARG001
        found.append(reduce(at_least_float32(pattern[0])))

    name = PATTERN if layer is None else PATTERN.replace("*", str(layer))
    stop = None if layer is None else layer + 1
    model.run_with_hooks(batch, [(name, keep)], return_type=None, stop_at_layer=stop)
    return torch.stack(found)


def _labelled(
    model: HookedGPT2, batch: TokenBatch, weights: Tensor, dims: tuple[str, ...], **place: int
) -> xr.DataArray:
    names = token_names(model, batch)[0]
    coords: dict[str, object] = {
        dim: range(size)
        for dim, size in zip(dims, weights.shape, strict=True)
        if dim in ("layer", "head")
    }
    for dim in ("query_pos", "key_pos"):
        if dim in dims:
            coords |= {dim: range(len(names)), f"{dim.removesuffix('_pos')}_token": (dim, names)}
    return xr.DataArray(
        weights.numpy(force=True),
        dims=dims,
        coords=coords,
        attrs={**place, **provenance(model)},
        name="weight",
    )
