"""What single features of an autoencoder stand for, beside coordinates and random directions."""

from collections.abc import Mapping

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from analyses._sae_rows import COLOURS, Rows
from interp import charts, features, prompts
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook
from interp.report import Section
from interp.sparse_autoencoder import SparseAutoencoder, strongest_only
from interp.statistics import bootstrap_mean

STRONGEST = 20
"""Rows, each of another text, that a feature is judged by."""
PURE, MIXED = 0.8, 0.5
"""A feature of a context: its rows share a colour to this share, and a word to less than that."""
MOST = 0.5
SHOWN, EXAMPLES = 15, 4
FEWEST = 5
"""Rows of a colour without which it cannot be told how well it is found."""
FEATURES, COORDINATES, RANDOM = "features", "coordinates", "random directions"
Readers = Mapping[str, Float[Tensor, "row number"]]
"""What is compared: numbers for each row, by kind."""


def readers(sae: SparseAutoencoder, rows: Rows, seed: int) -> Readers:
    """The features, both ends of each coordinate, and as many random directions as features."""
    centred = rows.x - sae.b_dec
    n_features, d_in = sae.W_dec.shape
    generator = torch.Generator().manual_seed(seed)
    random = torch.randn(n_features, d_in, generator=generator)
    return {
        FEATURES: sae.encode(rows.x),
        COORDINATES: torch.cat([centred, -centred], dim=1),
        RANDOM: einsum(centred, random, "row d_in, direction d_in -> row direction"),
    }


