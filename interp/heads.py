"""What each head attends to and copies, as scores in [0, 1]; `DEFINITIONS` says of what.

A sequence of random tokens is shown twice in a row, and the attention of the second half is
measured: each of its positions (but the last) has a previous token, an earlier occurrence of the
same token, and a token that followed that one. Whether a head copies what it reads is a question to
its weights, not to a prompt.
Sources: Olsson et al. 2022, arXiv:2209.11895 (attention); Wang et al. 2022, arXiv:2211.00593
(copying; theirs counts the 5 highest of all logits for names, ours the highest 1 % for any tokens).
"""

from collections.abc import Sequence

import pandas as pd
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook
from interp.model.token_paths import logit_directions, token_inputs
from interp.model.tokens import Prompt
from interp.results import provenance

DEFINITIONS = {
    "previous_token": "mean attention to the token before",
    "duplicate_token": "mean attention to the first occurrence of the same token",
    "induction": "mean attention to the token after the first occurrence of the same token",
    "first_token": "mean attention to the first position, where many heads rest (a sink)",
    "entropy": "mean entropy of the attention / log(number of visible keys); 1 = even attention",
    "distance": "mean of (query position - key position) / query position, weighted by attention",
    "ov_copying": "share of tokens whose own logit is in the top 1 % of the drawn tokens' logits "
    "when the head reads that token, compared with reading an average one; chance is 0.01",
}
"""What each kind of score is. All but `ov_copying` are means over the second half's positions."""
KINDS = tuple(DEFINITIONS)
N_DRAWN = 500
"""Tokens that `ov_copying` tries; all of a smaller vocabulary."""


def repeated_tokens(
    model: HookedGPT2,
    vocabulary: Sequence[int] | None = None,
    *,
    n_tokens: int = 40,
    n_sequences: int = 16,
    seed: int = 0,
) -> Int[Tensor, "batch pos"]:
    """Random tokens shown twice: BOS (if the model has one), then 2 x `n_tokens` positions.

    Args:
        vocabulary: Token ids to draw from; by default all but BOS.

    Raises:
        PromptError: fewer than two tokens, more than fit into the model, or none to draw from.
    """
    bos = model.tokenizer.bos_token_id if model.tokenizer else None
    if n_tokens < 2:
        raise PromptError(f"Repeat at least 2 tokens, got {n_tokens}.")
    if 2 * n_tokens + 1 > model.cfg.n_ctx:
        raise PromptError(f"BOS and 2 x {n_tokens} tokens do not fit into {model.cfg.n_ctx}.")
    allowed = _allowed(model, vocabulary)
    generator = torch.Generator().manual_seed(seed)
    half = allowed[torch.randint(len(allowed), (n_sequences, n_tokens), generator=generator)]
    parts = [half, half] if bos is None else [torch.full((n_sequences, 1), bos), half, half]
    return torch.cat(parts, dim=1).to(model.cfg.device)


def _allowed(model: HookedGPT2, vocabulary: Sequence[int] | None) -> Int[Tensor, " token"]:
    """The vocabulary, on the CPU, without BOS."""
    bos = model.tokenizer.bos_token_id if model.tokenizer else None
    allowed = torch.tensor(range(model.cfg.d_vocab) if vocabulary is None else vocabulary)
    allowed = allowed[allowed != bos] if bos is not None else allowed
    if len(allowed) == 0:
        raise PromptError("The vocabulary has no token besides BOS. Pass ids to draw from.")
    return allowed


@torch.no_grad()
def scores(
    model: HookedGPT2,
    vocabulary: Sequence[int] | None = None,
    *,
    n_tokens: int = 40,
    n_sequences: int = 16,
    seed: int = 0,
) -> xr.DataArray:
    """How much each head is of each kind.

    Args:
        vocabulary: Token ids to draw from; by default all but BOS.
        n_tokens: Length of the random part, which is shown twice.

    Returns:
        Over (`kind`, `layer`, `head`), each in [0, 1]; the coordinate `definition` says what each
        kind is. `ov_copying` is NaN for a classifier, whose outputs are not tokens.

    Raises:
        PromptError: as `repeated_tokens`.
    """
    tokens = repeated_tokens(
        model, vocabulary, n_tokens=n_tokens, n_sequences=n_sequences, seed=seed
    )
    _, cache = model.run_with_cache(
        tokens, names_filter="blocks.*.attn.hook_pattern", return_type=None
    )
    n_positions = tokens.shape[1]
    queries = torch.arange(n_positions - n_tokens, n_positions - 1, device=model.cfg.device)
    layers = range(model.cfg.n_layers)
    by_layer = [
        _attention_scores(cache["pattern", layer], queries, queries, queries - n_tokens)
        for layer in layers
    ]
    by_kind = {kind: torch.stack([found[kind] for found in by_layer]) for kind in by_layer[0]}
    by_kind["ov_copying"] = _ov_copying(model, _allowed(model, vocabulary), seed)
    return xr.DataArray(
        torch.stack([by_kind[kind] for kind in KINDS]).numpy(force=True),
        dims=("kind", "layer", "head"),
        coords={
            "kind": list(KINDS),
            "definition": ("kind", list(DEFINITIONS.values())),
            "layer": layers,
            "head": range(model.cfg.n_heads),
        },
        attrs=provenance(model)
        | {"seed": seed, "n_tokens": n_tokens, "n_sequences": n_sequences, "n_drawn": N_DRAWN},
    )


