"""Which heads do induction (A B ... A -> B), and is the model's copying due to them?

On random words shown twice, an induction head attends, from the second A, to the token after the
first A, and the model can predict B. Prediction, written before running: a few heads score near 1,
and without them the loss on the second half rises far more than without as many other heads.

Method: induction scores of all heads on repeated random words (Olsson et al. 2022,
arXiv:2209.11895), then zero ablation of the top heads, one by one and together, and of as many
heads with the lowest scores; change of the second half's loss per token, bootstrap interval over
sequences.
"""

from collections.abc import Sequence
from typing import Annotated

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from typer import Option

import interp
from interp import charts, heads
from interp.ablation import zero_heads
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import model_hash
from interp.progress import Progress, no_progress
from interp.prompts.drawing import single_tokens
from interp.report import Report, Section
from interp.statistics import bootstrap_mean
from interp.tiny.language import LIST_WORDS

Head = tuple[int, int]
KINDS = ("previous_token", "duplicate_token", "induction")
"""The scores of the table: what attention finds in a repetition."""


def run(
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    top: Annotated[int, Option(help="How many heads to ablate.")] = 3,
    n_tokens: Annotated[int, Option(help="Length of the repeated part.")] = 30,
    n_sequences: Annotated[int, Option(help="Number of random sequences.")] = 64,
    seed: Annotated[int, Option(help="Of the random words and the bootstrap.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """Which heads do induction, and is the model's copying due to them?"""
    hooked = interp.load(model)
    n_heads = hooked.cfg.n_layers * hooked.cfg.n_heads
    if not 1 <= top <= n_heads // 2:
        raise PromptError(f"top must be 1 to {n_heads // 2} for {n_heads} heads, got {top}.")
    words = single_token_words(hooked)
    sizes = {"n_tokens": n_tokens, "n_sequences": n_sequences, "seed": seed}
    scores = heads.scores(hooked, words, **sizes).sel(kind=list(KINDS))
    scores = scores.to_series().unstack("kind").reset_index()
    scores = scores.sort_values("induction", ascending=False, ignore_index=True)
    ranked = [(int(row.layer), int(row.head)) for row in scores.itertuples()]
    tokens = heads.repeated_tokens(hooked, words, **sizes)
    effects = ablation_table(hooked, tokens, ranked, top, seed, progress)
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked), "top": top}
    return Report(
        "Which heads do induction?",
        "A B ... A → B: on random words shown twice, which heads find B, and who needs them?",
        (score_section(scores, top), effect_section(effects, ranked, top)),
        settings | sizes,
    )


def single_token_words(model: HookedGPT2) -> list[int]:
    """Ids of the words that are one token for this model."""
    words = single_tokens(model, LIST_WORDS, at_least=2)
    return sorted({model.to_single_token(f" {word}") for word in words})


def second_half_loss(
    model: HookedGPT2, tokens: Int[Tensor, "batch pos"], ablated: Sequence[Head]
) -> Float[Tensor, " batch"]:
    """Mean loss in nats per token where the repetition can be known, by sequence."""
    half = (tokens.shape[1] - 1) // 2
    with torch.no_grad(), model.hooks(zero_heads(ablated)):
        loss = model(tokens, "loss", loss_per_token=True)
    assert isinstance(loss, Tensor)
    return loss[:, 1 - half :].mean(dim=1)


def ablation_table(
    model: HookedGPT2,
    tokens: Int[Tensor, "batch pos"],
    ranked: Sequence[Head],
    top: int,
    seed: int,
    progress: Progress,
) -> pd.DataFrame:
    """Change of the second half's loss without some heads, with intervals over sequences."""
    sets = {f"without L{layer}H{head}": [(layer, head)] for layer, head in ranked[:top]}
    sets[f"without the top {top}"] = list(ranked[:top])
    sets[f"without the lowest {top} (control)"] = list(ranked[-top:])
    intact = second_half_loss(model, tokens, [])
    rows = [
        {"condition": "intact", "measure": "loss"} | bootstrap_mean(intact, seed=seed)._asdict()
    ]
    for condition, ablated in progress(list(sets.items()), "Ablating heads"):
        change = second_half_loss(model, tokens, ablated) - intact
        interval = bootstrap_mean(change, seed=seed)
        rows.append({"condition": condition, "measure": "change of loss"} | interval._asdict())
    return pd.DataFrame(rows)


def score_section(scores: pd.DataFrame, top: int) -> Section:
    """Scores of all heads."""
    best = scores.iloc[0]
    reading = (
        "Each score is the mean attention from a token of the second half to: the token before it "
        "(previous_token), its own first occurrence (duplicate_token), and the token after that "
        "(induction). 1 means all attention goes there.",
        f"Highest induction score: L{best.layer:.0f}H{best['head']:.0f} with {best.induction:.3f}; "
        f"number {top + 1} has {scores.induction[top]:.3f}.",
    )
    picture = charts.head_map(scores, "induction", "Induction score")
    return Section("Induction scores", reading, scores, (picture,))


def effect_section(effects: pd.DataFrame, ranked: Sequence[Head], top: int) -> Section:
    """What ablation does, in words that follow the numbers."""
    together, control = effects.iloc[-2], effects.iloc[-1]
    names = ", ".join(f"L{layer}H{head}" for layer, head in ranked[:top])
    claim = (
        "Their ablation costs more than the control's, and the intervals do not touch: the copying "
        "depends on them."
        if together.low > max(0.0, control.high)
        else "The intervals do not separate them from the control: a high score is not enough here."
    )
    reading = (
        f"Zero ablation of {names}. Intact loss on the second half: {effects['mean'][0]:.3f} nats "
        "per token.",
        f"Without all {top}: {together['mean']:+.3f} [{together.low:+.3f}, {together.high:+.3f}]; "
        f"without the {top} heads of lowest score: {control['mean']:+.3f} "
        f"[{control.low:+.3f}, {control.high:+.3f}]. {claim}",
    )
    picture = charts.intervals(effects.iloc[1:], "Loss added by ablation", "nats per token")
    return Section("Does the copying depend on them?", reading, effects, (picture,))
