"""Does one attention edge matter for the answer, and does it in general?

The same prompts are run as they are, with the edge cut in one head or in all, with that head set to
zero, with the key's word swapped, and with another edge of similar weight cut instead: the control.
An edge that matters lowers the logit difference more than its control does.

What it does not do: choose the head. One that was chosen for its effect on a prompt needs other
prompts for the test (`over_examples`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from interp.ablation import zero_heads
from interp.attention_edges import TokenPosition, check_positions, control_edges, cut_edges
from interp.errors import PromptError
from interp.metrics import TokenIds, logit_diff, prob
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import HookFunction, NamesFilter
from interp.model.tokens import Prompt
from interp.predictions import answer_name
from interp.progress import Progress, no_progress
from interp.results import provenance
from interp.statistics import Interval, bootstrap_mean
from interp.tiny.language import Example

AS_IS, ONE_HEAD, ALL_HEADS = "as is", "edge cut in this head", "edge cut in all heads"
SWAPPED, CONTROL, ZEROED = "word swapped", "control edge cut", "this head set to zero"
CONDITIONS = (AS_IS, ONE_HEAD, ALL_HEADS, SWAPPED, CONTROL)
"""Of `outcomes`, by default."""
NIL = 0.05
"""An effect below this share of the answer's logit difference is called nil."""
BATCH = 10
"""Examples per forward pass: few, so that a step of the progress is short."""

Hooks = list[tuple[NamesFilter, HookFunction]]


@torch.no_grad()
def outcomes(
    model: HookedGPT2,
    prompt: Prompt,
    edge: tuple[int, int, TokenPosition, TokenPosition],
    answers: TokenIds,
    wrong: TokenIds,
    *,
    swapped: Prompt | None = None,
    conditions: Sequence[str] = CONDITIONS,
) -> xr.Dataset:
    """The answer in each condition, at the last position.

    Args:
        edge: (layer, head, query position, key position); positions are one for all prompts, or one
            each.
        swapped: The prompts with the key's word exchanged; for the condition `SWAPPED`.
        conditions: Of `AS_IS`, `ONE_HEAD`, `ALL_HEADS`, `ZEROED`, `SWAPPED` and `CONTROL`.

    Returns:
        Over (`condition`, `example`): `probability` of the answer; `logit_diff` = logit(answer) -
        logit(wrong answer), in logits; `effect`, its change from `AS_IS`, if that is among the
        conditions; `next_token` and `next_probability`, the most probable one.
        With `CONTROL`, its edges besides, over `example`: `control_layer`, `control_head`,
        `control_query`, `control_key`, `control_weight`, and `original_weight` of the edge itself.

    Raises:
        PromptError: the edge is not there, there is no room for a control edge, or a condition is
            unknown or lacks its prompts.
        HookError: cutting the edge leaves its query without any key.
    """
    layer, head, query, key = edge
    values: dict[str, Any] = {}
    hooks: dict[str, Hooks] = {
        AS_IS: [],
        ONE_HEAD: cut_edges([edge]),
        ALL_HEADS: cut_edges([(None, None, query, key)]),
        ZEROED: zero_heads([(layer, head)]),
        SWAPPED: [],
    }
    _check(conditions, swapped)
    if CONTROL in conditions:
        control = control_edges(model, prompt, layer, head, query, key)
        place = ("layer", "head", "query", "key")
        hooks[CONTROL] = cut_edges([tuple(control[name].values.tolist() for name in place)])
        named = {name: f"control_{name}" for name in (*place, "weight")}
        named["original_weight"] = "original_weight"
        values |= {name: control[old] for old, name in named.items()}
    prompts = {name: swapped if name == SWAPPED else prompt for name in conditions}
    runs = [(prompts[name], hooks[name]) for name in conditions]
    values |= _measured(model, runs, answers, wrong)
    attrs = {"layer": layer, "head": head, "unit": "logits"} | provenance(model)
    ds = xr.Dataset(values, coords={"condition": list(conditions)}, attrs=attrs)
    if AS_IS in conditions:
        ds["effect"] = ds["logit_diff"] - ds["logit_diff"].sel(condition=AS_IS, drop=True)
    return ds