@torch.no_grad()
def scores_on_prompt(model: HookedGPT2, tokens: Prompt) -> xr.DataArray:
    """The same scores on one prompt as it is, instead of on random tokens shown twice.

    They are means over all queries but the first; duplicate_token and induction, over those whose
    token occurred before. `ov_copying` is not of a prompt, and left out.

    Returns:
        Over (`kind`, `layer`, `head`), each in [0, 1]; NaN where the prompt has no such query. The
        coordinate `n_queries` says how many each kind is a mean of.

    Raises:
        PromptError: more than one prompt.
    """
    batch = model.as_batch(tokens)
    if len(batch.tokens) != 1:
        raise PromptError(f"Scores on a prompt are of one, got {len(batch.tokens)}.")
    ids = batch.tokens[0]
    first = (ids[:, None] == ids).int().argmax(dim=1)
    positions = torch.arange(len(ids), device=ids.device)
    queries, repeated = positions[1:], positions[first < positions]
    found: list[dict[str, Tensor]] = []

    def measure(pattern: Tensor, hook: Hook) -> None:  # noqa: ARG001
        found.append(_attention_scores(pattern, queries, repeated, first[repeated]))

    model.run_with_hooks(batch, [("blocks.*.attn.hook_pattern", measure)], return_type=None)
    kinds = list(found[0])
    values = torch.stack([torch.stack([layer[kind] for layer in found]) for kind in kinds])
    of_repeated = ("duplicate_token", "induction")
    n_queries = [len(repeated if kind in of_repeated else queries) for kind in kinds]
    return xr.DataArray(
        values.numpy(force=True),
        dims=("kind", "layer", "head"),
        coords={
            "kind": kinds,
            "n_queries": ("kind", n_queries),
            "layer": range(model.cfg.n_layers),
            "head": range(model.cfg.n_heads),
        },
        attrs=provenance(model),
    )


def leading(scores: xr.DataArray, kind: str, n: int | None = None) -> pd.DataFrame:
    """The heads with the highest scores of a kind: `rank`, `layer`, `head`, `score`.

    Args:
        scores: As of `scores`.
        n: How many; by default all that have a score.
    """
    table = scores.sel(kind=kind).to_series().dropna().sort_values(ascending=False, kind="stable")
    ranked = table.rename("score").reset_index().head(n)
    ranked.insert(0, "rank", ranked["score"].rank(ascending=False, method="min").astype(int))
    return ranked


def passport(scores: xr.DataArray, layer: int, head: int) -> pd.DataFrame:
    """One head's scores among those of all heads.

    Args:
        scores: As of `scores` or `scores_on_prompt`.

    Returns:
        A row for each kind: `kind`, `score`, `rank` (1 = the highest; equal scores share the better
        rank), `n_heads` ranked, and `highest` and `highest_score` of the head that leads. NaN and
        an empty name where no head has a score.
    """
    rows = []
    for kind in scores["kind"].values.tolist():
        ranked = leading(scores, kind)
        own = ranked[(ranked["layer"] == layer) & (ranked["head"] == head)]
        best = ranked.head(1)
        rows.append(
            {
                "kind": kind,
                "score": own["score"].max(),
                "rank": own["rank"].max(),
                "n_heads": len(ranked),
                "highest": "".join(f"L{row.layer}H{row.head}" for row in best.itertuples()),
                "highest_score": best["score"].max(),
            }
        )
    return pd.DataFrame(rows)


def _attention_scores(
    pattern: Float[Tensor, "batch head query_pos key_pos"],
    queries: Int[Tensor, " query"],
    repeated: Int[Tensor, " repeated"],
    earlier: Int[Tensor, " repeated"],
) -> dict[str, Float[Tensor, " head"]]:
    """The kinds that are read off a layer's attention.

    Args:
        queries: Positions that are measured.
        repeated: Those of them whose token occurred before, at `earlier`.
    """
    pattern = at_least_float32(pattern)
    positions = torch.arange(pattern.shape[-1], device=pattern.device)
    rows = pattern[:, :, queries]
    relative_distance = (queries[:, None] - positions) / queries[:, None]
    relative_entropy = torch.special.entr(rows).sum(dim=-1) / (queries + 1).log()
    by_query = {
        "previous_token": pattern[:, :, queries, queries - 1],
        "duplicate_token": pattern[:, :, repeated, earlier],
        "induction": pattern[:, :, repeated, earlier + 1],
        "first_token": rows[..., 0],
        "entropy": relative_entropy.clamp(max=1),  # rounding can exceed even attention's
        "distance": (rows * relative_distance).sum(dim=-1),
    }
    return {kind: values.mean(dim=(0, 2)) for kind, values in by_query.items()}


def _ov_copying(
    model: HookedGPT2, vocabulary: Int[Tensor, " token"], seed: int
) -> Float[Tensor, "layer head"]:
    """How often the token that a head reads is among those whose logits rise most."""
    cfg = model.cfg
    if cfg.n_classes is not None:
        return torch.full((cfg.n_layers, cfg.n_heads), torch.nan, device=cfg.device)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(vocabulary), generator=generator)
    drawn = vocabulary[order[:N_DRAWN]].to(cfg.device)
    n_best = max(1, len(drawn) // 100)
    outputs = logit_directions(model, drawn)
    shares = []
    for layer, block in enumerate(model.blocks):
        inputs = token_inputs(model, layer, drawn)
        values = einsum(
            inputs - inputs.mean(dim=0),
            block.attn.W_QKV[:, 2],
            "read d_model, d_model head d_head -> head read d_head",
        )
        logits = values @ (block.attn.W_O @ outputs)
        own = logits.diagonal(dim1=-2, dim2=-1)
        higher = (logits > own[..., None]).sum(dim=-1)
        shares.append(at_least_float32((higher < n_best).to(logits)).mean(dim=-1))
    return torch.stack(shares)
