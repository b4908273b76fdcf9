"""What the attention explorer's numbers say."""

import numpy as np
import pandas as pd

from dashboards.components.prose import code
from dashboards.focus import Focus
from dashboards.readings import STRONG
from interp.patterns import MEASURES

SMALL_SHARE = 0.05
"""Of the metric: an effect below it is called small."""
OTHERS = (
    "An effect near zero can also mean that other heads carry the same; the ablation lab cuts "
    "several at once. Next: swap a word in the patching lab."
)


def edge(table: pd.DataFrame, focus: Focus) -> list[str]:
    """Where the edge is heavy, and where cutting it matters.

    Args:
        table: As of `measurements.attention.edge_effects`.
    """
    heaviest = table.loc[table["weight"].idxmax()]
    strongest = table.loc[table["effect"].abs().idxmax()]
    name, other = (f"L{row.layer:.0f}H{row['head']:.0f}" for row in (heaviest, strongest))
    first = _looks(heaviest, focus)
    second = (
        f"Cutting this edge changes the logit difference most in {other}: "
        f"{strongest.effect:+.2f} logits at weight {strongest.weight:.3f}."
    )
    if name == other:
        second += " Here the heaviest edge is also the one that matters most."
    else:
        second += f" The heaviest one, {name}, has {heaviest.effect:+.2f}: weight is not effect."
    return [f"{first} {second}", OTHERS]


def edge_in_one_head(table: pd.DataFrame, effect: float, focus: Focus) -> list[str]:
    """Where the edge is heavy, and what cutting it in the chosen head does.

    Args:
        table: As of `interp.patterns.edge`.
        effect: In logits.
    """
    heaviest = table.loc[table["weight"].idxmax()]
    own = table.query(f"layer == {focus.layer} and head == {focus.head}")["weight"].item()
    second = (
        f"Cutting this edge in {focus.name}, where its weight is {own:.3f}, changes the logit "
        f"difference by {effect:+.2f} logits; the effect in every head is another number to choose."
    )
    return [f"{_looks(heaviest, focus)} {second}", OTHERS]


def _looks(heaviest: pd.Series, focus: Focus) -> str:
    """Which head looks hardest along the edge, if any does."""
    query, key = code(focus.pieces[focus.query]), code(focus.pieces[focus.key])
    name, even = f"L{heaviest.layer:.0f}H{heaviest['head']:.0f}", 1 / (focus.query + 1)
    if heaviest.weight < max(STRONG, 2 * even):
        return (
            f"No head looks hard from {query} to {key}: the most is {heaviest.weight:.3f}, in "
            f"{name}, and even attention would give {even:.3f}."
        )
    return (
        f"{name} looks hardest from {query} to {key}: weight {heaviest.weight:.3f}, "
        f"{heaviest.lift:.1f} times even attention, rank {heaviest['rank']:.0f} in its row."
    )


def masked(focus: Focus) -> list[str]:
    """Why there is nothing to see."""
    query, key = code(focus.pieces[focus.query]), code(focus.pieces[focus.key])
    return [
        f"{query} (position {focus.query}) cannot look at {key} (position {focus.key}): it comes "
        "later, and the causal mask sets its score to -inf. Choose a key at or before the query."
    ]


def measure(table: pd.DataFrame, name: str) -> list[str]:
    """The heads at both ends of a measure."""
    ordered = table.sort_values(name)
    low, high = (
        f"L{row.layer:.0f}H{row['head']:.0f}" for _, row in ordered.iloc[[0, -1]].iterrows()
    )
    lowest, highest = ordered[name].iloc[0], ordered[name].iloc[-1]
    return [
        f"Highest in {high} ({highest:.3f}), lowest in {low} ({lowest:.3f}). Measured: "
        f"{MEASURES[name]}. This is one prompt; the head page measures a head on many."
    ]


def pattern(weights: np.ndarray, focus: Focus) -> list[str]:
    """Where the chosen query looks in the chosen head."""
    row = weights[focus.query, : focus.query + 1]
    order = np.argsort(row)[::-1][:3]
    tops = ", ".join(f"{code(focus.pieces[k])} {row[k]:.2f}" for k in order)
    first = weights[1:, 0].mean() if len(weights) > 1 else 1.0
    rest = (
        f" On average {first:.0%} of this head's attention rests on the first token: a place to "
        "rest when there is nothing to look for, not a sign of meaning."
        if first > STRONG
        else ""
    )
    return [f"In {focus.name}, {code(focus.pieces[focus.query])} looks most at {tops}.{rest}"]


def edges(table: pd.DataFrame, difference: float) -> list[str]:
    """Whether this head's heavy edges matter for the answer."""
    if table.empty:
        return ["This prompt has no such edge."]
    most = table.loc[table["effect"].abs().idxmax()]
    heaviest = table.iloc[0]
    small = abs(most.effect) < SMALL_SHARE * abs(difference)
    says = (
        f"none of them moves it by more than {abs(most.effect):.2f}: heavy here does not mean "
        "needed for this answer"
        if small
        else f"the edge from {code(most.query_token)} to {code(most.key_token)} moves it most, by "
        f"{most.effect:+.2f}"
    )
    return [
        f"Of the logit difference of {difference:+.2f}, {says}. The heaviest edge, "
        f"{code(heaviest.query_token)} to {code(heaviest.key_token)}, has {heaviest.effect:+.2f}."
    ]
