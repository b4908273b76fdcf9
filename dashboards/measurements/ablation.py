"""What the ablation lab shows: components taken out, one by one and together."""

from collections.abc import Sequence

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from dashboards.measurements.basics import Tokens
from dashboards.measurements.references import reference
from interp import ablation, metrics, predictions
from interp.ablation import component_name
from interp.branches import Component
from interp.metrics import Metric, logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.progress import Progress, no_progress

Chosen = tuple[Component, ...]
N_DRAWS = 16
"""Of a resampling, to see how much the drawn prompt matters."""


def components(model: HookedGPT2) -> dict[str, Component]:
    """Every head and MLP by its name, layer by layer."""
    parts = [*range(model.cfg.n_heads), "mlp"]
    layers = range(model.cfg.n_layers)
    return {component_name(layer, part): (layer, part) for layer in layers for part in parts}


def _reference(
    model: HookedGPT2, tokens: Tokens, kind: str, source: str, seed: int
) -> Int[Tensor, "prompt pos"] | None:
    return None if kind == "zero" else reference(model, tokens, source, seed)


def judged_by(model: HookedGPT2, tokens: Tokens, answers: tuple[int, int]) -> dict[str, Metric]:
    """What the ablated run is judged by; the loss where the prompt predicts something."""
    judges = {
        "logit difference": logit_diff(*answers),
        "answer's probability": metrics.prob(answers[0]),
    }
    if len(tokens) > 1 and model.cfg.n_classes is None:
        batch = model.as_batch([list(tokens)])
        judges["loss on the prompt"] = metrics.next_token_loss(batch)
    return judges


def before_and_after(
    model: HookedGPT2, tokens: Tokens, chosen: Chosen, kind: str, source: str, seed: int,
    answers: tuple[int, int],
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """What the chosen parts are needed for.

    Returns:
        The ten most probable next tokens of either run, as of
        `interp.predictions.before_and_after`; and `measure`, `before`, `after`, `unit` and
        `change` of what `judged_by` names.
    """
    given = _reference(model, tokens, kind, source, seed)
    hooks = ablation.replacing_hooks(
        model, [list(tokens)], chosen, kind, reference=given, seed=seed
    )
    ids = torch.tensor([tokens])
    runs = {"before": model(ids), "after": model.run_with_hooks(ids, hooks)}
    rows = []
    for name, metric in judged_by(model, tokens, answers).items():
        values = {run: float(metric(logits)) for run, logits in runs.items()}
        rows.append({"measure": name} | values | {"unit": metric.unit})
    measures = pd.DataFrame(rows).assign(change=lambda table: table["after"] - table["before"])
    return predictions.before_and_after(model, ids, hooks), measures


def interplay(
    model: HookedGPT2, tokens: Tokens, chosen: Chosen, kind: str, source: str, seed: int,
    answers: tuple[int, int],
) -> pd.DataFrame:  # fmt: skip
    """`taken_out` and its `effect`: each alone, their sum, all together, and the interplay."""
    ds = ablation.interplay(
        model, torch.tensor([tokens]), chosen, logit_diff(*answers), kind,
        reference=_reference(model, tokens, kind, source, seed), seed=seed,
    )  # fmt: skip
    one = ds.isel(example=0)
    names = [*one["component"].values.tolist(), "sum of each alone", "all together", "interplay"]
    parts = [one[name].item() for name in ("sum", "together", "interplay")]
    return pd.DataFrame({"taken_out": names, "effect": [*one["alone"].values.tolist(), *parts]})


def singles(
    model: HookedGPT2, tokens: Tokens, kind: str, source: str, seed: int, answers: tuple[int, int],
    *, progress: Progress = no_progress,
) -> pd.DataFrame:  # fmt: skip
    """The effect of each head and MLP alone: `layer`, `part` ("0" ... or "MLP"), `effect`."""
    given = _reference(model, tokens, kind, source, seed)
    tables: Sequence[pd.DataFrame] = [
        ablation.sweep(
            model, torch.tensor([tokens]), logit_diff(*answers), kind, of=of, reference=given,
            seed=seed, progress=progress,
        )["effect"].isel(example=0, drop=True).to_series().reset_index()
        for of in ("heads", "mlps")
    ]  # fmt: skip
    of_heads = tables[0].rename(columns={"head": "part"}).astype({"part": str})
    of_mlps = tables[1].assign(part="MLP")
    return pd.concat([of_heads, of_mlps], ignore_index=True)[["layer", "part", "effect"]]


def draws(
    model: HookedGPT2, tokens: Tokens, chosen: Chosen, source: str, seed: int,
    answers: tuple[int, int],
) -> tuple[float, float]:  # fmt: skip
    """Lowest and highest effect on the logit difference over `N_DRAWS` resampled prompts."""
    ds = ablation.ablate_together(
        model, torch.tensor([tokens] * N_DRAWS), {"chosen": list(chosen)}, logit_diff(*answers),
        "resample", reference=reference(model, tokens, source, seed), seed=seed,
    )  # fmt: skip
    return float(ds["effect"].min()), float(ds["effect"].max())
