"""What the page of the residual stream shows: the lens, what a block wrote, lengths, directions."""

import pandas as pd
import xarray as xr

from dashboards.measurements.basics import Tokens
from interp import logit_lens, residual_stream
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2

Positions = tuple[int, ...]


def place_name(layer: int, place: str) -> str:
    """A depth of the stream as the library names it; a block begins where the last one ended."""
    return f"L{layer - 1} post" if place == "pre" and layer else f"L{layer} {place}"


def lens(model: HookedGPT2, tokens: Tokens, answer: int | None, positions: Positions) -> xr.Dataset:
    """`logit_lens.logit_lens` of one prompt, with the best token of each cell."""
    ds = logit_lens.logit_lens(model, [list(tokens)], answer, n_top=1, positions=positions)
    return ds.isel(example=0, drop=True)


def at_position(
    model: HookedGPT2, tokens: Tokens, answer: int, position: int, n: int
) -> xr.Dataset:
    """The lens at one position, over (`layer`, `rank`)."""
    ds = logit_lens.logit_lens(model, [list(tokens)], answer, n_top=n, positions=[position])
    return ds.isel(example=0, pos=0, drop=True)


def top_tokens(here: xr.Dataset, layer: str) -> pd.DataFrame:
    """What the model would say at one depth: `rank`, `token`, `token_id`, `prob`.

    Args:
        here: As of `at_position`.
    """
    table = here[["token", "token_id", "prob"]].sel(layer=layer).to_dataframe().reset_index()
    return table[["rank", "token", "token_id", "prob"]]


def trajectory(answer: xr.Dataset, wrong: xr.Dataset) -> pd.DataFrame:
    """Both answers at one position, depth by depth: `layer`, `prob`, `rank`, `which`.

    Args:
        answer, wrong: As of `at_position`, of each.
    """
    tables = [
        here[["answer_prob", "answer_rank"]].to_dataframe().reset_index().assign(which=which)
        for which, here in (("answer", answer), ("wrong answer", wrong))
    ]
    renamed = {"answer_prob": "prob", "answer_rank": "rank"}
    return pd.concat(tables).rename(columns=renamed)[["layer", "prob", "rank", "which"]]


def written(
    model: HookedGPT2, tokens: Tokens, answer: int, position: int, layer: int, n: int
) -> pd.DataFrame:
    """What a block's attention and MLP wrote at a position, as words.

    Returns:
        `component`, `rank`, `token` with its `logit`, `lowest_token` with its `lowest_logit`, and
        of the answer `answer_logit` and `answer_rank`.
    """
    ds = logit_lens.component_lens(model, [list(tokens)], answer, n_top=n, positions=[position])
    parts = [f"L{layer} attn_out", f"L{layer} mlp_out"]
    here = ds.sel(component=parts).isel(pos=0, example=0, drop=True)
    names = ["token", "logit", "lowest_token", "lowest_logit", "answer_logit", "answer_rank"]
    table = here[names].to_dataframe().reset_index()
    return table[["component", "rank", *names]]


def geometry(model: HookedGPT2, tokens: Tokens, answers: tuple[int, int]) -> pd.DataFrame:
    """`residual_stream.geometry` of every depth and position."""
    ds = residual_stream.geometry(model, [list(tokens)], logit_diff(*answers))
    return ds.isel(example=0, drop=True).to_dataframe().reset_index()


def similarity(model: HookedGPT2, tokens: Tokens, position: int) -> pd.DataFrame:
    """`layer`, `other_layer`, `cosine` of the stream at one position."""
    da = residual_stream.similarity(model, [list(tokens)], positions=[position])
    table = da.isel(pos=0, example=0, drop=True).to_dataframe().reset_index()
    return table[["layer", "other_layer", "cosine"]]
