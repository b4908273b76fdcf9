"""What the parts of the logit difference say."""

import pandas as pd

from dashboards.components.prose import code
from dashboards.focus import Focus

CLEAR = 0.1
"""Of all contributions' sizes: a total below it is what is left of opposites, and no share of it is
given."""
ROUNDING = 1e-3
"""Of the logit difference, or in logits: what float32 may lose on the way."""
N_NAMED = 3
DIRECT = (
    "These are direct effects: what a head does through later layers counts as those layers'. "
    "Whether the answer depends on a part is a question for the ablation and patching labs: "
    "others may stand in for it."
)


def share(value: float, total: float, sizes: float) -> str:
    """A contribution as a part of the whole, where the whole is no difference of opposites."""
    return f"{value:+.2f} ({value / total:.0%})" if abs(total) > CLEAR * sizes else f"{value:+.2f}"


def named(table: pd.DataFrame) -> str:
    """The first few rows as "L3H1 +2.53"."""
    rows = table.head(N_NAMED).itertuples()
    return ", ".join(f"L{row.layer}H{row.head} {row.contribution:+.2f}" for row in rows)


def heads(table: pd.DataFrame, total: float, focus: Focus) -> list[str]:
    """Which layers' heads add most, which heads favour the answer, which the wrong answer.

    Args:
        table: As of `measurements.attribution.heads`.
        total: The logit difference.
    """
    sizes, all_heads = table["contribution"].abs().sum(), table["contribution"].sum()
    by_layer = table.groupby("layer")["contribution"].sum()
    most = by_layer.abs().idxmax()
    ordered = table.sort_values("contribution", ascending=False)
    favour, against = (
        ordered[ordered["contribution"] > 0],
        ordered[ordered["contribution"] < 0].iloc[::-1],
    )
    chosen = table[(table["layer"] == focus.layer) & (table["head"] == focus.head)].iloc[0]
    rank = 1 + int((table["contribution"].abs() > abs(chosen.contribution)).sum())
    ends = [
        f"favouring the answer: {named(favour)}" if len(favour) else "none favours the answer",
        f"favouring the wrong answer: {named(against)}" if len(against) else "none is against it",
    ]
    return [
        f"All heads together add {share(all_heads, total, max(sizes, abs(total)))} of the logit "
        f"difference of {total:+.2f}. The largest sum is layer {most}'s, {by_layer[most]:+.2f}. "
        f"Most {ends[0]}; {ends[1]}. {focus.name} adds {chosen.contribution:+.2f}, place {rank} of "
        f"{len(table)} by size.",
        DIRECT,
    ]


def parts(table: pd.DataFrame, focus: Focus) -> list[str]:
    """The largest part, MLPs against heads, and what pulls the other way.

    Args:
        table: As of `measurements.attribution.parts`.
    """
    values = table.set_index("part")["contribution"]
    total, sizes = values.sum(), values.abs().sum()
    largest = values.abs().idxmax()
    mlps = values[[name for name in values.index if name.endswith(" MLP")]].sum()
    heads = values[[name for name in values.index if name.endswith(" heads")]].sum()
    against = values[values * (1 if total > 0 else -1) < 0].sum()
    answer, wrong = code(focus.piece(focus.target)), code(focus.piece(focus.wrong))
    return [
        f"Of {total:+.2f} logits for {answer} over {wrong}, {largest} adds "
        f"{share(values[largest], total, sizes)}; all MLPs {mlps:+.2f}, all heads {heads:+.2f}. "
        f"Parts that pull the other way sum to {against:+.2f}.",
        "An MLP that adds much need not have found the answer: it can turn what heads brought "
        "earlier into words. Embeddings and biases know nothing of what the heads read.",
    ]


def sum_check(table: pd.DataFrame) -> list[str]:
    """Whether the sum holds."""
    total, own, gap = table["logits"]
    if abs(gap) <= ROUNDING * max(1.0, abs(own)):
        return [
            f"The parts sum to what a plain run of the model gives: {total:+.4f} and {own:+.4f}; "
            f"what is missing, {gap:+.1e}, is rounding."
        ]
    return [
        f"**The sum does not hold**: the parts give {total:+.4f}, the model {own:+.4f}, a gap of "
        f"{gap:+.1e} logits. In half precision a gap like this is rounding; in float32 it is not, "
        "and the parts should not be trusted."
    ]


def largest(table: pd.DataFrame, n_shown: int) -> list[str]:
    """How much of all that was added the first few hold.

    Args:
        table: As of `measurements.attribution.components`.
    """
    sizes = table["contribution"].abs()
    if not sizes.sum():
        return ["No part tells the two answers apart."]
    half = int((sizes.cumsum() < sizes.sum() / 2).sum()) + 1
    first = table.iloc[0]
    needed = f"the first {half} parts hold" if half > 1 else "the first part alone holds"
    return [
        f"{first.component} adds most, {first.contribution:+.2f}. By size, {needed} half of all "
        f"that is added and taken away by {len(table)} parts; "
        f"{max(len(table) - n_shown, 0)} small ones share one bar."
    ]


def positions(table: pd.DataFrame, name: str) -> list[str]:
    """From where it was read.

    Args:
        table: As of `measurements.attribution.positions`.
        name: Of what was read: "L1H2", "All heads", "Everything".
    """
    total = table["contribution"].sum()
    most = table.loc[table["contribution"].abs().idxmax()]
    sizes = table["contribution"].abs().sum()
    first = (
        f"{name}: {share(most.contribution, total, sizes)} of {total:+.2f} comes from "
        f"{code(most.token)} (position {most.pos})."
    )
    if name == "Everything":
        return [
            f"{first} Embeddings, MLPs and biases are counted at the position where the answer is "
            "read, the last one; only heads bring something from elsewhere."
        ]
    return [
        f"{first} A head adds attention weight times value: a position of little weight can add "
        f"much. What {code(most.token)} carries there may have come from other tokens in earlier "
        "layers."
    ]


def neurons(every: pd.DataFrame, shown: pd.DataFrame, layer: int) -> list[str]:
    """Whether a few neurons write it, or many.

    Args:
        every: All neurons of the layer, as of `measurements.attribution.neurons`.
        shown: The strongest of them.
    """
    total, sizes = every["contribution"].sum(), every["contribution"].abs().sum()
    if not sizes:
        return [f"No neuron of layer {layer} tells the two answers apart."]
    most = every.loc[every["contribution"].abs().idxmax()]
    held = shown["contribution"].abs().sum() / sizes
    spread = "few neurons do most of it" if held > 0.5 else "the work is spread over many"
    return [
        f"The {len(every)} neurons of layer {layer} add {total:+.2f} together. Neuron "
        f"{most.neuron:.0f} has the largest part, {most.contribution:+.2f} at activation "
        f"{most.activation:.2f}. The {len(shown)} shown hold {held:.0%} of all that is added and "
        f"taken away: {spread}. A neuron's part is its activation times W_out along the "
        "difference; what makes it active is not shown here."
    ]
