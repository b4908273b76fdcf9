"""What the head page's numbers say."""

import numpy as np
import pandas as pd
import xarray as xr

from dashboards.components.prose import code
from dashboards.focus import Focus
from dashboards.measurements import head as measurements
from dashboards.measurements.references import n_references

CLEAR = 0.3
"""Score from which a head is called one of a class; even attention on the random text gives about
0.03."""
CLASSES = {
    "previous_token": "a previous-token head",
    "duplicate_token": "a duplicate-token head",
    "induction": "an induction head",
    "first_token": "a head that rests on the first token",
}
"""What a head with a clear score is called."""
ALIKE = 0.5
"""Overlap from which two heads are said to look alike."""
SMALL_SHARE = 0.05
"""Of the logit difference: an effect below it is called small."""
COPIES = 0.3
"""Share of tokens from which a head is said to copy."""


def looks_like(table: pd.DataFrame, column: str) -> list[str]:
    """The classes of which a head has a clear score, the clearest first."""
    clear = table[table["kind"].isin(list(CLASSES)) & (table[column] >= CLEAR)]
    return clear.sort_values(column, ascending=False)["kind"].tolist()


def passport(table: pd.DataFrame, focus: Focus) -> list[str]:
    """What the head looks like on random text, and whether this prompt agrees.

    Args:
        table: As of `measurements.head.passport`.
    """
    own = table.set_index("kind")
    random, here = looks_like(table, "score"), looks_like(table, "prompt_score")
    if random:
        kind = random[0]
        first = (
            f"On random text shown twice, {focus.name} looks like {CLASSES[kind]}: "
            f"{own.loc[kind, 'score']:.2f}, rank {own.loc[kind, 'rank']:.0f} of "
            f"{own.loc[kind, 'n_heads']:.0f}."
        )
    else:
        first = (
            f"On random text shown twice, {focus.name} is no clear case of any class: no score "
            f"reaches {CLEAR}."
        )
    return [f"{first} {_here(own, random, here)}{_copying(own)}"]


def _here(own: pd.DataFrame, random: list[str], here: list[str]) -> str:
    """Whether the prompt says the same."""
    measured = own["prompt_queries"].fillna(0)
    if measured["previous_token"] == 0:
        return "This prompt is one token, so nothing can be measured on it."
    if random and measured[random[0]] == 0:
        said = "This prompt repeats no token, so it cannot show that."
        if here:
            said += f" Here the head looks like {CLASSES[here[0]]} instead."
        return said
    if random == here and not here:
        return "Nor is it one on this prompt."
    if random and random[0] in here:
        kind = random[0]
        return (
            f"This prompt agrees: {own.loc[kind, 'prompt_score']:.2f}, over "
            f"{_queries(measured[kind])}."
        )
    if here:
        kind = here[0]
        return (
            f"This prompt says something else: here it looks like {CLASSES[kind]} "
            f"({own.loc[kind, 'prompt_score']:.2f}, on random text {own.loc[kind, 'score']:.2f}). "
            "A head may do different things in different texts; a class is a habit, not a rule."
        )
    kind = random[0]
    return (
        f"This prompt does not: {own.loc[kind, 'prompt_score']:.2f} over "
        f"{_queries(measured[kind])}. A class is a habit on one kind of text, not a rule."
    )


def _queries(n: float) -> str:
    return "1 query" if n == 1 else f"{n:.0f} queries"


def _copying(own: pd.DataFrame) -> str:
    """Whether its weights copy what it reads."""
    score = own.loc["ov_copying", "score"]
    if np.isnan(score):
        return ""
    does = "mostly copies" if score >= COPIES else "does not copy"
    return f" Its weights say that it {does} what it reads (copying {score:.2f}; chance is 0.01)."


def finder(table: pd.DataFrame, name: str, definition: str) -> list[str]:
    """Who leads by a score, and what it is.

    Args:
        table: As of `measurements.head.leading`.
    """
    if table.empty:
        return [f"No head has this score: {definition}. A classifier's outputs are not tokens."]
    first, last = table.iloc[0], table.iloc[-1]
    above = int((table["score"] >= CLEAR).sum())
    clear = (
        f" {above} of {len(table)} heads reach {CLEAR}."
        if name not in ("entropy", "distance")
        else ""
    )
    n = measurements.N_SEQUENCES
    return [
        f"Highest: L{first.layer:.0f}H{first['head']:.0f} with {first.score:.3f}; lowest: "
        f"L{last.layer:.0f}H{last['head']:.0f} with {last.score:.3f}.{clear} Measured: "
        f"{definition}; {n} sequences of random tokens, shown twice, seed 0."
    ]


