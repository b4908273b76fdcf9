"""Greater-than years, gendered pronouns and copy suppression.

Prompts are ours, made after the papers'. Sources: Hanna et al. 2023, arXiv:2305.00586; Mathwin et
al. 2023; McDougall et al. 2023, arXiv:2310.04625.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from interp import ablation, metrics, patching, prompts
from interp.model.token_paths import logit_directions, token_inputs
from interp.prompts import PromptPairs, templates
from interp.published.facts import Head, Measured, Subject
from interp.published.indirect_object import prompts_of
from interp.statistics import bootstrap_mean, effect

N_PATCHED = 32
"""Prompts of a sweep over all heads."""
CHUNK = 512
"""Rows of a vocabulary x vocabulary product that are held at once."""
ROUNDING = 1e-4
"""Two products of the same numbers differ by less; a logit must be lower by more to count."""


def _years(subject: Subject) -> PromptPairs:
    return prompts.greater_than(subject.model, subject.n, seed=subject.seed)


def _mean(values: Tensor, subject: Subject) -> Measured:
    found = bootstrap_mean(values.numpy(force=True), seed=subject.seed)
    note = f"95 % [{found.low:.3f}, {found.high:.3f}], n = {len(values)}"
    return Measured(found.mean, note)


def later_minus_earlier(subject: Subject) -> Measured:
    """Probability of later years minus that of all others."""
    pairs = subject.shared(_years)
    metric = prompts.year_prob_diff(subject.model, pairs)
    return _mean(metric(subject.model(pairs.clean, positions="last")), subject)


def cutoff(subject: Subject) -> Measured:
    """Probability of the year after the start minus that of the year before it."""
    model, pairs = subject.model, subject.shared(_years)
    starts = [int(re.findall(r"\d\d(\d\d)", text)[0]) for text in pairs.clean]
    logits = model(pairs.clean, positions="last")
    assert isinstance(logits, Tensor)

    def probability(step: int) -> Tensor:
        digits = [templates.DIGIT_PAIRS[start + step] for start in starts]
        return metrics.prob([model.to_single_token(pair) for pair in digits])(logits)

    return _mean(probability(1) - probability(-1), subject)


def harmful_when_patched(
    subject: Subject, site: str, chosen: Sequence[Head] | Sequence[int], top: int
) -> Measured:
    """How many of these heads, or MLPs at END, are among the `top` whose loss costs most.

    Each is patched alone with its output after the year 01, which all years exceed.
    """
    subject.require(place for place in chosen if isinstance(place, tuple))
    model, pairs = subject.model, subject.shared(_years)[:N_PATCHED]
    metric = prompts.year_prob_diff(model, pairs)
    positions = {"END": pairs.roles["END"]} if site == "mlp_out" else None
    found = patching.sweep(model, pairs.clean, pairs.corrupted, site, metric, "noising", positions)
    change = effect(found).mean("example").squeeze(drop=True).to_series().nsmallest(top)
    expected = {tuple(x) if isinstance(x, tuple) else x for x in chosen}
    note = ", ".join(f"{_label(place)} {x:+.3f}" for place, x in change.items())
    return Measured(sum(place in expected for place in change.index), note)


def _label(place: object) -> str:
    return f"L{place[0]}H{place[1]}" if isinstance(place, tuple) else f"MLP {place}"


def pronoun_difference(subject: Subject) -> Measured:
    """Mean logit difference between the pronoun that agrees with the name and the other."""
    pairs = prompts.gendered_pronoun(subject.model, subject.n, seed=subject.seed)
    logits = subject.model(pairs.clean, positions="last")
    assert isinstance(logits, Tensor)
    return _mean(pairs.metric(subject.model)(logits), subject)


def _n_lower(subject: Subject, head: Head) -> Int[Tensor, " token"]:
    """For each token that the head reads: how many logits it lowers more than that token's own."""
    subject.require([head])
    model, (layer, number) = subject.model, head
    tokens = torch.arange(model.cfg.d_vocab, device=model.cfg.device)
    attn = model.blocks[layer].attn
    values = token_inputs(model, layer, tokens) @ attn.W_QKV[:, 2, number]
    outputs = attn.W_O[number] @ logit_directions(model, tokens)
    own = (values * outputs.T).sum(dim=-1, keepdim=True)
    parts = zip(values.split(CHUNK), (own - ROUNDING).split(CHUNK), strict=True)
    return torch.cat([(rows @ outputs < below).sum(dim=-1) for rows, below in parts])


def own_logit_suppressed(
    subject: Subject, head: Head, *, n_lowest: int | None = None, share: float = 0.0
) -> Measured:
    """Share of tokens whose own logit is among those that fall most when the head reads them.

    From weights alone; the token is read through the effective embedding of `token_inputs`.

    Args:
        n_lowest: Among so many of the vocabulary's logits; by default this `share` of them.
    """
    n_lower = subject.shared(_n_lower, head)
    limit = share * len(n_lower) if n_lowest is None else n_lowest
    return Measured(float((n_lower < limit).float().mean()), f"{len(n_lower)} tokens")


def change_without(subject: Subject, head: Head, prompt: str, token: str) -> Measured:
    """Change of a next token's log-probability without a head, in nats.

    The head's output is replaced by its mean over sentences (`prompts_of`).
    """
    model = subject.model
    metric = metrics.logprob(model.to_single_token(token))
    found = ablation.ablate_together(
        model, prompt, {"head": [head]}, metric, "mean", reference=prompts_of(subject).clean
    )
    before, after = (float(found[which].item()) for which in ("original", "ablated"))
    return Measured(after - before, f"{before:.2f} → {after:.2f} nats")
