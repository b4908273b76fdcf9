"""A patching sweep as a table: how large is each cell's effect, and how sure is it?

The numbers are those of `interp.statistics`, side by side.
"""

import pandas as pd
import xarray as xr

from interp import statistics
from interp.errors import PromptError


def table(ds: xr.Dataset, *, seed: int = 0) -> pd.DataFrame:
    """Every cell that was measured, largest absolute effect first.

    Args:
        ds: A sweep of `interp.patching` or `interp.gradients`.
        seed: Of the bootstrap and the permutations.

    Returns:
        The axes of a cell; `effect`, its mean over examples, in the metric's unit; `n`, the
        examples it has; `recovered_fraction`, pooled over them, unless it is undefined. With two
        or more examples also `low` and `high` of the effect's interval, and `p` and `p_corrected`
        (Holm). A cell in which no example has any effect is not tested: NaN.
    """
    effects = statistics.effect(ds)
    parts = {"effect": effects.mean("example")}
    tests = {}
    if ds.sizes["example"] > 1:
        interval = statistics.bootstrap(effects, seed=seed)
        parts |= {name: interval[name] for name in ("low", "high")}
        some = (effects.fillna(0) != 0).any("example")
        tests = dict(statistics.permutation_test(effects.where(some), seed=seed).data_vars)
    parts["n"] = effects.notnull().sum("example")
    if undefined_fraction(ds, pooled=True) is None:
        parts["recovered_fraction"] = statistics.pooled_recovered_fraction(ds)
    cells = xr.Dataset(parts | tests).reset_coords(drop=True).to_dataframe()
    cells = cells.dropna(subset=["effect"])
    order = cells["effect"].abs().sort_values(ascending=False, kind="stable").index
    axes = [dim for dim in ds.patched.dims if dim != "example"]
    return cells.loc[order].reset_index()[[*axes, *parts, *tests]]


def undefined_fraction(ds: xr.Dataset, *, pooled: bool = False) -> str | None:
    """Why the recovered fraction of an example (or of the mean) is undefined; None if it is not."""
    measure = statistics.pooled_recovered_fraction if pooled else statistics.recovered_fraction
    try:
        measure(ds)
    except PromptError as error:
        return str(error)
    return None
