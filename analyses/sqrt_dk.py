"""Does dividing by √d_k keep the softmax, and its gradient, healthy?

The claim (Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1): if the components of q and k are
independent with variance 1, q·k has variance d_k; for large d_k the softmax is pushed to where its
gradient is tiny, and 1/√d_k undoes that.

Prediction, written before running: without the factor the variance of the scores grows like d_k,
the entropy of the attention falls and with it the gradient that reaches the scores; with the factor
all three stay level. In training, the unscaled model of large d_k learns more slowly.

Method: one-layer, one-head models with d_head = d_k, initialised so that q and k have variance 1
(weights of standard deviation 1/√d_model), measured at initialisation on random tokens; then a
short training run on sequences that repeat with a fixed period, with and without the factor.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor
from typer import Option

from interp import charts
from interp.errors import PromptError
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.progress import Progress, no_progress
from interp.report import Report, Section

SIZES = (4, 8, 16, 32, 64, 128, 256, 512, 1024)
TRAINED_SIZES = (16, 256)
N_VOCAB, N_POSITIONS, PERIOD, BATCH = 64, 32, 8, 32
FACTOR = {True: "with 1/√d_k", False: "without"}
MEASURES = ("score variance", "relative entropy", "gradient norm")


def run(
    steps: Annotated[int, Option(help="Training steps of each run; 0 leaves training out.")] = 100,
    seed: Annotated[int, Option(help="Of weights and tokens.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """Does dividing by √d_k keep the softmax, and its gradient, healthy?"""
    if steps < 0:
        raise PromptError(f"steps must not be negative, got {steps}.")
    cases = [(d_k, scaled) for d_k in SIZES for scaled in (True, False)]
    at_start = pd.DataFrame(
        [at_initialisation(d, s, seed) for d, s in progress(cases, "At initialisation")]
    )
    sections = [initial_section(at_start)]
    if steps:
        cases = [(d_k, scaled) for d_k in TRAINED_SIZES for scaled in (True, False)]
        curves = [train(d, s, steps, seed) for d, s in progress(cases, "Training")]
        sections.append(training_section(pd.concat(curves, ignore_index=True)))
    return Report(
        "Does dividing by √d_k keep the softmax healthy?",
        "softmax(Q Kᵀ / √d_k) V against softmax(Q Kᵀ) V",
        tuple(sections),
        {"steps": steps, "seed": seed, "model": "one layer, one head, fresh weights"},
    )


def fresh_model(d_k: int, scaled: bool, seed: int) -> HookedGPT2:
    """One layer, one head, whose q and k have variance 1 at initialisation."""
    cfg = ModelConfig(
        n_layers=1,
        n_heads=1,
        d_model=d_k,
        d_mlp=4 * d_k,
        d_vocab=N_VOCAB,
        n_ctx=N_POSITIONS,
        scale_attn_weights=scaled,
        init_range=d_k**-0.5,
        model_name=f"one head, d_k {d_k}",
    )
    return HookedGPT2(cfg, seed=seed)


def periodic_tokens(generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """Random tokens that repeat with a fixed period: the next one stands `PERIOD` - 1 back."""
    period = torch.randint(N_VOCAB, (BATCH, PERIOD), generator=generator)
    return period.repeat(1, N_POSITIONS // PERIOD)


def at_initialisation(d_k: int, scaled: bool, seed: int) -> dict[str, float | int | str]:
    """Score variance, attention entropy and the gradient that reaches the scores.

    Entropy is relative to that of even attention over the visible positions, averaged over queries
    that see two or more. The gradient is the norm of d loss / d scores.
    """
    tokens = periodic_tokens(torch.Generator().manual_seed(seed))
    names = ["blocks.0.attn.hook_attn_scores", "blocks.0.attn.hook_pattern"]
    model = fresh_model(d_k, scaled, seed)
    _, cache = model.run_with_cache(tokens, names_filter=names, return_type="loss", incl_bwd=True)
    scores, pattern = cache["attn_scores", 0], cache["pattern", 0]
    entropy = -(pattern * pattern.clamp(min=1e-30).log()).sum(dim=-1)[..., 1:]
    even = torch.arange(2, N_POSITIONS + 1).log()
    return {
        "d_k": d_k,
        "factor": FACTOR[scaled],
        "score variance": float(scores[scores.isfinite()].var()),
        "relative entropy": float((entropy / even).mean()),
        "gradient norm": float(cache[names[0] + "_grad"].norm()),
    }


def train(d_k: int, scaled: bool, steps: int, seed: int) -> pd.DataFrame:
    """Loss on the predictable tokens during training, in nats."""
    model = fresh_model(d_k, scaled, seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for step in range(steps):
        loss = model(periodic_tokens(generator), "loss", loss_per_token=True)
        assert isinstance(loss, Tensor)
        predictable = loss[:, PERIOD - 1 :].mean()
        optimizer.zero_grad()
        predictable.backward()
        optimizer.step()
        name = f"d_k {d_k}, {FACTOR[scaled]}"
        rows.append({"run": name, "step": step + 1, "loss": float(predictable.detach())})
    return pd.DataFrame(rows)


def slope(table: pd.DataFrame, measure: str, factor: str) -> float:
    """Exponent p of measure ~ d_k^p, by least squares on logarithms."""
    chosen = table[table["factor"] == factor]
    x = torch.tensor(chosen["d_k"].to_list()).double().log()
    y = torch.tensor([math.log(max(value, 1e-30)) for value in chosen[measure]]).double()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def initial_section(table: pd.DataFrame) -> Section:
    """Growth with d_k at initialisation."""
    with_factor, without = FACTOR[True], FACTOR[False]
    last = table[table["d_k"] == SIZES[-1]].set_index("factor")
    grows, level = (slope(table, "score variance", factor) for factor in (without, with_factor))
    entropy = last["relative entropy"]
    gradient = last["gradient norm"]
    supported = (
        abs(grows - 1) < 0.25 and abs(level) < 0.25 and entropy[without] < entropy[with_factor]
    )
    reading = (
        f"The variance of the scores grows as d_k^{grows:.2f} without the factor and as "
        f"d_k^{level:.2f} with it (the claim says 1 and 0).",
        f"At d_k = {SIZES[-1]}: entropy of the attention, relative to even attention, "
        f"{entropy[without]:.2f} without and {entropy[with_factor]:.2f} with the factor; norm of "
        f"the gradient that reaches the scores {gradient[without]:.2e} and "
        f"{gradient[with_factor]:.2e}.",
        "The numbers support the claim at initialisation."
        if supported
        else "The numbers do not support the claim as stated.",
    )
    pictures = tuple(
        charts.lines(
            table, "d_k", measure, "factor", measure, log_x=True, log_y="entropy" not in measure
        )
        for measure in MEASURES
    )
    return Section("At initialisation", reading, table, pictures)


def training_section(curves: pd.DataFrame) -> Section:
    """Where each run stands at the end."""
    n_last = max(1, curves["step"].max() // 10)
    ends = (
        curves[curves["step"] > curves["step"].max() - n_last]
        .groupby("run", sort=False)["loss"]
        .mean()
    )
    table = ends.rename("final loss").reset_index()
    large = [f"d_k {TRAINED_SIZES[-1]}, {FACTOR[scaled]}" for scaled in (True, False)]
    reading = (
        f"Chance is {math.log(N_VOCAB):.2f} nats. Mean of the last {n_last} steps: "
        + "; ".join(f"{name}: {loss:.2f}" for name, loss in _pairs(ends.index, ends.to_list()))
        + ".",
        "At the large d_k the scaled model is ahead."
        if ends[large[0]] < ends[large[1]]
        else "At the large d_k the unscaled model is not behind in this run: the factor is not "
        "what decides here.",
    )
    picture = charts.lines(curves, "step", "loss", "run", "Loss on predictable tokens (nats)")
    return Section("In training", reading, table, (picture,))


def _pairs(names: Sequence[str], values: Sequence[float]) -> list[tuple[str, float]]:
    return list(zip(names, values, strict=True))
