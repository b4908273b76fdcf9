"""What the named heads of the IOI circuit do: where they look, what they write, what they copy.

Source: Wang et al. 2022, arXiv:2211.00593, section 3 and its appendices on copy scores.
"""

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from interp import logit_attribution, metrics
from interp.model.cache import ActivationCache
from interp.model.tokens import TokenBatch
from interp.published.facts import Head, Measured, Subject
from interp.published.indirect_object import Study

N_COPIED = 50
"""Names that the copy score reads; each is tried in every head."""
N_BEST = 5
"""A name is copied if its logit is among so many highest."""


def _patterns(subject: Subject) -> ActivationCache:
    study = subject.shared(Study.of)
    name = "blocks.*.attn.hook_pattern"
    return study.model.run_with_cache(study.clean, names_filter=name, return_type=None)[1]


def _attention(subject: Subject, head: Head, key: str) -> Float[Tensor, " example"]:
    """From END to a role."""
    study, (layer, number) = subject.shared(Study.of), head
    pattern = subject.shared(_patterns)["pattern", layer][:, number]
    examples = torch.arange(len(pattern), device=pattern.device)
    return pattern[examples, study.roles["END"], study.roles[key]]


def attention(subject: Subject, heads: Sequence[Head], key: str) -> Measured:
    """Mean attention of these heads from END to a role."""
    subject.require(heads)
    by_head = torch.stack([_attention(subject, head, key) for head in heads])
    names = zip(heads, by_head.mean(dim=1).tolist(), strict=True)
    note = ", ".join(f"L{layer}H{number} {mean:.2f}" for (layer, number), mean in names)
    return Measured(float(by_head.mean()), note)


def _written(subject: Subject, name: str, batch: TokenBatch) -> xr.DataArray:
    """What each head writes at END along the "answers" or "wrong": layer, head, example."""
    study = subject.shared(Study.of)
    ids = {"answers": study.pairs.answer_ids, "wrong": study.pairs.wrong_ids}[name](study.model)
    parts = logit_attribution.decompose(study.model, batch, metrics.logit(ids)).sum("pos")
    heads = parts.sel(component=parts["kind"] == "head")
    return heads.set_index(component=["layer", "head"]).unstack("component")


def _along_names(subject: Subject) -> dict[str, xr.DataArray]:
    study = subject.shared(Study.of)
    return {name: _written(subject, name, study.clean) for name in ("answers", "wrong")}


def attention_and_writing(subject: Subject, heads: Sequence[Head]) -> Measured:
    """Correlation of attention to a name and what is written along its logit; the lowest head's.

    The points are both names (at their first mentions) of every prompt.
    """
    subject.require(heads)
    written = subject.shared(_along_names)
    found = {}
    for layer, number in heads:
        attended = torch.cat([_attention(subject, (layer, number), key) for key in ("IO", "S1")])
        along = [written[name].sel(layer=layer, head=number).values for name in written]
        pair = np.corrcoef(attended.numpy(force=True), np.concatenate(along))
        found[f"L{layer}H{number}"] = float(pair[0, 1])
    note = ", ".join(f"{head} {value:.2f}" for head, value in found.items())
    return Measured(min(found.values()), note)


def _direct_effects(subject: Subject) -> list[tuple[float, Head]]:
    """What each head adds to the logit difference, minus what it adds in ABC; highest first."""
    study, clean = subject.shared(Study.of), subject.shared(_along_names)
    abc = {name: _written(subject, name, study.abc) for name in clean}
    change = {name: (clean[name] - abc[name]).mean("example") for name in clean}
    effects = (change["answers"] - change["wrong"]).to_series()
    pairs = [(float(x), (int(layer), int(head))) for (layer, head), x in effects.items()]
    return sorted(pairs, reverse=True)


def strongest_writers(subject: Subject, heads: Sequence[Head], *, negative: bool) -> Measured:
    """How many of these heads are among as many that write most for, or against, the answer."""
    subject.require(heads)
    ranked = subject.shared(_direct_effects)
    first = (ranked[::-1] if negative else ranked)[: len(heads)]
    note = ", ".join(f"L{layer}H{number} {effect:+.2f}" for effect, (layer, number) in first)
    return Measured(sum(head in heads for _, head in first), note)


def _copied(subject: Subject) -> dict[str, Float[Tensor, "layer head"]]:
    """Shares of names that each head's OV circuit puts first ("positive") or last ("negative").

    It reads the stream at the name after the first MLP, and is alone before the unembedding.
    """
    study = subject.shared(Study.of)
    model, n = study.model, min(N_COPIED, len(study.pairs))
    batch = TokenBatch(study.clean.tokens[:n], study.clean.attention_mask[:n])
    _, cache = model.run_with_cache(
        batch, names_filter="blocks.0.hook_resid_post", return_type=None
    )
    names = cache["resid_post", 0][torch.arange(n), study.roles["IO"][:n]]
    ids = study.pairs.answer_ids(model)[:n].to(names.device)
    shares: dict[str, list[Tensor]] = {"positive": [], "negative": []}
    for block in model.blocks:
        values = (
            einsum(
                block.ln1(names),
                block.attn.W_QKV[:, 2],
                "name d, d head d_head -> head name d_head",
            )
            + block.attn.b_QKV[2][:, None]
        )
        written = values @ block.attn.W_O
        for side, sign in (("positive", 1.0), ("negative", -1.0)):
            logits = model.unembed(model.ln_final(sign * written))
            own = logits.gather(2, ids[None, :, None].expand(len(logits), -1, 1))
            shares[side].append(((logits > own).sum(dim=-1) < N_BEST).float().mean(dim=1))
    return {side: torch.stack(layers) for side, layers in shares.items()}


def copy_score(
    subject: Subject, heads: Sequence[Head] | None, *, negative: bool = False
) -> Measured:
    """Mean share of names that these heads copy (or suppress); of all heads for `None`."""
    shares = subject.shared(_copied)["negative" if negative else "positive"]
    if heads is None:
        return Measured(float(shares.mean()), f"mean over {shares.numel()} heads")
    subject.require(heads)
    found = {f"L{layer}H{head}": float(shares[layer, head]) for layer, head in heads}
    note = ", ".join(f"{head} {value:.2f}" for head, value in found.items())
    return Measured(sum(found.values()) / len(found), note)
