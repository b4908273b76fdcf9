"""What a sweep says, and how sure that is: effects, recovered fractions, intervals, tests.

A sweep's dataset holds `patched` over its cells and `example`, and `clean` and `corrupted` over
`example`. A NaN marks an example that a cell does not have (a position beyond its prompt): every
function here leaves such examples out, cell by cell.
Sources: Efron 1979 (bootstrap), Phipson & Smyth 2010, arXiv:1603.05766 (permutation p-values),
Holm 1979, Benjamini & Hochberg 1995.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from einops import rearrange
from jaxtyping import Float
from numpy.typing import ArrayLike

from interp.errors import PromptError

STARTED_FROM = {"denoising": "corrupted", "noising": "clean"}
"""The run that each direction patches into."""
SMALLEST_GAP = 1e-3
"""Gaps between clean and corrupted below this share of the largest metric value are no gap."""
MAX_NUMBERS = 2**22
"""Most numbers in one intermediate array, 32 MiB."""
ROUNDING = 1e-12
"""Two sums of the same numbers in another order may differ by this share of their size."""
SHOWN = 8
"""Most places that an error names."""

Correction = Literal["holm", "benjamini-hochberg"]
"""Holm bounds the chance of any false finding; Benjamini-Hochberg the share of false ones."""


class Interval(NamedTuple):
    """A mean with its bootstrap interval, in the unit of the values."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def effect(ds: xr.Dataset) -> xr.DataArray:
    """Patched minus the metric of the run that was patched, per example, in the metric's unit.

    Denoising starts from the corrupted run, noising from the clean one (attribute `direction`).
    """
    direction = ds.attrs.get("direction")
    if direction not in STARTED_FROM:
        raise ValueError(f"The direction is 'denoising' or 'noising', got {direction!r}.")
    return (ds.patched - ds[STARTED_FROM[direction]]).rename("effect").assign_attrs(ds.attrs)


def recovered_fraction(ds: xr.Dataset, *, smallest_gap: float = SMALLEST_GAP) -> xr.DataArray:
    """(patched - corrupted) / (clean - corrupted) of each example; 1 is fully restored.

    Args:
        smallest_gap: Smallest denominator, as a share of the largest |clean| or |corrupted|.

    Raises:
        PromptError: a denominator is not larger, or not finite; names the examples.
    """
    gap = _gap(ds)
    _refuse(abs(gap) <= smallest_gap * _largest(ds), gap)
    return _fraction((ds.patched - ds.corrupted) / gap, ds)


def pooled_recovered_fraction(
    ds: xr.Dataset, *, smallest_gap: float = SMALLEST_GAP
) -> xr.DataArray:
    """Mean of patched - corrupted over mean of clean - corrupted; 1 is fully restored.

    An example with a small gap has little weight here; it would dominate the mean of fractions.
    Numerator and denominator average the same examples, those that the cell has.

    Raises:
        PromptError: as in `recovered_fraction`, for the mean gap of a cell.
    """
    gap = _gap(ds).where(ds.patched.notnull()).mean("example")
    _refuse(abs(gap) <= smallest_gap * _largest(ds), gap)
    return _fraction((ds.patched - ds.corrupted).mean("example") / gap, ds)


def _gap(ds: xr.Dataset) -> xr.DataArray:
    gap = ds.clean - ds.corrupted
    _refuse(~np.isfinite(gap), gap)
    return gap


def _largest(ds: xr.Dataset) -> float:
    return max(float(abs(ds.clean).max()), float(abs(ds.corrupted).max()))


def _refuse(wrong: xr.DataArray, gap: xr.DataArray) -> None:
    """Raise with the places and values of the gaps that are wrong, if any is."""
    places = np.argwhere(wrong.values)
    if not len(places):
        return
    shown = [
        f"{gap.values[tuple(place)]:.3g} at "
        + (
            ", ".join(f"{d} {gap[d].values[i]}" for d, i in zip(gap.dims, place, strict=True))
            or "the mean"
        )
        for place in places[:SHOWN]
    ]
    more = f", and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    raise PromptError(
        "A recovered fraction needs clean and corrupted runs whose metrics differ; clean minus "
        f"corrupted is {'; '.join(shown)}{more}. Leave these out, or use the effect."
    )


def _fraction(values: xr.DataArray, ds: xr.Dataset) -> xr.DataArray:
    return values.rename("recovered_fraction").assign_attrs(ds.attrs | {"unit": "fraction"})