def _measured(
    model: HookedGPT2, runs: Sequence[tuple[Any, Hooks]], answers: TokenIds, wrong: TokenIds
) -> dict[str, tuple[tuple[str, str], list[list[Any]]]]:
    """Variables over (`condition`, `example`) of runs, each of prompts under hooks."""
    measures = {"probability": prob(answers), "logit_diff": logit_diff(answers, wrong)}
    names = (*measures, "next_token", "next_probability")
    measured: dict[str, list[Any]] = {name: [] for name in names}
    for prompts, hooks in runs:
        logits = model.run_with_hooks(prompts, hooks, positions="last")
        assert isinstance(logits, Tensor)
        for name, measure in measures.items():
            measured[name].append(measure(logits).tolist())
        top = at_least_float32(logits[:, 0]).softmax(dim=-1).max(dim=-1)
        measured["next_token"].append([answer_name(model, i) for i in top.indices.tolist()])
        measured["next_probability"].append(top.values.tolist())
    return {name: (("condition", "example"), rows) for name, rows in measured.items()}


def _check(conditions: Sequence[str], swapped: Prompt | None) -> None:
    known = (*CONDITIONS, ZEROED)
    unknown = [condition for condition in conditions if condition not in known]
    if unknown or not conditions:
        raise PromptError(f"Conditions are some of {', '.join(known)}; got {list(conditions)}.")
    if SWAPPED in conditions and swapped is None:
        raise PromptError(f"The condition {SWAPPED!r} needs the swapped prompts.")


