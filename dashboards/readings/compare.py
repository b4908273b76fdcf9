"""What the differences of two runs say."""

import pandas as pd

from dashboards.components.prose import code
from dashboards.focus import Focus

LITTLE = 0.05
"""Share of attention: less than it is called little."""
SMALL_LOGITS = 0.1
EVEN = 0.01
"""Of probability: a smaller shift is called none."""


def heads(table: pd.DataFrame, measure: str, n_compared: int, n_gaps: int) -> list[str]:
    """Which heads look elsewhere, and what that does not show."""
    if n_compared < 2:
        return ["The prompts share one place or none after the first, so no row can be compared."]
    most = table.loc[table[measure].idxmax()]
    name = f"L{most.layer:.0f}H{most['head']:.0f}"
    if table["moved"].max() < LITTLE:
        first = (
            f"Every head looks where it did: the most is {name}, of whose attention "
            f"{most.moved:.1%} moved. The runs may still differ in what is read there, the values."
        )
    else:
        still = int((table["moved"] < LITTLE).sum())
        first = (
            f"{name} changes most: {most.moved:.0%} of its attention moved to other keys, mean "
            f"over the compared queries. {still} of {len(table)} heads moved less than "
            f"{LITTLE:.0%}."
        )
    gaps = (
        f" {n_gaps} places exist in one prompt only; they count as one further key."
        if n_gaps
        else ""
    )
    return [
        first + gaps,
        "A head that looks elsewhere need not matter for the answer. Next: patch its z from one "
        "run into the other in the patching lab.",
    ]


def of_head(change: pd.DataFrame, name: str) -> list[str]:
    """The edge of a head that changes most.

    Args:
        change: `query_token`, `key_token`, `weight`, `other_weight` and `change` of each edge.
    """
    if change.empty:
        return ["There is no edge that both runs have."]
    most = change.loc[change["change"].abs().idxmax()]
    if abs(most.change) < LITTLE:
        return [
            f"No weight of {name} changes by more than {abs(most.change):.3f}: it looks at the "
            "same places in both runs."
        ]
    return [
        f"In {name}, the edge from {code(most.query_token)} to {code(most.key_token)} changes "
        f"most: from {most.weight:.3f} in A to {most.other_weight:.3f} in B. Orange: B looks "
        "harder; purple: A does."
    ]


def next_tokens(
    table: pd.DataFrame, values: tuple[float, float | None], same_vocabulary: bool, focus: Focus
) -> list[str]:
    """How the prediction shifts, and the answer's logit difference."""
    first = table.loc[table["prob"].idxmax()]
    other = table.loc[table["other_prob"].idxmax()]
    if first.token == other.token:
        says = (
            f"Both runs expect {code(first.token)} next, with {first.prob:.1%} in A and "
            f"{other.other_prob:.1%} in B."
        )
    else:
        says = (
            f"A expects {code(first.token)} next ({first.prob:.1%}), B {code(other.token)} "
            f"({other.other_prob:.1%})."
        )
    if table["change"].abs().max() < EVEN:
        says += " No probability shifts by a hundredth."
    answer, wrong = code(focus.piece(focus.target)), code(focus.piece(focus.wrong))
    measured = f"The logit difference of {answer} over {wrong}"
    if values[1] is None:
        second = f"{measured} is {values[0]:+.2f} in A; B does not have both as single tokens."
    else:
        shift = values[1] - values[0]
        second = (
            f"{measured} is {values[0]:+.2f} in A and {values[1]:+.2f} in B, a shift of "
            f"{shift:+.2f} logits."
        )
        if abs(shift) < SMALL_LOGITS:
            second += " The change hardly matters for this answer."
    paragraphs = [says, second]
    if not same_vocabulary:
        paragraphs.append(
            "The models have other vocabularies, so tokens are compared by their text."
        )
    return paragraphs
