"""What the steps of writing say."""

import pandas as pd
import xarray as xr

from dashboards.components.prose import code

STRONG = 0.3
"""Weight from which a head is said to look hard at a token."""
CLOSE = 0.1
"""Probability between the two most probable tokens: below it, a step was a close call."""
SURE = 0.9


def written(steps: xr.Dataset, n_asked: int, temperature: float) -> list[str]:
    """How sure the model was on the way."""
    prob, rank = steps["prob"].values, steps["rank"].values
    n, n_first, n_sure = len(prob), int((rank == 1).sum()), int((prob >= SURE).sum())
    least = int(prob.argmin())
    first = (
        f"{n_first} of {n} new tokens were the model's first choice; {n_sure} had a probability of "
        f"{SURE:.0%} or more. The least expected is {code(str(steps['token'].values[least]))} at "
        f"step {least + 1}: probability {prob[least]:.3f}, rank {rank[least]}."
    )
    second = (
        "At temperature 0 the most probable token is taken each time, so the seed changes nothing."
        if temperature == 0
        else "Another seed draws another text from the same probabilities."
    )
    if n < n_asked and "partial" not in steps.attrs:
        second += " The model itself ended the text here."
    return [f"{first} {second}"]


def alternatives(steps: xr.Dataset, step: int) -> list[str]:
    """Whether another token might as well have been written."""
    at = steps.sel(step=step)
    token, prob, rank = str(at["token"].item()), float(at["prob"]), int(at["rank"])
    top, second = at["top_prob"].values[:2]
    other = code(str(at["top_token"].values[1]))
    if rank > 1:
        best = code(str(at["top_token"].values[0]))
        says = f"{code(token)} was drawn although {best} is more probable ({top:.3f})"
    elif top - second < CLOSE:
        says = f"A close call: {code(token)} {top:.3f} against {other} {second:.3f}"
    else:
        says = f"No close call: {code(token)} {top:.3f}, then {other} {second:.3f}"
    drawn = float(at["drawn_prob"])
    changed = (
        f" Temperature and top-k made its probability {drawn:.3f} instead of {prob:.3f}."
        if abs(drawn - prob) > 0.005
        else ""
    )
    return [f"{says}.{changed}"]


def row(table: pd.DataFrame, name: str, token: str) -> list[str]:
    """What the chosen head looked at when the token was chosen.

    Args:
        table: As of `measurements.generate.row`.
        name: Of the head.
        token: That was chosen.
    """
    heaviest = table.nlargest(3, "weight")
    tops = ", ".join(f"{code(each.key_token)} {each.weight:.2f}" for each in heaviest.itertuples())
    asker = code(table["key_token"].iloc[-1])
    rest = (
        " The first token is where heads rest when they find nothing to read."
        if heaviest["key_pos"].iloc[0] == 0 and len(table) > 1
        else ""
    )
    return [
        f"{code(token)} was chosen at the position before it, {asker}. There {name} looks most at "
        f"{tops}.{rest}"
    ]


def heads(table: pd.DataFrame) -> list[str]:
    """Which heads look hard, and that this is not yet a reason.

    Args:
        table: As of `measurements.generate.heaviest_keys`.
    """
    strong = table[table["weight"] >= STRONG]
    if strong.empty:
        top = table.iloc[0]
        says = (
            f"No head looks hard at any one token but the first; the most is {top.weight:.2f} on "
            f"{code(top.key_token)}, in L{top.layer}H{top['head']}"
        )
    else:
        named = ", ".join(
            f"L{each.layer}H{each.head} at {code(each.key_token)} ({each.weight:.2f})"
            for each in strong.head(4).itertuples()
        )
        says = f"{len(strong)} of {len(table)} heads look hard at one token: {named}"
    return [
        f"{says}. Weight is where information may come from, not proof that it mattered: "
        "take this step to the attention page, and cut the edge."
    ]
