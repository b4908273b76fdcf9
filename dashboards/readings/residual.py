"""What the numbers of the residual stream say."""

from itertools import pairwise

import pandas as pd

from dashboards.components.prose import code
from dashboards.focus import Focus

LAST = 0.9
"""Cosine from which two depths point nearly the same way."""
READ_AS = (
    "Each cell applies the final LayerNorm and W_U to the residual stream there, as if the model "
    "ended at that depth."
)
OTHER_CODE = (
    "A low rank early on does not show that the answer is not yet known: early layers need not "
    "write for this reader."
)


def settled(ranks: pd.Series) -> int | None:
    """Index of the depth from which on a token ranks first until the end; `None` if it does not."""
    wrong = [index for index, rank in enumerate(ranks.tolist()) if rank != 1]
    first = 0 if not wrong else wrong[-1] + 1
    return first if first < len(ranks) else None


def lens(table: pd.DataFrame, focus: Focus, *, own: bool) -> list[str]:
    """From which depth on the model says what it says in the end, at the query.

    Args:
        table: As the lens shows it; of its rows, those at the query are read.
        own: The followed token is each position's final one, not the answer.
    """
    here = table[table["pos"] == focus.query].reset_index(drop=True)
    final = here.iloc[-1]
    at = f"At {code(focus.pieces[focus.query])} (position {focus.query})"
    word = code(final["token"] if own else focus.piece(focus.target))
    named = f"the final word {word}" if own else f"the answer {word}"
    begins = settled(here["answer_rank"])
    if begins is not None:
        where = "at every depth" if begins == 0 else f"from {here['layer'][begins]} on"
        first = (
            f"{at}, {named} ranks first {where}, and ends at probability {final.answer_prob:.3f}."
        )
    else:
        best = here.loc[here["answer_rank"].idxmin()]
        first = (
            f"{at}, {named} does not come first in the end: its best rank is "
            f"{best.answer_rank:.0f}, at {best.layer}; the model says {code(final['token'])} "
            f"({final.prob:.3f})."
        )
    last = len(focus.tokens) - 1
    if not own and focus.query != last:
        first += (
            f" The answer is asked for at the end of the prompt, position {last}; here another "
            "word may simply come next."
        )
    return [f"{first} {READ_AS}", OTHER_CODE]


def top_tokens(table: pd.DataFrame, layer: str, focus: Focus) -> list[str]:
    """How sure the model would be here."""
    best = table.iloc[0]
    rest = 1 - table["prob"].sum()
    after = code(focus.pieces[focus.query])
    sure = (
        f"If the model ended at {layer}, {code(best.token)} would follow {after} with probability "
        f"{best.prob:.3f}"
    )
    own = (
        " The token itself on top is what the embeddings give where W_U is W_E turned round: "
        "nothing has been computed yet."
        if layer == "L0 pre" and best.token == focus.pieces[focus.query]
        else ""
    )
    return [f"{sure}; tokens that are not listed share {max(rest, 0):.3f}.{own}"]


def trajectory(table: pd.DataFrame, focus: Focus) -> list[str]:
    """Where the answer's rank moves most, and whether it wins over the wrong answer."""
    ranks = table.pivot(index="layer", columns="which", values="rank")
    order = list(dict.fromkeys(table["layer"]))
    ranks = ranks.loc[order]
    ahead = (ranks["answer"] < ranks["wrong answer"]).astype(int).map({1: 1, 0: 2})
    answer, wrong = code(focus.piece(focus.target)), code(focus.piece(focus.wrong))
    begins = settled(ahead)
    probs = table.pivot(index="layer", columns="which", values="prob").loc[order]
    jumps = probs["answer"].diff()
    if begins is None:
        first = f"{answer} ends behind {wrong}, at rank {ranks['answer'].iloc[-1]:.0f}."
    else:
        where = "at every depth" if begins == 0 else f"from {order[begins]} on"
        first = f"{answer} is ahead of {wrong} {where}."
    largest = jumps.idxmax()
    second = (
        f" Its probability rises most at {largest}, by {jumps[largest]:.3f}: what that sublayer "
        "wrote changed the reading, alone or by completing what was there."
        if jumps.max() > 0
        else " Its probability never rises."
    )
    return [
        f"{first}{second} Next: see what the block wrote, or patch the stream in the patching lab."
    ]


