"""What the attribution page shows: the logit difference as a sum of what each part adds.

The decomposition is asked for once; the tables are views of it.
"""

import pandas as pd
import xarray as xr

from dashboards.measurements.basics import Tokens
from interp import logit_attribution
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2


def decomposition(model: HookedGPT2, tokens: Tokens, answers: tuple[int, int]) -> xr.DataArray:
    """`logit_attribution.decompose` of one prompt: (`component`, `pos`, `example`)."""
    return logit_attribution.decompose(model, [list(tokens)], logit_diff(*answers))


def components(da: xr.DataArray) -> pd.DataFrame:
    """What each component adds, positions together, largest first.

    Args:
        da: As of `decomposition`, here and below.

    Returns:
        `component`, `kind`, `layer` and `head` (-1: none), `contribution`.
    """
    table = da.sum("pos").isel(example=0, drop=True).to_dataframe().reset_index()
    return table.sort_values("contribution", key=abs, ascending=False, kind="stable")


def heads(da: xr.DataArray) -> pd.DataFrame:
    """What each head adds, positions together: `layer`, `head`, `contribution`."""
    here = da.sel(component=da.kind == "head").sum("pos").isel(example=0, drop=True)
    return here.to_dataframe().reset_index()[["layer", "head", "contribution"]]


def parts(da: xr.DataArray) -> pd.DataFrame:
    """The sum in few parts: `part`, `contribution`; see `logit_attribution.by_part`."""
    few = logit_attribution.by_part(da).sum("pos").isel(example=0, drop=True)
    return few.to_dataframe().reset_index()


def sum_check(da: xr.DataArray, own: float) -> pd.DataFrame:
    """Whether the parts add up to what the model says: `number`, `logits`.

    The sum leaves the residue out, which is what is missing to the model's own.

    Args:
        own: The logit difference of a run without attribution.
    """
    total = float(da.sel(component=da.kind != "residue").sum())
    names = ["sum of the parts", "the model's own logit difference", "sum - own"]
    return pd.DataFrame({"number": names, "logits": [total, own, total - own]})


def positions(da: xr.DataArray, component: str | None, *, only_heads: bool) -> pd.DataFrame:
    """What was added from each position that was read: `pos`, `token`, `contribution`.

    Args:
        component: One by its name ("L1H2"); `None` for several together,
        only_heads: and then for the heads, or for everything.
    """
    one = da.isel(example=0, drop=True)
    if component is not None:
        one = one.sel(component=[component])
    elif only_heads:
        one = one.sel(component=one.kind == "head")
    return one.sum("component").to_dataframe().reset_index()[["pos", "token", "contribution"]]


def neurons(
    model: HookedGPT2, tokens: Tokens, answers: tuple[int, int], layer: int
) -> pd.DataFrame:
    """What each MLP neuron of a layer adds: `neuron`, `activation`, `contribution`."""
    da = logit_attribution.neurons(model, [list(tokens)], logit_diff(*answers))
    table = da.sel(layer=layer).isel(example=0, drop=True).to_dataframe().reset_index()
    return table[["neuron", "activation", "contribution"]]


def strongest(table: pd.DataFrame, n: int) -> pd.DataFrame:
    """Of `neurons`, the `n` that add most and the `n` that take away most."""
    ends = logit_attribution.both_ends(table["contribution"], n)
    return table.loc[ends.index].reset_index(drop=True)
