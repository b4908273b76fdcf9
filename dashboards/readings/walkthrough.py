"""The words of the walk-through: each step explained, and what its numbers say."""

import numpy as np
import pandas as pd
import xarray as xr

from dashboards.components.prose import code
from dashboards.focus import Focus
from dashboards.measurements.walkthrough import Effects, General
from dashboards.readings import STRONG
from interp import edge_tests

EXACT = 1e-5
"""Largest difference of two softmaxes of the same scores that rounding explains."""


def _edge(focus: Focus) -> tuple[str, str]:
    """Query and key for sentences."""
    return code(focus.pieces[focus.query]), code(focus.pieces[focus.key])


def tokens(focus: Focus) -> list[str]:
    """What is read, who looks, and why it can only look back."""
    query, key = _edge(focus)
    first = (
        f"The model reads {len(focus.pieces)} tokens. One of them asks, the query: here {query}, "
        f"at position {focus.query}. One is looked at, the key: {key}, at position {focus.key}. "
        "Click a square to choose another pair."
    )
    why = (
        "GPT-2 is trained to guess every next token, so no position may see what comes after it. "
        f"This is the causal mask: the query at position {focus.query} sees positions 0 to "
        f"{focus.query}, its own included. The squares show who can see whom."
    )
    if focus.key == focus.query:
        last = "Here the query looks at itself."
    else:
        last = (
            f"{key} comes before {query}, so it can be looked at. The other way round, from {key} "
            f"to {query}, is impossible in every head."
        )
    return [first, why, last]


def strong(weight: float, focus: Focus) -> bool:
    """Whether a weight is called strong: of some size, and well above even attention."""
    return weight >= max(STRONG, 2 / (focus.query + 1))


def heads(table: pd.DataFrame, focus: Focus) -> list[str]:
    """Which head looks hardest, and what the chosen one does."""
    query, key = _edge(focus)
    heaviest = table.loc[table["weight"].idxmax()]
    name = f"L{heaviest.layer:.0f}H{heaviest['head']:.0f}"
    even = 1 / (focus.query + 1)
    if strong(heaviest.weight, focus):
        first = (
            f"Every head divides its attention anew. From {query} to {key}, {name} gives the most: "
            f"{heaviest.weight:.3f}, {heaviest.lift:.1f} times what even attention over "
            f"{focus.query + 1} tokens would give."
        )
    else:
        first = (
            f"No head looks hard from {query} to {key}: the most is {heaviest.weight:.3f}, in "
            f"{name}, and even attention would give {even:.3f}. The steps below still hold, but "
            "there is no story to tell of this pair."
        )
    own = table[(table["layer"] == focus.layer) & (table["head"] == focus.head)].iloc[0]
    second = (
        f"The chosen head, {focus.name}, gives {own.weight:.3f}: rank {own['rank']:.0f} in its "
        f"row, the first token left out. On the first token rests {own.first_token:.3f}; many "
        "heads rest there when they have nothing to look for, and so it is shown and not ranked."
    )
    if (heaviest.layer, heaviest["head"]) != (focus.layer, focus.head):
        second += f" You chose another head than the heaviest; click {name} to follow that one."
    return [first, second]


def product(steps: xr.Dataset, focus: Focus) -> list[str]:
    """Where the score comes from."""
    query, key = _edge(focus)
    products = steps["product"].values
    top = int(np.abs(products).argmax())
    return [
        f"In {focus.name}, {query} asks with the vector q, and {key} answers with its vector k, "
        f"{len(products)} numbers each. Coordinate by coordinate they are multiplied, and the "
        f"products are summed: q·k = {float(steps.dot):+.3f}. The largest product is "
        f"{products[top]:+.3f}, at coordinate {top}.",
        "Sums of more numbers spread wider, so the sum is divided by √d_head; else the softmax "
        f"would soon see one key only. The score is {float(steps.scaled):+.3f}. By itself it says "
        "little: only its distance to the scores of other keys counts, in the next step.",
    ]


def plain_factor(focus: Focus) -> float:
    """1/√d_head, by which a plain GPT-2 scales its scores."""
    return focus.cfg.d_head**-0.5


def bracketed(number: float) -> str:
    """A number to be taken off, for a formula."""
    return f"{number:.3f}" if number >= 0 else f"({number:.3f})"


def row(steps: xr.Dataset, focus: Focus, change: float) -> list[str]:
    """How the score becomes a weight, and what if it were another."""
    _, key = _edge(focus)
    weight = float(steps["weight"][focus.key])
    before = float(steps["original_weight"][focus.key])
    n_masked = len(focus.pieces) - focus.query - 1
    masked = (
        f" The {n_masked} later positions have the score -inf, so their weight is exactly 0."
        if n_masked
        else " No later position is left to be masked."
    )
    first = (
        "The softmax turns the row of scores into shares: exp of each score, divided by their sum "
        f"Z, so that the weights sum to 1. The largest score, {float(steps.largest):.3f}, is taken "
        f"off first, which changes no share.{masked}"
    )
    if change == 0:
        return [
            first,
            f"{key} gets {before:.4f}. What if its score were higher or lower? Move the slider: "
            "the whole row shares what is left.",
        ]
    return [
        first,
        f"With {change:+.1f} on its score, {key} gets {weight:.4f} instead of {before:.4f}. The "
        "model was run with this one score changed: the logit difference goes from "
        f"{float(steps.original):+.3f} to {float(steps.changed):+.3f}, by "
        f"{float(steps.effect):+.3f} logits.",
    ]