def answer_ids(model: HookedGPT2, examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    """Token ids of the answers and of the wrong answers.

    Raises:
        PromptError: an answer is not one token of this model.
    """
    answers = [model.to_single_token(example.answer) for example in examples]
    return answers, [model.to_single_token(example.wrong) for example in examples]


def over_examples(
    model: HookedGPT2,
    examples: Sequence[Example],
    layer: int,
    head: int,
    *,
    conditions: Sequence[str] = CONDITIONS,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """`outcomes` of many prompts, on the edge from the query word to the key word of each.

    Args:
        examples: Such as `interp.tiny.language.held_out_examples` gives.
        progress: What it no longer asks for is left out, and the result is marked `partial`.

    Raises:
        PromptError: there are no examples, or one lacks its words or an answer of one token.
    """
    if not examples:
        raise PromptError("There are no examples to test on.")
    parts = []
    batches = [examples[start : start + BATCH] for start in range(0, len(examples), BATCH)]
    for batch in progress(batches, f"{len(examples)} generated sentences"):
        queries = [model.find_word(e.text, e.query_word, occurrence=0) for e in batch]
        keys = [model.find_word(e.text, e.key_word, occurrence=0) for e in batch]
        parts.append(
            outcomes(
                model, [e.text for e in batch], (layer, head, queries, keys),
                *answer_ids(model, batch), swapped=[e.swapped_text for e in batch],
                conditions=conditions,
            )
        )  # fmt: skip
    if not parts:
        raise PromptError("It was stopped before the first sentences were done.")
    joined = xr.concat(parts, dim="example", data_vars="minimal", coords="minimal")
    n_done = joined.sizes["example"]
    return joined.assign_attrs(parts[0].attrs | {"partial": int(n_done < len(examples))})


def summary(found: xr.Dataset, *, seed: int = 0) -> pd.DataFrame:
    """Means over the examples with bootstrap 95 % intervals.

    Args:
        found: As of `over_examples`, of two examples or more.

    Returns:
        `measure` (logit_diff, probability), `condition`, `mean`, `low`, `high`.
    """
    rows = [
        {"measure": measure, "condition": condition}
        | bootstrap_mean(found[measure].sel(condition=condition).values, seed=seed)._asdict()
        for measure in ("logit_diff", "probability")
        for condition in found["condition"].values.tolist()
    ]
    return pd.DataFrame(rows)


def effect(found: xr.Dataset, condition: str, *, seed: int = 0) -> Interval:
    """Mean change of the logit difference from the unedited run, paired by example, in logits."""
    difference = found["logit_diff"]
    changed = difference.sel(condition=condition) - difference.sel(condition=AS_IS)
    return bootstrap_mean(changed.values, seed=seed)


def verdict(difference: Mapping[str, float]) -> str:
    """One sentence on what one prompt's numbers show; honest when the claim fails.

    Args:
        difference: Logit difference by condition; `SWAPPED` and `CONTROL` may be missing.
    """
    base = difference[AS_IS]
    if base <= 0:
        return (
            f"As it is, the model does not prefer the answer (logit difference {base:+.2f}), so "
            "there is nothing here that the edge could be responsible for."
        )
    lost = {name: (base - value) / base for name, value in difference.items()}
    if abs(lost[ALL_HEADS]) < NIL:
        return (
            "The weight may be high, but the effect is nil: without this edge in any head the "
            f"logit difference changes by {-lost[ALL_HEADS]:+.1%}. The claim fails here."
        )
    if lost[ALL_HEADS] < 0:
        return (
            "The edge works against the answer: without it in any head the logit difference grows "
            f"by {-lost[ALL_HEADS]:.0%}. The claim fails here."
        )
    one = f"cutting it in this head alone takes {lost[ONE_HEAD]:.0%}"
    if lost[ONE_HEAD] < NIL:
        one += " (other heads carry the same information)"
    parts = [
        f"The edge matters: cutting it in all heads takes {lost[ALL_HEADS]:.0%} of the logit "
        f"difference, {one}"
    ]
    if CONTROL in lost:
        parts.append(f", the control edge of similar weight takes {lost[CONTROL]:.0%}")
    parts.append(".")
    if SWAPPED in lost:
        turns = "turns" if difference[SWAPPED] < 0 else "does not turn"
        parts.append(f" Swapping the word {turns} the answer.")
    return "".join(parts)


def general_verdict(one_head: Interval, all_heads: Interval, control: Interval) -> str:
    """Whether the interval of the effect keeps clear of zero and of the control's."""
    if one_head.high < min(0, control.low):
        return "The effect of this head's edge is below zero and below the control's: it holds."
    if all_heads.high < min(0, control.low):
        return (
            "In this head alone the edge is not clearly needed, but all heads together are: the "
            "information also travels through other heads."
        )
    return "The interval does not separate the edge from the control: one sentence is not enough."


@torch.no_grad()
def swaps(
    model: HookedGPT2,
    prompt: Prompt,
    edge: tuple[int, int, int, int],
    replacements: Sequence[int],
) -> pd.DataFrame:
    """Other tokens in the key's place: is it looked at as before, and what is then said?

    Args:
        edge: (layer, head, query position, key position) of one prompt.
        replacements: Token ids.

    Returns:
        `token_id`, `token`, `weight` of the edge, `next_token` and `next_probability` at the last
        position; the prompt as it is comes first.

    Raises:
        PromptError: more than one prompt, or an edge or token that is not there.
    """
    layer, head, query, key = edge
    batch = model.as_batch(prompt)
    if len(batch.tokens) != 1:
        raise PromptError(f"Tokens are swapped in one prompt, got {len(batch.tokens)}.")
    check_positions(torch.tensor(query), torch.tensor(key), batch.tokens.shape[1])
    ids = [int(batch.tokens[0, key]), *replacements]
    variants = batch.tokens.repeat(len(ids), 1)
    variants[:, key] = torch.tensor(ids)
    pattern = f"blocks.{layer}.attn.hook_pattern"
    logits, cache = model.run_with_cache(variants, names_filter=pattern, positions="last")
    assert isinstance(logits, Tensor)
    top = at_least_float32(logits[:, 0]).softmax(dim=-1).max(dim=-1)
    return pd.DataFrame(
        {
            "token_id": ids,
            "token": [_name(model, i) for i in ids],
            "weight": cache[pattern][:, head, query, key].tolist(),
            "next_token": [answer_name(model, i) for i in top.indices.tolist()],
            "next_probability": top.values.tolist(),
        }
    )


def _name(model: HookedGPT2, token_id: int) -> str:
    """The text of a token of the prompt, of a classifier too."""
    return model.tokenizer.piece(token_id) if model.tokenizer else f"<{token_id}>"
