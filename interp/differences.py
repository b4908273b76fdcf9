"""How two runs differ: of two prompts, or of two models on one prompt.

Prompts are aligned token by token: position by position where they are equally long, otherwise by
the runs of tokens that both have (`difflib`), with gaps. A head's patterns are compared in the
queries that both prompts have: how much of its attention moved from some keys to others.
"""

from collections.abc import Sequence
from difflib import SequenceMatcher

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import Prompt, TokenBatch
from interp.predictions import predictions
from interp.results import provenance, token_names

MEASURES = {
    "moved": "share of attention that went to other keys: half the sum of |difference| over a "
    "row, mean over the compared queries; 0 = the same, 1 = none of it stayed",
    "divergence": "Jensen-Shannon divergence of a row, in bits, mean over the compared queries; "
    "0 = the same, 1 = no key in common",
}
"""What each measure of a head's change is.

Keys that only one prompt has count as one further key, so that each row is a whole distribution."""

Weights = Float[Tensor, "head query key"]
Places = Int[Tensor, " place"]
Side = tuple[HookedGPT2, TokenBatch]


def same_vocabulary(model: HookedGPT2, other: HookedGPT2) -> bool:
    """Whether a token id means the same in both models."""
    if model.cfg.d_vocab_out != other.cfg.d_vocab_out or model.cfg.d_vocab != other.cfg.d_vocab:
        return False
    if model.tokenizer is None or other.tokenizer is None:
        return model.tokenizer is other.tokenizer
    return model.tokenizer.backend.get_vocab() == other.tokenizer.backend.get_vocab()


def aligned(
    ids: Sequence[object], other_ids: Sequence[object]
) -> list[tuple[int | None, int | None]]:
    """Positions of two prompts, place by place; `None` is a gap.

    Prompts of one length are aligned position by position. Otherwise tokens that both have in the
    same order, and between them stretches of the same length.
    """
    if len(ids) == len(other_ids):
        return [(position, position) for position in range(len(ids))]
    places: list[tuple[int | None, int | None]] = []
    matcher = SequenceMatcher(None, ids, other_ids, autojunk=False)
    for _, begin, end, other_begin, other_end in matcher.get_opcodes():
        here, there = range(begin, end), range(other_begin, other_end)
        if len(here) == len(there):
            places += zip(here, there, strict=True)
        else:
            places += [(position, None) for position in here]
            places += [(None, position) for position in there]
    return places


