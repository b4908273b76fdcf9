"""What the compare page shows: where two runs look, and what they say next.

The other model is named, not given, so that answers are remembered by its hash, and no answer keeps
a model alive.
"""

from typing import NamedTuple

import pandas as pd
import torch
import xarray as xr

from dashboards.measurements.basics import Tokens
from dashboards.service import service
from interp import differences, patterns
from interp.errors import PromptError
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.predictions import answer_name


class Other(NamedTuple):
    """The second run."""

    tokens: Tokens
    model: str = ""
    """Its name, as `Service.loaded` takes it; empty for the same model."""
    hash: str = ""


Sides = tuple[HookedGPT2, list[list[int]], HookedGPT2, list[list[int]]]


def _of(model: HookedGPT2, other: Other) -> HookedGPT2:
    return service().loaded(other.model).model if other.model else model


def _sides(model: HookedGPT2, tokens: Tokens, other: Other) -> Sides:
    return model, [list(tokens)], _of(model, other), [list(other.tokens)]


def alignment(model: HookedGPT2, tokens: Tokens, other: Other) -> pd.DataFrame:
    """Both prompts place by place."""
    return differences.alignment(*_sides(model, tokens, other))


def heads(model: HookedGPT2, tokens: Tokens, other: Other) -> pd.DataFrame:
    """How much each head changes: `layer`, `head`, `differences.MEASURES`, and its edge."""
    ds = differences.pattern_changes(*_sides(model, tokens, other))
    return ds.to_dataframe().reset_index()


def most_changed(
    model: HookedGPT2, tokens: Tokens, other: Other, measure: str, n: int
) -> pd.DataFrame:
    """The heads that change most, with the edge of each that changes most."""
    return heads(model, tokens, other).nlargest(n, measure).reset_index(drop=True)


def of_head(model: HookedGPT2, tokens: Tokens, other: Other, layer: int, head: int) -> xr.Dataset:
    """One head's patterns in the shared places, and their difference."""
    return differences.of_head(*_sides(model, tokens, other), layer, head)


def pattern(model: HookedGPT2, other: Other, layer: int, head: int) -> xr.DataArray:
    """One head's whole pattern in the second run."""
    return patterns.of_head(_of(model, other), [list(other.tokens)], layer, head)


def next_tokens(model: HookedGPT2, tokens: Tokens, other: Other, n: int) -> pd.DataFrame:
    """What comes next in either run."""
    return differences.next_tokens(*_sides(model, tokens, other), n_top=n)


def same_vocabulary(model: HookedGPT2, other: Other) -> bool:
    """Whether token ids mean the same in both."""
    return differences.same_vocabulary(model, _of(model, other))


def logit_differences(
    model: HookedGPT2, tokens: Tokens, other: Other, answers: tuple[int, int]
) -> tuple[float, float | None]:
    """logit(answer) - logit(wrong answer) in either run; `None` where a token does not exist."""
    second = _of(model, other)
    ids: tuple[int, ...] = answers
    if not differences.same_vocabulary(model, second):
        try:
            ids = tuple(second.to_single_token(answer_name(model, i)) for i in answers)
        except PromptError:
            return _difference(model, tokens, answers), None
    return _difference(model, tokens, answers), _difference(second, other.tokens, ids)


def _difference(model: HookedGPT2, tokens: Tokens, answers: tuple[int, ...]) -> float:
    return float(logit_diff(*answers)(model(torch.tensor([tokens]), positions="last")))
