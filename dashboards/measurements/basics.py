"""What every page needs to know of a prompt: its predictions, and where to look first."""

import pandas as pd
import torch
import xarray as xr

from interp import patterns
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.predictions import predictions as next_tokens

Tokens = tuple[int, ...]
"""Token ids of one prompt."""


def predictions(model: HookedGPT2, tokens: Tokens) -> pd.DataFrame:
    """The ten most probable next tokens: `token_id`, `token`, `prob`, `logit` by rank."""
    return next_tokens(model, [list(tokens)]).to_dataframe().reset_index()


def row(model: HookedGPT2, tokens: Tokens, query: int) -> xr.DataArray:
    """One query's weights in every head."""
    return patterns.row(model, [list(tokens)], query)


def of_head(model: HookedGPT2, tokens: Tokens, layer: int, head: int) -> xr.DataArray:
    """One head's pattern over (`query_pos`, `key_pos`)."""
    return patterns.of_head(model, [list(tokens)], layer, head)


def of_all_heads(model: HookedGPT2, tokens: Tokens) -> xr.DataArray:
    """Every head's pattern over (`layer`, `head`, `query_pos`, `key_pos`)."""
    return patterns.of_all_heads(model, [list(tokens)])


def logit_difference(model: HookedGPT2, tokens: Tokens, answers: tuple[int, int]) -> float:
    """logit(answer) - logit(wrong answer) at the end of the prompt."""
    metric = logit_diff(*answers)
    return float(metric(model(torch.tensor([tokens]), positions="last")))
