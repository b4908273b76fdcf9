"""What the ablation lab's numbers say."""

import pandas as pd

from dashboards.components.prose import code
from dashboards.focus import Focus
from dashboards.measurements.references import SOURCES, n_references

SMALL_SHARE = 0.05
"""Of the logit difference: an effect below it is called small."""
LOSS_MATTERS = 0.1
"""Change of the loss, in nats a token, from which it is called one."""
APART = 0.2
"""Share of the sum of single effects from which the effect together is called another one."""
BACKUP = (
    "A small effect does not mean that a part does nothing: later heads can stand in for one that "
    "is missing (backup heads, self-repair). A large one can come from values that the model never "
    "sees. Try another kind, and several parts at once."
)


def replacement(kind: str, source: str, seed: int, focus: Focus) -> str:
    """What takes the place of what."""
    n, where = n_references(focus.tokens), SOURCES[source]
    drawn = f"of {n} reference prompts ({where}, seed {seed})"
    return {
        "zero": "What each chosen part writes is replaced by nothing, at every position. Far from "
        "what a head usually writes, so effects can be overstated.",
        "mean": f"What each chosen part writes is replaced by its mean over all positions {drawn}.",
        "positional mean": "What each chosen part writes is replaced by its mean at the same "
        f"position {drawn}.",
        "resample": "What each chosen part writes is replaced by what it writes at the same "
        f"position of one prompt, drawn from {n} reference prompts ({where}, seed {seed}).",
    }[kind]


def names(chosen: list[str], most: int = 4) -> str:
    """Chosen parts in a sentence."""
    if len(chosen) <= most:
        return ", ".join(chosen)
    return f"{', '.join(chosen[:most])} and {len(chosen) - most} more"


def next_tokens(table: pd.DataFrame, chosen: list[str]) -> list[str]:
    """Whether the model still says the same.

    Args:
        table: As of `interp.predictions.before_and_after`.
    """
    before = table.loc[table["rank_before"].idxmin()]
    after = table.loc[table["rank_after"].idxmin()]
    moved = table.loc[table["change"].abs().idxmax()]
    if before.token_id == after.token_id:
        first = (
            f"Without {names(chosen)} the model still says {code(before.token)}, with probability "
            f"{after.after:.3f} instead of {before.before:.3f}."
        )
    else:
        first = (
            f"Without {names(chosen)} the model says {code(after.token)} ({after.after:.3f}) "
            f"instead of {code(before.token)} ({before.before:.3f}, now {before.after:.3f})."
        )
    return [f"{first} Largest change: {code(moved.token)}, {moved.change:+.3f}."]


def measures(table: pd.DataFrame, focus: Focus) -> list[str]:
    """What it does to the answer, and to the prompt as a whole."""
    own = table.set_index("measure")
    before, change = own.loc["logit difference", ["before", "change"]]
    answer, wrong = code(focus.piece(focus.target)), code(focus.piece(focus.wrong))
    after = before + change
    moved = f"from {before:+.2f} to {after:+.2f}"
    if abs(change) < SMALL_SHARE * abs(before):
        first = f"The logit difference of {answer} over {wrong} hardly moves ({change:+.2f})."
    elif before * after < 0:
        favoured = wrong if after < 0 else answer
        first = f"The logit difference turns round, {moved}: of the two, {favoured} is ahead now."
    else:
        first = f"The logit difference of {answer} over {wrong} goes {moved}."
    if "loss on the prompt" not in own.index:
        return [first]
    loss = own.loc["loss on the prompt", "change"]
    if loss > LOSS_MATTERS:
        second = f"rises by {loss:.2f} nats a token: what was taken out serves other words too."
    elif loss > -LOSS_MATTERS:
        second = f"changes by {loss:+.2f} nats a token: the other words hardly need it."
    else:
        second = f"falls by {-loss:.2f} nats a token: here the model reads the text better without."
    return [f"{first} The loss on the prompt {second}"]


def draws(lowest: float, highest: float, n: int) -> str:
    """How much the drawn prompt matters."""
    same = "all agree in sign" if lowest * highest > 0 else "they do not agree in sign"
    return (
        f"Of {n} draws from the reference prompts the change of the logit difference is between "
        f"{lowest:+.2f} and {highest:+.2f}: {same}. The numbers above are of one draw."
    )


def interplay(table: pd.DataFrame) -> list[str]:
    """Whether the parts act independently.

    Args:
        table: As of `measurements.ablation.interplay`.
    """
    own = table.set_index("taken_out")["effect"]
    n = len(table) - 3
    together, total = own["all together"], own["sum of each alone"]
    if n == 1:
        return [
            f"One part is taken out, with an effect of {together:+.2f}. Choose another one to see "
            f"whether the two act together. {BACKUP}"
        ]
    first = f"Together {together:+.2f} logits; the sum of each alone is {total:+.2f}."
    scale = max(abs(total), abs(together))
    if scale == 0 or abs(together - total) < APART * scale:
        second = "About the same: these parts act independently here."
    elif together * total > 0 and abs(together) > abs(total):
        second = (
            "More together than apart: each hides what the others do, as heads that stand in for "
            "each other do (backup heads, self-repair)."
        )
    elif together * total > 0:
        second = (
            "Less together than apart: they are steps of one path, so that taking out one already "
            "breaks it, or the answer has nothing left to lose."
        )
    else:
        second = "Together they pull the other way: the sum of single effects would mislead here."
    return [f"{first} {second} {BACKUP}"]


def singles(table: pd.DataFrame, original: float) -> list[str]:
    """Which single part matters most, and how many hardly do."""
    known = table.dropna()
    if known.empty:
        return ["Nothing was finished."]
    low, high = known.loc[known["effect"].idxmin()], known.loc[known["effect"].idxmax()]
    small = int((known["effect"].abs() < SMALL_SHARE * abs(original)).sum())
    return [
        f"The logit difference is {original:+.2f}. Taking out {_name(low)} lowers it most "
        f"({low.effect:+.2f}), {_name(high)} raises it most ({high.effect:+.2f}); {small} of "
        f"{len(known)} parts change it by less than {SMALL_SHARE:.0%}. Click a cell to add it to "
        "the set, or to take it back."
        if low.effect < 0 < high.effect
        else f"The logit difference is {original:+.2f}; single effects go from {low.effect:+.2f} "
        f"({_name(low)}) to {high.effect:+.2f} ({_name(high)}). Click a cell to add it to the set, "
        "or to take it back."
    ]


def _name(row: pd.Series) -> str:
    part = "MLP" if row["part"] == "MLP" else f"H{row['part']}"
    return f"L{row['layer']:.0f}{part}"