def purity_tables(found: Readers, rows: Rows) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Purities of each kind on average, and of each feature with its strongest rows."""
    kinds, each = [], pd.DataFrame()
    for kind, values in found.items():
        strongest = features.strongest(values, rows.sequences, STRONGEST)
        word_purity, _ = features.purity(strongest, rows.words)
        colour_purity, colour = features.purity(strongest, rows.colours)
        table = pd.DataFrame(
            {
                "feature": range(len(strongest)),
                "colour": [COLOURS[index] if index >= 0 else "" for index in colour.tolist()],
                "colour purity": colour_purity.numpy(),
                "word purity": word_purity.numpy(),
                "frequency": (values > 0).float().mean(dim=0).numpy(),
                "rows": strongest.tolist(),
            }
        ).dropna()
        context = (table["colour purity"] >= PURE) & (table["word purity"] < MIXED)
        interval = bootstrap_mean(table["word purity"].to_numpy())
        kinds.append(
            {"condition": kind, "judged": len(table)}
            | interval._asdict()
            | {"of one word": float((table["word purity"] >= PURE).mean())}
            | {"of one colour, many words": int(context.sum())}
        )
        if kind == FEATURES:
            each = table.assign(context=context)
    return pd.DataFrame(kinds), each


def purity_section(kinds: pd.DataFrame) -> Section:
    """Whether features are about fewer things than any direction is."""
    own, random = (kinds.set_index("condition").loc[kind] for kind in (FEATURES, RANDOM))
    counts = ", ".join(
        f"{row['of one colour, many words']} of {row['judged']} {row['condition']}"
        for _, row in kinds.iterrows()
    )
    purer = own.low > random.high
    reading = (
        f"Of each feature the {STRONGEST} strongest rows, each of another text; its word purity is "
        "the share of them that stand at its most common word. The same for both ends of each "
        "coordinate and for random directions: in a small language any direction has some.",
        f"Mean word purity: {own['mean']:.2f} [{own.low:.2f}, {own.high:.2f}] for features, "
        f"{random['mean']:.2f} [{random.low:.2f}, {random.high:.2f}] for random directions. "
        + ("Features are purer. " if purer else "Features are not purer than random directions. ")
        + f"{own['of one word']:.0%} of them stand at one word ({PURE:.0%} or more of the rows), "
        + ("as expected." if own["of one word"] > MOST else "not most of them, as was expected."),
        f"About one colour at many words (colour purity {PURE} or more, word purity below "
        f"{MIXED}; the colour that the sentence has named, not the word read): {counts}.",
    )
    picture = charts.intervals(kinds, "How much the strongest rows agree", "word purity")
    return Section("Are features about one thing?", reading, kinds, (picture,))


def examples_section(each: pd.DataFrame, rows: Rows) -> Section:
    """The features that are most about a colour, and their strongest rows."""
    best = each.sort_values(
        ["context", "colour purity", "word purity"], ascending=[False, False, True]
    )[:SHOWN]
    table = best.drop(columns=["rows", "context"]).assign(
        examples=[
            "\n".join(rows.context(row) for row in strongest[:EXAMPLES])
            for strongest in best["rows"]
        ]
    )
    first = best.iloc[0]
    reading = (
        "Features about a colour, those at many words first, with their strongest examples: the "
        "token read is in brackets. Look for rows that do not fit: a name given from the strongest "
        "examples says little about weaker ones.",
        f"Feature {first.feature} fires on {first.frequency:.1%} of the rows; of its {STRONGEST} "
        f"strongest, {first['colour purity']:.0%} stand in a sentence that has named "
        f"{first.colour}, and {first['word purity']:.0%} at the same word.",
    )
    return Section("What do they stand for?", reading, table)


def colour_table(
    sae: SparseAutoencoder, choice: Rows, test: Rows, seed: int
) -> pd.DataFrame | None:
    """How well the best single number of each kind finds a thing's colour; None without colours.

    The best is chosen on rows that take no part in the test.
    """
    parts = [(readers(sae, rows, seed), rows.colours, rows.things()) for rows in (choice, test)]
    rows = []
    for number, colour in enumerate(COLOURS):
        is_colour = [colours[things] == number for _, colours, things in parts]
        if min(int(mask.sum()) for mask in is_colour) < FEWEST:
            continue
        row: dict[str, object] = {"colour": colour}
        for kind in (FEATURES, COORDINATES, RANDOM):
            chosen, tested = (values[kind][things] for values, _, things in parts)
            best = int(features.average_precision(chosen, is_colour[0]).argmax())
            found = features.average_precision(tested[:, [best]], is_colour[1])
            row |= {"feature": best} if kind == FEATURES else {}
            row |= {kind: float(found[0])}
        rows.append(row | {"chance": float(is_colour[1].float().mean())})
    return pd.DataFrame(rows) if rows else None


def colour_section(table: pd.DataFrame, seed: int) -> Section:
    """Whether a colour has a feature of its own."""
    means = pd.DataFrame(
        {"condition": kind} | bootstrap_mean(table[kind].to_numpy(), seed=seed)._asdict()
        for kind in (FEATURES, COORDINATES, RANDOM, "chance")
    )
    gain = bootstrap_mean((table[FEATURES] - table[RANDOM]).to_numpy(), seed=seed)
    reading = (
        "At a thing whose sentence has named a colour: how well one number puts the rows of that "
        "colour first (average precision, 1 is perfectly). For each colour the best feature, "
        "coordinate and random direction are chosen on other texts than those of the test.",
        f"One feature gains {gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}] on the best "
        "random direction, over colours. "
        + (
            "Training without any labels has found some of the colours."
            if gain.low > 0
            else "Training did not single the colours out: it keeps what rebuilds most."
        )
        + " A probe is told the colours, and reads nearly all of them from the stream behind the "
        "layer (`interp run probe`). Another seed finds other features, and more or fewer colours: "
        "look at several before a claim.",
    )
    picture = charts.intervals(means, "One number for each colour", "average precision")
    return Section("Does a colour have a feature?", reading, table, (picture,))


def use_table(
    model: HookedGPT2, sae: SparseAutoencoder, hook: str, colours: pd.DataFrame, n: int, seed: int
) -> pd.DataFrame | None:
    """The logit difference without the colour's feature at the thing, and without another one."""
    try:
        pairs = prompts.colour_binding(model, n, seed=seed, n_pairs=2)
    except PromptError:
        return None
    of_colour = dict(zip(colours["colour"], colours["feature"], strict=True))
    known = [e for e in prompts.words_redrawn(model, pairs, seed=seed) if e.answer[1:] in of_colour]
    pairs = prompts.PromptPairs(pairs.name, tuple(known))
    if len(pairs) < 2:
        return None
    own = torch.tensor([of_colour[answer[1:]] for answer in pairs.answers])
    place = torch.arange(len(pairs)), pairs.roles["thing"]

    def without(chosen: str) -> Float[Tensor, " example"]:
        def edit(x: Tensor, hook: Hook) -> Tensor:  # noqa: ARG001
            edited = x.clone()
            weights = sae.encode(x[place])
            mine = torch.zeros_like(weights).scatter(1, own[:, None], 1.0)
            part = weights * mine if chosen == "own" else strongest_only(weights * (1 - mine), 1)
            edited[place] = x[place] - einsum(part, sae.W_dec, "row f, f d_in -> row d_in")
            return edited

        with torch.no_grad(), model.hooks([] if chosen == "none" else [(hook, edit)]):
            logits = model(model.to_batch(pairs.clean), positions="last")
        return pairs.metric(model)(logits)

    intact = without("none")
    conditions = {"intact": intact, "without the colour's feature": without("own")}
    conditions |= {"without the strongest other feature": without("other")}
    rows = []
    for condition, values in conditions.items():
        lost = bootstrap_mean((intact - values).numpy(), seed=seed)
        rows.append(
            {"condition": condition, "logit difference": float(values.mean())}
            | lost._asdict()
            | {"share lost": lost.mean / float(intact.mean()), "n": len(pairs)}
        )
    return pd.DataFrame(rows)


def use_section(table: pd.DataFrame) -> Section:
    """Whether the model needs the feature."""
    own, other = table.iloc[1], table.iloc[2]
    reading = (
        f"{own.n} prompts of two coloured things. At the asked thing, one feature's part is taken "
        "out of the activation: that of its colour (chosen above), or the strongest other one.",
        f"Without the colour's feature {own['share lost']:.0%} of the logit difference is lost "
        f"({own['mean']:.2f} [{own.low:.2f}, {own.high:.2f}] of {table['logit difference'][0]:.2f} "
        f"logits); without the strongest other, {other['share lost']:.0%}. "
        + (
            "The answer needs this feature more than another. Whether for the colour or for "
            "something else that it carries, its examples and average precision above say; what "
            "is left of the answer is carried elsewhere."
            if own.low > max(0.0, other.high)
            else "That is no more than another feature costs: found is not the same as used."
        ),
    )
    picture = charts.intervals(table.iloc[1:], "Lost without one feature", "logits")
    return Section("Does the model use the feature?", reading, table, (picture,))