def bootstrap_mean(
    values: ArrayLike, *, level: float = 0.95, n_resamples: int = 5000, seed: int = 0
) -> Interval:
    """Percentile bootstrap of the mean over examples.

    Args:
        values: One number per example; at least two, all finite.
    """
    sample = np.asarray(values, dtype=float)
    if sample.ndim != 1 or len(sample) < 2 or not np.isfinite(sample).all():
        raise ValueError(f"An interval needs two or more finite numbers, got {sample!r}.")
    (low,), (high,) = _mean_interval(sample[:, None], level, n_resamples, seed)
    return Interval(float(sample.mean()), float(low), float(high))


def bootstrap(
    da: xr.DataArray,
    dim: str = "example",
    *,
    level: float = 0.95,
    n_resamples: int = 5000,
    seed: int = 0,
) -> xr.Dataset:
    """Percentile bootstrap of the mean over `dim`, for every cell at once.

    Each cell's interval is what `bootstrap_mean` gives for its examples without NaN.

    Returns:
        `mean`, `low`, `high` and `n`, the number of examples, over the other dims. `low` and `high`
        are NaN where a cell has fewer than two examples.
    """

    def interval(samples: np.ndarray) -> np.ndarray:
        return _mean_interval(samples, level, n_resamples, seed)

    low, high = _per_cell(da, dim, interval, n_results=2, n_numbers=n_resamples)
    n = da.notnull().sum(dim)
    enough = n >= 2
    mean = da.astype(float).mean(dim)
    parts = {"mean": mean, "low": low.where(enough), "high": high.where(enough), "n": n}
    made_by = {"level": level, "n_resamples": n_resamples, "bootstrap_seed": seed}
    return xr.Dataset(parts, attrs=da.attrs | made_by)


def bootstrap_ratio(
    numerators: ArrayLike, denominators: ArrayLike, *, level: float = 0.95,
    n_resamples: int = 5000, seed: int = 0,
) -> Interval:  # fmt: skip
    """Percentile bootstrap of mean(numerators) / mean(denominators) over examples.

    Raises:
        PromptError: the denominators' interval holds 0, so that the ratio could be anything.
    """
    pairs = np.stack([np.asarray(x, dtype=float) for x in (numerators, denominators)], axis=1)
    if len(pairs) < 2 or not np.isfinite(pairs).all():
        raise ValueError(f"A ratio needs two or more pairs of finite numbers, got {pairs!r}.")
    above, below = _resampled_means(pairs, n_resamples, seed).T
    ends = np.quantile(below, [(1 - level) / 2, (1 + level) / 2])
    if ends[0] <= 0 <= ends[1]:
        raise PromptError(
            f"The denominator of a ratio is {below.mean():.3g} on average, with the interval "
            f"[{ends[0]:.3g}, {ends[1]:.3g}], which holds 0. Use the differences themselves."
        )
    low, high = np.quantile(above / below, [(1 - level) / 2, (1 + level) / 2])
    mean = pairs[:, 0].mean() / pairs[:, 1].mean()
    return Interval(float(mean), float(low), float(high))


def _mean_interval(
    samples: Float[np.ndarray, "example cell"], level: float, n_resamples: int, seed: int
) -> Float[np.ndarray, "2 cell"]:
    means = _resampled_means(samples, n_resamples, seed)
    return np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)