def alignment(
    model: HookedGPT2, tokens: Prompt, other_model: HookedGPT2, other_tokens: Prompt
) -> pd.DataFrame:
    """Two prompts as a table: `position`, `token`, `other_position`, `other_token`, `differs`.

    A gap has no position (`<NA>`) and no token.

    Raises:
        PromptError: more than one prompt on a side.
    """
    sides = _sides(model, tokens, other_model, other_tokens)
    names = _names(*sides)
    rows = []
    for position, other in aligned(*names):
        token = None if position is None else names[0][position]
        other_token = None if other is None else names[1][other]
        rows.append((position, token, other, other_token, token != other_token))
    columns = ["position", "token", "other_position", "other_token", "differs"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({"position": "Int64", "other_position": "Int64"})


@torch.no_grad()
def pattern_changes(
    model: HookedGPT2, tokens: Prompt, other_model: HookedGPT2, other_tokens: Prompt
) -> xr.Dataset:
    """How much each head looks elsewhere in the other run.

    Returns:
        Over (`layer`, `head`): each of `MEASURES`; and the edge whose weight changes most, as
        `query` and `key` (positions of the first prompt) with `weight` and `other_weight`. Queries
        are those that both prompts have, without the first, which has one key.

    Raises:
        PromptError: more than one prompt on a side; models with other heads or layers; no query
            that both prompts have.
    """
    _check_same_heads(model, other_model)
    sides = _sides(model, tokens, other_model, other_tokens)
    places = _shared_places(*sides)
    caches = [m.run_with_cache(batch, names_filter=_is_q_or_k)[1] for m, batch in sides]
    rows = []
    for layer in range(model.cfg.n_layers):
        weights = [
            at_least_float32(cache["pattern", layer][0]).cpu()[:, at][:, :, at]
            for cache, at in zip(caches, places, strict=True)
        ]
        rows.append(_changed(weights[0], weights[1], *places))
    names = [*MEASURES, "query", "key", "weight", "other_weight"]
    values = {
        name: (("layer", "head"), np.stack([row[name].numpy(force=True) for row in rows]))
        for name in names
    }
    coords = {"layer": range(model.cfg.n_layers), "head": range(model.cfg.n_heads)}
    return xr.Dataset(
        values, coords, {**provenance(model), "other_model": other_model.cfg.model_name}
    )


@torch.no_grad()
def of_head(
    model: HookedGPT2, tokens: Prompt, other_model: HookedGPT2, other_tokens: Prompt, layer: int,
    head: int,
) -> xr.Dataset:  # fmt: skip
    """One head's patterns in the places that both prompts have.

    Returns:
        `weight`, `other_weight` and `change` (other minus first) over (`query_pos`, `key_pos`),
        positions of the first prompt, with `other_pos` and both prompts' tokens (`token`,
        `other_token`) by `key_pos`. NaN where the key is after the query.

    Raises:
        PromptError: as `pattern_changes`, and a head that there is not.
    """
    _check_same_heads(model, other_model)
    if not (0 <= layer < model.cfg.n_layers and 0 <= head < model.cfg.n_heads):
        raise PromptError(
            f"There is no head {head} in layer {layer}: layers are 0-{model.cfg.n_layers - 1}, "
            f"heads 0-{model.cfg.n_heads - 1}."
        )
    sides = _sides(model, tokens, other_model, other_tokens)
    places = _shared_places(*sides)
    weights = []
    for (m, batch), at in zip(sides, places, strict=True):
        name = f"blocks.{layer}.attn.hook_pattern"
        _, cache = m.run_with_cache(batch, names_filter=name, stop_at_layer=layer + 1)
        pattern = at_least_float32(cache["pattern", layer][0, head])[at][:, at]
        later = at[None, :] > at[:, None]
        weights.append(pattern.masked_fill(later.to(pattern.device), torch.nan).numpy(force=True))
    names = _names(*sides)
    tokens_there = [[row[i] for i in at.tolist()] for row, at in zip(names, places, strict=True)]
    both = ("query_pos", "key_pos")
    return xr.Dataset(
        {"weight": (both, weights[0]), "other_weight": (both, weights[1])}
        | {"change": (both, weights[1] - weights[0])},
        coords={
            "query_pos": places[0].tolist(), "key_pos": places[0].tolist(),
            "other_pos": ("key_pos", places[1].tolist()), "token": ("key_pos", tokens_there[0]),
            "other_token": ("key_pos", tokens_there[1]),
        },
        attrs={"layer": layer, "head": head, **provenance(model)},
    )  # fmt: skip


def next_tokens(
    model: HookedGPT2, tokens: Prompt, other_model: HookedGPT2, other_tokens: Prompt, *,
    n_top: int = 10,
) -> pd.DataFrame:  # fmt: skip
    """What comes next in either run.

    Returns:
        A row for each token among the `n_top` of either run, most probable (in any) first:
        `token`, `prob`, `other_prob`, `change` (other minus first), `rank` and `other_rank` (from
        1). Models with other vocabularies are compared by the tokens' text, and NaN marks a token
        that one does not have.

    Raises:
        PromptError: more than one prompt on a side.
    """
    sides = _sides(model, tokens, other_model, other_tokens)
    identity = "token_id" if same_vocabulary(model, other_model) else "token"
    tables = []
    for m, batch in sides:
        table = predictions(m, batch, n_top=m.cfg.d_vocab_out).to_dataframe().reset_index()
        tables.append(table.drop_duplicates(identity).set_index(identity))
    first, other = tables
    chosen = list(dict.fromkeys([*first.index[:n_top], *other.index[:n_top]]))
    first, other = first.reindex(chosen), other.reindex(chosen)
    token = first["token"].combine_first(other["token"]) if identity == "token_id" else chosen
    both = pd.DataFrame(
        {
            "token": token, "prob": first["prob"], "other_prob": other["prob"],
            "change": other["prob"] - first["prob"], "rank": first["rank"],
            "other_rank": other["rank"],
        }
    )  # fmt: skip
    order = both[["prob", "other_prob"]].max(axis=1).sort_values(ascending=False, kind="stable")
    return both.loc[order.index].reset_index(drop=True)


def _sides(
    model: HookedGPT2, tokens: Prompt, other_model: HookedGPT2, other_tokens: Prompt
) -> tuple[Side, Side]:
    batches = model.as_batch(tokens), other_model.as_batch(other_tokens)
    for batch in batches:
        if len(batch.tokens) != 1:
            raise PromptError(f"A run is of one prompt, got {len(batch.tokens)}.")
    return (model, batches[0]), (other_model, batches[1])


def _names(side: Side, other: Side) -> list[list[str]]:
    """Tokens by name, which are the same in models whose ids are not."""
    return [token_names(model, batch)[0] for model, batch in (side, other)]


def _check_same_heads(model: HookedGPT2, other: HookedGPT2) -> None:
    sizes = [f"{m.cfg.n_layers} layers of {m.cfg.n_heads} heads" for m in (model, other)]
    if sizes[0] != sizes[1]:
        raise PromptError(
            f"Heads are compared one by one, and {model.cfg.model_name} has {sizes[0]}, "
            f"{other.cfg.model_name} {sizes[1]}."
        )


def _shared_places(side: Side, other: Side) -> tuple[Places, Places]:
    """Positions that both prompts have."""
    shared = [pair for pair in aligned(*_names(side, other)) if None not in pair]
    if not shared:
        raise PromptError("The prompts have no place in common.")
    first, second = zip(*shared, strict=True)
    return torch.tensor(first), torch.tensor(second)


def _is_q_or_k(name: str) -> bool:
    return name.endswith(("attn.hook_q", "attn.hook_k"))


def _changed(
    weights: Weights, others: Weights, places: Places, other_places: Places
) -> dict[str, Float[Tensor, " head"]]:
    """What `pattern_changes` holds, of one layer, from the weights in the shared places."""
    compared = (places > 0) & (other_places > 0)
    if not bool(compared.any()):
        nothing = torch.zeros(len(weights))
        return dict.fromkeys((*MEASURES, "query", "key", "weight", "other_weight"), nothing)
    whole, others_whole = (_with_rest(p[:, compared]) for p in (weights, others))
    middle = (whole + others_whole) / 2
    divergence = sum(
        (torch.special.xlogy(p, p) - torch.special.xlogy(p, middle)).sum(dim=-1)
        for p in (whole, others_whole)
    )
    difference = (others - weights).abs() * compared[:, None]
    edge = difference.flatten(1).argmax(dim=1)
    query, key = edge // len(places), edge % len(places)
    heads = torch.arange(len(weights))
    return {
        "moved": (others_whole - whole).abs().sum(dim=-1).mean(dim=-1) / 2,
        "divergence": (divergence / (2 * np.log(2))).mean(dim=-1).clamp(min=0),
        "query": places[query],
        "key": places[key],
        "weight": weights[heads, query, key],
        "other_weight": others[heads, query, key],
    }


def _with_rest(rows: Float[Tensor, "head query key"]) -> Float[Tensor, "head query keys_and_rest"]:
    """Rows with one more key: all that the other prompt does not have."""
    rest = (1 - rows.sum(dim=-1, keepdim=True)).clamp(min=0)
    return torch.cat([rows, rest], dim=-1)