def pattern(array: xr.DataArray, text: str, focus: Focus) -> list[str]:
    """Where the head rests, and its heaviest edge elsewhere."""
    weights = array.values
    pieces = [str(piece) for piece in array["query_token"].values]
    if len(pieces) < 2:
        return ["One token can only look at itself."]
    first = weights[1:, 0].mean()
    rest = weights[1:, 1:]
    row, column = np.unravel_index(int(rest.argmax()), rest.shape)
    query, key = int(row) + 1, int(column) + 1
    where = {
        "prompt": "On this prompt",
        "repeated": "On random tokens shown twice",
    }.get(text, "On this stored sentence")
    return [
        f"{where} {focus.name}'s heaviest edge goes from {code(pieces[query])} ({query}) to "
        f"{code(pieces[key])} ({key}), weight {weights[query, key]:.2f}; {first:.0%} of its "
        "attention rests on the first token."
    ]


def qk(table: pd.DataFrame, layer: int, n: int) -> list[str]:
    """What the weights look for."""
    best = table.iloc[0]
    same = int((table["query"] == table["key"]).sum())
    return [
        f"Read from the weights, among {n} tokens: {code(best.query_token)} looks most for "
        f"{code(best.key_token)} (score {best.score:.1f} above an average key). In {same} of "
        f"{len(table)} pairs a token looks for itself. Positions and other heads are left out"
        + _embedding(layer)
    ]


def ov(table: pd.DataFrame, layer: int, n: int) -> list[str]:
    """What the weights write."""
    same = int((table["read"] == table["raised"]).sum())
    verdict = (
        "the strongest pairs copy"
        if same > len(table) / 2
        else "the strongest pairs write something else than they read"
    )
    return [
        f"Among {n} tokens, in {same} of {len(table)} pairs the token that is raised is the one "
        f"that is read: {verdict}. This is the direct path to the logits only" + _embedding(layer)
    ]


def _embedding(layer: int) -> str:
    return ", and a token is taken as its embedding after the first MLP." if layer else "."


def ov_token(table: pd.DataFrame, piece: str) -> list[str]:
    """What reading one token raises."""
    own = table[table["raised_token"] == piece]
    if len(own):
        rank = int(own.index[0]) + 1
        return [f"Reading {code(piece)} raises its own logit: rank {rank} here. That is copying."]
    best = code(table["raised_token"].iloc[0])
    return [f"Reading {code(piece)} raises {best} most; itself is not among the highest."]


def similar(table: pd.DataFrame, focus: Focus) -> list[str]:
    """Which heads look where this one looks, and whether that holds here."""
    if table.empty:
        return ["There is no other head."]
    best = table.iloc[0]
    name = f"L{best.layer:.0f}H{best['head']:.0f}"
    alike = int((table["random"] >= ALIKE).sum())
    here = table.loc[table["prompt"].idxmax()]
    other = f"L{here.layer:.0f}H{here['head']:.0f}"
    second = (
        f"On this prompt it is also the most alike ({here.prompt:.2f})."
        if other == name
        else f"On this prompt {other} is more alike ({here.prompt:.2f}; {name}: {best.prompt:.2f})."
    )
    return [
        f"{name} looks most like {focus.name} on random text: they share {best.random:.0%} of "
        f"their attention; {alike} of {len(table)} heads share half or more. {second} Heads that "
        "spread evenly or rest on the first token look alike for that reason alone, and heads that "
        "look alike may still write different things."
    ]


def without(table: pd.DataFrame, focus: Focus) -> list[str]:
    """What the answer owes to this head."""
    own = table.set_index("kind")["effect"]
    original = float(table["original"].iloc[0])
    answer, wrong = code(focus.piece(focus.target)), code(focus.piece(focus.wrong))
    first = (
        f"The logit difference of {answer} over {wrong} is {original:+.2f}. Without {focus.name} "
        f"it changes by {own['zero']:+.2f} (zero) or {own['mean']:+.2f} (mean of "
        f"{n_references(focus.tokens)} reference prompts)."
    )
    limit = SMALL_SHARE * abs(original)
    if own.abs().max() < limit:
        second = (
            "Both are small: this answer does not need the head, or other heads do the same and "
            "hide it."
        )
    elif own["zero"] * own["mean"] < 0 or own.abs().min() < own.abs().max() / 2:
        second = (
            "The two disagree: part of the effect of zero comes from taking away what the head "
            "always writes, which the mean keeps."
        )
    else:
        second = "Both agree, so the effect is not one of the replacement alone."
    return [f"{first} {second} The ablation lab takes several heads out at once."]