def values(table: pd.DataFrame, focus: Focus) -> list[str]:
    """What is taken from the key."""
    _, key = _edge(focus)
    own = table.iloc[focus.key]
    most = int(table["share"].idxmax())
    parts = [
        "A weight says how much is read; what is read is the key's value, v. The head's output is "
        "z = Σ A v, and W_O writes it to the residual stream.",
        f"{key} has weight {own.weight:.3f}, and its value has length {own.value_norm:.2f} (in "
        f"this row {table['value_norm'].min():.2f} to {table['value_norm'].max():.2f}). Of what "
        f"{focus.name} writes here, {own.share:+.1%} comes from it: A v W_O, projected on the "
        "whole output; all shares sum to 1.",
    ]
    if most != focus.key:
        parts.append(
            f"The largest share, {table['share'].max():+.1%}, is that of "
            f"{code(focus.pieces[most])}. A heavy key with a short value is heard less than its "
            "weight says."
        )
    return parts


def written(table: pd.DataFrame, focus: Focus) -> list[str]:
    """What the head's output would say by itself."""
    _, key = _edge(focus)
    first = table[(table["source"] == "this key") & (table["rank"] == 1)].iloc[0]
    return [
        f"By itself, what {focus.name} reads from {key} pushes the next token after position "
        f"{focus.query} most to {code(first.promoted)} ({first.promoted_logit:+.2f} logits) and "
        f"away from {code(first.suppressed)} ({first.suppressed_logit:+.2f}). Logits are through "
        "the final LayerNorm with its scale as in this run, minus the mean over the vocabulary. "
        "This is the direct path only: a head may write for later layers, which read other "
        "directions, and then these words mean nothing."
    ]


def check(table: pd.DataFrame, focus: Focus) -> list[str]:
    """What was compared with what, and what the model's numbers are."""
    return [
        f"The weights of the steps before were computed here, from q, k and the formula. The model "
        f"has its own, under the name `blocks.{focus.layer}.attn.hook_pattern`. Both have "
        f"{len(table)} numbers for this query, and this is how far they are apart.",
        "The weights of the model are used as they were trained and published: no LayerNorm is "
        "folded in and nothing is centred, so q, k and v are those of Hugging Face's GPT-2. Tools "
        "that process the weights on loading show other q and k, with the same pattern.",
    ]


def exact(difference: float) -> bool:
    """Whether the recomputed row is the model's own."""
    return difference <= EXACT


def effects(found: Effects, focus: Focus) -> list[str]:
    """Whether the answer depends on the edge."""
    query, key = _edge(focus)
    target, wrong = (code(focus.piece(i)) for i in focus.answers)
    differences = found.table.set_index("condition")["logit_diff"].to_dict()
    measured = (
        f"A weight is not proof. Whether the answer needs it shows when the look from {query} to "
        f"{key} is taken away (its score set to -inf) and the model runs again. Measured at the "
        f"end of the prompt: logit({target}) - logit({wrong}), in logits."
    )
    if edge_tests.ALL_HEADS not in found.conditions:
        verdict = (
            "The query sees one key only, itself. Cutting that would leave it nothing to look at, "
            "so only the whole head can be taken away."
        )
    else:
        verdict = edge_tests.verdict(differences)
    parts = [measured, verdict]
    if edge_tests.CONTROL in found.conditions:
        control = found.control.iloc[0]
        layer, head, at, to = (
            int(control[f"control_{name}"]) for name in ("layer", "head", "query", "key")
        )
        parts.append(
            "The control edge is the one elsewhere whose weight is nearest, touching neither "
            f"token: L{layer}H{head}, {code(focus.pieces[at])} to {code(focus.pieces[to])}, weight "
            f"{control.control_weight:.3f} against {control.original_weight:.3f}."
        )
    else:
        parts.append("This prompt is too short to hold a control edge.")
    table = found.table.set_index("condition")
    before, after = table.loc[edge_tests.AS_IS], table.loc[edge_tests.ZEROED]
    said = code(before.next_token)
    says = (
        f"still says {said}"
        if before.next_token == after.next_token
        else f"says {code(after.next_token)} instead of {said}"
    )
    parts.append(
        f"With all of {focus.name} set to zero the model {says}. Where little changes, other "
        "heads may do the same work; the ablation lab takes several out at once."
    )
    return parts


def general(found: General, focus: Focus) -> list[str]:
    """Whether it holds over sentences that did not choose the head."""
    return [
        f"{found.n} generated sentences, each with a colour and a thing that the embedded model's "
        "training never combined; in each, the edge from the thing to its colour in "
        f"{focus.name}. Means with bootstrap 95 % intervals.",
        f"Mean effect on the logit difference: edge cut in this head {found.one_head}, in all "
        f"heads {found.all_heads}, control edge {found.control} logits.",
        edge_tests.general_verdict(found.one_head, found.all_heads, found.control),
    ]


def swaps(table: pd.DataFrame, focus: Focus) -> list[str]:
    """Whether the head looks at this word, or at whatever stands there."""
    query, _ = _edge(focus)
    own, others = table.iloc[0], table.iloc[1:]
    if others.empty:
        return ["No other word to try is one token of this model."]
    low, high = others["weight"].min(), others["weight"].max()
    return [
        f"{focus.name} gives {code(own.token)} {own.weight:.3f}. With other words in its place, "
        f"{query} gives them {low:.3f} to {high:.3f}. If all are alike, the head looks at the "
        "place or the kind of word, not at this very one."
    ]
