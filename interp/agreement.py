"""Whether an estimate can be trusted: effects estimated by gradients against exact ones.

Both datasets are sweeps (`interp.patching`, `interp.gradients`) of the same site, direction,
metric and cells.
"""

import numpy as np
import pandas as pd
import xarray as xr

from interp.statistics import effect

SAME = ("site", "direction", "metric", "model_hash")
"""Attributes in which the two have to agree."""
CELL_VALUES = ["estimate", "exact", "error"]


def compare(estimate: xr.Dataset, exact: xr.Dataset) -> xr.Dataset:
    """How well estimated effects agree with exact ones.

    Returns:
        For each cell, averaged over the examples that have it: `estimate`, `exact`, and `error`,
        their difference, in the metric's unit. Over these cells: `pearson`; `spearman`, the
        correlation of ranks; `sign_agreement`, the share of equal signs among cells where either
        is not 0; and `largest_error`, in absolute value. The same four of each example alone over
        `example`: `pearson_of_example` and so on. What is not defined is NaN: a correlation of
        equal effects, the signs of zeros.

    Raises:
        ValueError: the two are sweeps of different things.
    """
    _check_same(estimate, exact)
    estimated, expected = effect(estimate), effect(exact)
    means = [values.mean("example") for values in (estimated, expected)]
    cells = dict(zip(CELL_VALUES, (*means, means[0] - means[1]), strict=True))
    of_means = _agreement(*means)
    of_examples = [
        _agreement(estimated.isel(example=i), expected.isel(example=i))
        for i in range(estimated.sizes["example"])
    ]
    return xr.Dataset(
        cells
        | of_means
        | {
            f"{name}_of_example": ("example", [each[name] for each in of_examples])
            for name in of_means
        },
        attrs={name: estimate.attrs[name] for name in (*SAME, "unit") if name in estimate.attrs},
    )


def worst_cells(comparison: xr.Dataset, n: int = 10) -> pd.DataFrame:
    """The cells with the largest errors, worst first: axes, then estimate, exact and error."""
    table = comparison[CELL_VALUES].to_dataframe().dropna().reset_index()
    order = table["error"].abs().sort_values(ascending=False, kind="stable").index
    return (
        table.loc[order, [*comparison["error"].dims, *CELL_VALUES]].head(n).reset_index(drop=True)
    )


def _check_same(estimate: xr.Dataset, exact: xr.Dataset) -> None:
    for name in SAME:
        ours, theirs = (ds.attrs.get(name) for ds in (estimate, exact))
        if ours != theirs:
            raise ValueError(
                f"The estimate's {name} is {ours!r}, the exact sweep's {theirs!r}. Run both with "
                "the same arguments."
            )
    try:
        ours, theirs = xr.align(estimate.patched, exact.patched, join="exact")
    except ValueError as error:
        sizes = [dict(ds.patched.sizes) for ds in (estimate, exact)]
        raise ValueError(
            f"Estimate and exact sweep have other cells: {sizes[0]} and {sizes[1]}, or other "
            "values along an axis."
        ) from error
    if not ours.isnull().equals(theirs.isnull()):
        raise ValueError("Estimate and exact sweep are NaN in other cells: other prompts.")


def _agreement(estimate: xr.DataArray, exact: xr.DataArray) -> dict[str, float]:
    ours, theirs = (np.asarray(x, dtype=float).ravel() for x in (estimate, exact))
    present = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[present], theirs[present]
    some = (ours != 0) | (theirs != 0)
    equal_signs = np.sign(ours[some]) == np.sign(theirs[some])
    return {
        "pearson": _correlation(ours, theirs),
        "spearman": _correlation(*(pd.Series(x).rank().to_numpy() for x in (ours, theirs))),
        "sign_agreement": float(equal_signs.mean()) if len(equal_signs) else float("nan"),
        "largest_error": float(np.abs(ours - theirs).max(initial=0.0)),
    }


def _correlation(ours: np.ndarray, theirs: np.ndarray) -> float:
    if len(ours) == 0 or np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return float("nan")
    return float(np.corrcoef(ours, theirs)[0, 1])
