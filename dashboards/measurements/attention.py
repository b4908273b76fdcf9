"""What the attention explorer shows: weights by head, one head's pattern, and what edges do."""

import pandas as pd
import xarray as xr

from dashboards.measurements.basics import Tokens
from interp import attention, patterns
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.progress import Progress, no_progress


def edge_effects(
    model: HookedGPT2, tokens: Tokens, query: int, key: int, answers: tuple[int, int], *,
    progress: Progress = no_progress,
) -> pd.DataFrame:  # fmt: skip
    """One edge in every head: `layer`, `head`, `weight`, `rank`, `lift`, `effect`."""
    metric = logit_diff(*answers)
    ds = attention.edge_effects(model, [list(tokens)], query, key, metric, progress=progress)
    return ds.isel(example=0, drop=True).to_dataframe().reset_index()


def edge_effect(
    model: HookedGPT2, tokens: Tokens, edge: tuple[int, int, int, int], answers: tuple[int, int]
) -> float:
    """What cutting one edge (layer, head, query, key) does to the logit difference."""
    ds = attention.knockout_each(model, [list(tokens)], [edge], logit_diff(*answers))
    return ds["effect"].item()


def measures(model: HookedGPT2, tokens: Tokens) -> pd.DataFrame:
    """`patterns.MEASURES` of every head: `layer`, `head`, and a column each."""
    return patterns.measures(model, [list(tokens)]).to_dataframe().reset_index()


def thumbnails(model: HookedGPT2, tokens: Tokens) -> xr.DataArray:
    """Every head's pattern, small."""
    return patterns.thumbnails(model, [list(tokens)])


def top_edges(
    model: HookedGPT2, tokens: Tokens, layer: int, head: int, n: int, first_key: int,
    answers: tuple[int, int],
) -> pd.DataFrame:  # fmt: skip
    """A head's heaviest edges, and what cutting each alone does to the logit difference.

    Args:
        first_key: 1 leaves out edges to the first token; 0 leaves out none.
    """
    edges = patterns.top_edges(model, [list(tokens)], layer, head, n=n, first_key=first_key)
    places = [
        (layer, head, int(q), int(k)) for q, k in zip(edges["query"], edges["key"], strict=True)
    ]
    cut = attention.knockout_each(model, [list(tokens)], places, logit_diff(*answers))
    return edges.assign(effect=cut["effect"].isel(example=0).values)