def difference(table: pd.DataFrame, focus: Focus) -> list[str]:
    """How the logit difference that the lens reads moves from depth to depth."""
    values = table.set_index("layer")["lens"]
    steps = values.diff().dropna()
    largest = steps.abs().idxmax()
    return [
        f"Read off the stream at {code(focus.pieces[focus.query])}, logit(answer) - logit(wrong "
        f"answer) goes from {values.iloc[0]:+.2f} to {values.iloc[-1]:+.2f} logits; the largest "
        f"step is {steps[largest]:+.2f}, at {largest}. A step is not that sublayer's contribution "
        "alone: the LayerNorm's scale changes too. The attribution page splits the end of the "
        "prompt with the scale frozen."
    ]


def written(table: pd.DataFrame, lengths: pd.DataFrame, focus: Focus) -> list[str]:
    """What attention and the MLP of a block wrote, and how much beside what was there.

    Args:
        table: As of `measurements.residual.written`.
        lengths: Rows of `measurements.residual.geometry` at the query.
    """
    by_depth = lengths.set_index("layer")
    answer = code(focus.piece(focus.target))
    sentences = []
    for name, depth, part in (("Attention", "mid", "attn_out"), ("The MLP", "post", "mlp_out")):
        rows = table[table["component"] == f"L{focus.layer} {part}"]
        top, place = rows.iloc[0], by_depth.loc[f"L{focus.layer} {depth}"]
        sentences.append(
            f"{name} of layer {focus.layer} writes a vector of length {place.written:.1f} (the "
            f"stream is then {place.norm:.1f} long). By itself it promotes {code(top.token)} most "
            f"({top.logit:+.2f}) and suppresses {code(top.lowest_token)} most "
            f"({top.lowest_logit:+.2f}); {answer} gets {top.answer_logit:+.2f}, rank "
            f"{top.answer_rank:.0f}."
        )
    return [
        " ".join(sentences),
        "In logits at this position, with the final LayerNorm's scale frozen, against the mean "
        "over the vocabulary. These are direct effects: what later layers make of it is not here, "
        "and much of what early layers write is for them.",
    ]


def geometry(table: pd.DataFrame, name: str, focus: Focus) -> list[str]:
    """Lengths or directions: the ends, and the first token's special part."""
    here = table[table["pos"] == focus.query]
    at = code(focus.pieces[focus.query])
    start, end = here.iloc[0], here.iloc[-1]
    if name == "cosine":
        return [
            f"At {at} the stream's cosine with the direction that the logit difference reads goes "
            f"from {start.cosine:+.3f} to {end.cosine:+.3f}. In so many dimensions a small cosine "
            "of a long vector can decide a prediction; the sign says whom it favours."
        ]
    if name == "lens":
        return [
            f"Read off the stream at {at}: from {start.lens:+.2f} to {end.lens:+.2f} logits. "
            "Positive favours the answer. Only the end of the prompt is asked for it."
        ]
    most = here.loc[here[name].idxmax()]
    noun = "stream is longest" if name == "norm" else "largest vector is written"
    says = (
        f"At {at} the stream grows from {start.norm:.1f} to {end.norm:.1f}; the {noun} at "
        f"{most.layer} ({most[name]:.1f})."
    )
    first = table.loc[table["pos"] == 0, name].max()
    others = table.loc[table["pos"] != 0, name].max()
    if first > 2 * others:
        says += (
            f" At the first token it reaches {first:.0f}, beyond {others:.0f} anywhere else: a "
            "place where heads rest, not a sign of meaning. Hide it to see the rest."
        )
    return [f"{says} Lengths have no unit; compare what is written with the stream it is added to."]


def similarity(table: pd.DataFrame, focus: Focus) -> list[str]:
    """How far the direction turns between the beginning and the end, and where most."""
    square = table.pivot(index="layer", columns="other_layer", values="cosine")
    order = list(dict.fromkeys(table["layer"]))
    steps = pd.Series({b: square.loc[a, b] for a, b in pairwise(order)})
    turned = steps.idxmin()
    ends = square.loc[order[0], order[-1]]
    kept = f"{ends:+.2f}, nearly the same way" if ends > LAST else f"{ends:+.2f}"
    return [
        f"At {code(focus.pieces[focus.query])} the beginning and the end have cosine {kept}. The "
        f"sharpest turn is at {turned} ({steps[turned]:+.2f} with the depth before). Directions "
        "are compared as a LayerNorm sees them, without the mean over d_model. A turn says that "
        "something was written, not what it means."
    ]
