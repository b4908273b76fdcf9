"""What every page needs to know of a prompt: its predictions, and where to look first."""

import pandas as pd
import torch
import xarray as xr

from interp import patterns
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.predictions import predictions as next_tokens
from interp.predictions import token_name

Tokens = tuple[int, ...]
"""Token ids of one prompt."""


def predictions(model: HookedGPT2, tokens: Tokens) -> pd.DataFrame:
    """The ten most probable next tokens: `token_id`, `token`, `prob`, `logit` by rank."""
    return next_tokens(model, [list(tokens)]).to_dataframe().reset_index()


def heaviest_head(model: HookedGPT2, tokens: Tokens, query: int, key: int) -> tuple[int, int]:
    """Layer and head with the largest weight from a query to a key."""
    weights = patterns.row(model, [list(tokens)], query).isel(key_pos=key)
    found = weights.argmax(dim=("layer", "head"))
    return int(found["layer"]), int(found["head"])


def piece(model: HookedGPT2, token_id: int) -> str:
    """The text of a token, or of a class."""
    return token_name(model, token_id)


def row(model: HookedGPT2, tokens: Tokens, query: int) -> xr.DataArray:
    """One query's weights in every head."""
    return patterns.row(model, [list(tokens)], query)


def logit_difference(model: HookedGPT2, tokens: Tokens, answers: tuple[int, int]) -> float:
    """logit(answer) - logit(wrong answer) at the end of the prompt."""
    metric = logit_diff(*answers)
    return float(metric(model(torch.tensor([tokens]), positions="last")))