def _resampled_means(
    samples: Float[np.ndarray, "example cell"], n_resamples: int, seed: int
) -> Float[np.ndarray, "draw cell"]:
    """The means of resampled examples; all cells share the draws."""
    generator = np.random.default_rng(seed)
    n = len(samples)
    means = []
    for n_draws in _chunks(n_resamples, MAX_NUMBERS // n):
        draws = generator.integers(n, size=(n_draws, n))
        of_resample = n * np.arange(n_draws)[:, None]
        times = np.bincount((draws + of_resample).ravel(), minlength=n_draws * n)
        means.append(rearrange(times, "(draw example) -> draw example", example=n) @ samples / n)
    return np.concatenate(means)


def paired_permutation(
    a: ArrayLike, b: ArrayLike, *, n_resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value that the mean of a - b is 0, by flipping the signs of the differences.

    Exact over all 2^n sign patterns when they are at most `n_resamples`; otherwise that many random
    ones, and (1 + as extreme) / (1 + n_resamples), which is never 0. Pairs with a NaN are skipped.

    Raises:
        ValueError: the lengths differ, or no pair is left.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"Pairs need two equal lengths, got {first.shape} and {second.shape}.")
    differences = (first - second)[~np.isnan(first - second)]
    if not len(differences):
        raise ValueError("There is no pair of two numbers to compare.")
    return float(_sign_flip_p(differences[:, None], n_resamples, seed)[0, 0])


def permutation_test(
    da: xr.DataArray,
    dim: str = "example",
    *,
    correction: Correction = "holm",
    n_resamples: int = 10_000,
    seed: int = 0,
) -> xr.Dataset:
    """`paired_permutation` of every cell against 0, corrected for the number of cells.

    For two conditions pass their difference; an `effect` is one already.

    Returns:
        `p` and `p_corrected` over the other dims; NaN where a cell has no example.
    """

    def test(samples: np.ndarray) -> np.ndarray:
        return _sign_flip_p(samples, n_resamples, seed)

    (p,) = _per_cell(da, dim, test, n_results=1, n_numbers=n_resamples)
    corrected = p.copy(data=corrected_p_values(p.values, correction))
    made_by = {"correction": correction, "n_resamples": n_resamples, "permutation_seed": seed}
    return xr.Dataset({"p": p, "p_corrected": corrected}, attrs=da.attrs | made_by)


def _sign_flip_p(
    samples: Float[np.ndarray, "example cell"], n_resamples: int, seed: int
) -> Float[np.ndarray, "1 cell"]:
    n = len(samples)
    exact = 2**n <= n_resamples
    generator = np.random.default_rng(seed)
    observed = abs(samples.sum(axis=0)) - ROUNDING * abs(samples).sum(axis=0)
    n_extreme, done = np.zeros(samples.shape[1]), 0
    for n_draws in _chunks(2**n if exact else n_resamples, MAX_NUMBERS // n):
        if exact:
            flips = (np.arange(done, done + n_draws)[:, None] >> np.arange(n)) & 1
        else:
            flips = generator.integers(2, size=(n_draws, n))
        n_extreme += (abs((1 - 2 * flips) @ samples) >= observed).sum(axis=0)
        done += n_draws
    return (n_extreme / done if exact else (n_extreme + 1) / (done + 1))[None]


def corrected_p_values(p: ArrayLike, correction: Correction) -> np.ndarray:
    """P-values corrected for their number, in the same shape; NaN is no test and stays NaN."""
    values = np.asarray(p, dtype=float)
    tested = ~np.isnan(values)
    tests = values[tested]
    order = np.argsort(tests)
    tests[order] = np.minimum(CORRECTIONS[correction](tests[order]), 1)
    corrected = np.full(values.shape, np.nan)
    corrected[tested] = tests
    return corrected


def _holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    return np.maximum.accumulate(p * np.arange(len(p), 0, -1))


def _benjamini_hochberg(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    return np.minimum.accumulate((p * len(p) / np.arange(1, len(p) + 1))[::-1])[::-1]


CORRECTIONS = {"holm": _holm, "benjamini-hochberg": _benjamini_hochberg}
"""Functions of p-values in ascending order."""


def _chunks(total: int, largest: int) -> list[int]:
    """Sizes of at most `largest`, at least 1, that add up to `total`."""
    largest = max(1, largest)
    return [min(largest, total - start) for start in range(0, total, largest)]


def _per_cell(
    da: xr.DataArray,
    dim: str,
    function: Callable[[np.ndarray], np.ndarray],
    *,
    n_results: int,
    n_numbers: int,
) -> list[xr.DataArray]:
    """Apply a function of samples (example, cell) to the cells that have the same examples.

    Args:
        function: Returns (`n_results`, cell).
        n_numbers: How many numbers it holds per cell; blocks are cut to `MAX_NUMBERS`.
    """
    if dim not in da.dims:
        raise ValueError(f"There is no dim {dim!r} to average over; there are {da.dims}.")
    values = da.transpose(dim, ...).values.astype(float)
    if np.isinf(values).any():
        raise ValueError("Some values are infinite; only NaN marks an example as absent.")
    samples = rearrange(values, "example ... -> example (...)")
    results = np.full((n_results, samples.shape[1]), np.nan)
    masks, group = np.unique(~np.isnan(samples), axis=1, return_inverse=True)
    for index, present in enumerate(masks.T):
        cells = np.flatnonzero(group.ravel() == index)
        if present.any():
            for block in np.array_split(cells, -(-len(cells) * n_numbers // MAX_NUMBERS)):
                results[:, block] = function(samples[np.ix_(present, block)])
    template = da.mean(dim)
    return [template.copy(data=row.reshape(template.shape)) for row in results]
