"""What the first result says."""

import pandas as pd

from dashboards.components.prose import code
from dashboards.focus import Focus

LITTLE = 0.1
"""Share of the logit difference below which a change is called little."""


def cut_edge(table: pd.DataFrame, weight: float, focus: Focus) -> list[str]:
    """Whether the claim "this word looks at that one, and it matters" holds here.

    Args:
        table: As of `measurements.start.cut_edge`.
        weight: Of the edge in the chosen head.
    """
    query, key = code(focus.pieces[focus.query]), code(focus.pieces[focus.key])
    answer = code(focus.piece(focus.target))
    whole, here, everywhere = table["logit_diff"]
    before, after = table["probability"][0], table["probability"][1]
    looks = f"{query} gives {weight:.0%} of its attention in {focus.name} to {key}."
    if whole <= 0:
        return [
            f"{looks} But the model does not prefer {answer} to "
            f"{code(focus.piece(focus.wrong))} here (logit difference {whole:+.2f}), so there is "
            "no answer that this edge could be responsible for. Choose other answers."
        ]
    lost, lost_everywhere = (whole - here) / whole, (whole - everywhere) / whole
    if lost < LITTLE and lost_everywhere < LITTLE:
        says = (
            f"Cutting it takes {lost:.0%} of the logit difference, {lost_everywhere:.0%} in every "
            "head: here the weight is no sign that the answer depends on this edge."
        )
    elif lost < LITTLE:
        says = (
            f"Cutting it here takes only {lost:.0%} of the logit difference, in every head "
            f"{lost_everywhere:.0%}: other heads carry the same information."
        )
    else:
        says = (
            f"Cutting this one edge takes {lost:.0%} of the logit difference, and the probability "
            f"of {answer} goes from {before:.2f} to {after:.2f}: here it matters."
        )
    return [f"{looks} {says}"]
