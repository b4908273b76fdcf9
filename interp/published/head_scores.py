"""What heads attend to: on random words shown twice, and on ordinary sentences.

Scores are those of `interp.heads`; lengths, BOS and offsets change their third digit.
"""

from collections.abc import Sequence

import torch
import xarray as xr
from einops import reduce

from interp import heads
from interp.published.facts import Head, Measured, Subject
from interp.published.indirect_object import prompts_of

MOST_TOKENS = 100
"""Length of the repeated part, as in Wang et al. 2022; less if the context is shorter."""
SINK = 0.5
"""A head whose mean attention to the first position exceeds this rests there."""


def name(head: Head) -> str:
    """As L5H1."""
    return f"L{head[0]}H{head[1]}"


def _scores(subject: Subject) -> xr.DataArray:
    model = subject.model
    n_tokens = min(MOST_TOKENS, (model.cfg.n_ctx - 1) // 2)
    return heads.scores(model, n_tokens=n_tokens, seed=subject.seed)


def score(subject: Subject, kind: str, head: Head) -> Measured:
    """One head's score of a kind of `heads.KINDS`."""
    subject.require([head])
    layer, number = head
    found = subject.shared(_scores).sel(kind=kind, layer=layer, head=number)
    return Measured(float(found), f"rank {_ranked(subject, kind).index(head) + 1}")


def rank(subject: Subject, kind: str, head: Head) -> Measured:
    """A head's place among all, 1 for the highest score."""
    subject.require([head])
    return Measured(_ranked(subject, kind).index(head) + 1, _leaders(subject, kind, 3))


def members(subject: Subject, kind: str, chosen: Sequence[Head], top: int) -> Measured:
    """How many of these heads are among the first `top`."""
    subject.require(chosen)
    leaders = _ranked(subject, kind)[:top]
    return Measured(sum(head in leaders for head in chosen), _leaders(subject, kind, top))


def _ranked(subject: Subject, kind: str) -> list[Head]:
    scores = subject.shared(_scores).sel(kind=kind).to_series().sort_values(ascending=False)
    return [(int(layer), int(head)) for layer, head in scores.index]


def _leaders(subject: Subject, kind: str, top: int) -> str:
    scores = subject.shared(_scores).sel(kind=kind)
    return ", ".join(
        f"{name(head)} {float(scores.sel(layer=head[0], head=head[1])):.2f}"
        for head in _ranked(subject, kind)[:top]
    )


def _rest(subject: Subject) -> xr.DataArray:
    """Mean attention to the first position in sentences, over later positions (layer, head)."""
    model = subject.model
    batch = model.as_batch(prompts_of(subject).clean)
    queries = batch.attention_mask.clone()
    queries[:, 0] = False
    weights = queries / queries.sum()
    name = "blocks.*.attn.hook_pattern"
    _, cache = model.run_with_cache(batch, names_filter=name, return_type=None)
    by_layer = [
        reduce(cache["pattern", layer][..., 0] * weights[:, None], "row head query -> head", "sum")
        for layer in range(model.cfg.n_layers)
    ]
    return xr.DataArray(torch.stack(by_layer).numpy(force=True), dims=("layer", "head"))


def sinks(subject: Subject, chosen: Sequence[Head]) -> Measured:
    """How many of these heads rest on the first position of a sentence."""
    subject.require(chosen)
    rest = subject.shared(_rest)
    found = {head: float(rest[head]) for head in chosen}
    note = ", ".join(f"{name(head)} {value:.2f}" for head, value in found.items())
    return Measured(sum(value > SINK for value in found.values()), note)
