"""What does a feature stand for? Its strongest examples, and how much they have in common.

A feature is a number for each row of activations: of a sparse autoencoder, a neuron, or the
product with any direction. All are measured alike, so that they can be compared; a random direction
is the control, because in a small language every list of rows has much in common.

Purity is the share of the strongest rows that agree. It says nothing about the other rows of the
same class: average precision does, as in probing with one neuron (Gurnee et al. 2023,
arXiv:2305.01610).
"""

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

CANDIDATES = 20
"""Times as many rows as are wanted are looked at, since some share a document."""


def strongest(
    values: Float[Tensor, "row feature"], documents: Int[Tensor, " row"], n: int
) -> Int[Tensor, "feature n"]:
    """The rows of each feature's `n` highest positive values, the best of each document.

    Args:
        documents: The document of each row: neighbours in a text are no independent examples.

    Returns:
        Rows, highest first; -1 where fewer documents have a positive value (among the
        `CANDIDATES` * n highest rows).
    """
    top = values.topk(min(CANDIDATES * n, len(values)), dim=0)
    found = np.full((values.shape[1], n), -1)
    of_row = documents.numpy(force=True)
    for feature in range(values.shape[1]):
        rows = top.indices[:, feature][top.values[:, feature] > 0].numpy(force=True)
        _, first = np.unique(of_row[rows], return_index=True)
        best = rows[np.sort(first)][:n]
        found[feature, : len(best)] = best
    return torch.from_numpy(found)


def purity(
    rows: Int[Tensor, "feature n"], classes: Int[Tensor, " row"]
) -> tuple[Float[Tensor, " feature"], Int[Tensor, " feature"]]:
    """The share of each feature's rows that belong to its most common class, and that class.

    Args:
        rows: Of `strongest`.
        classes: The class of every row, from 0; -1 for none, which counts against all classes.

    Returns:
        NaN and -1 for a feature with fewer than `n` rows.
    """
    n_classes = int(classes.max()) + 1
    of_row = classes[rows.clamp(min=0)]
    counts = torch.zeros(len(rows), n_classes + 1, dtype=torch.long)
    # Column 0 takes those without a class.
    counts.scatter_add_(1, of_row + 1, torch.ones_like(of_row))
    most, common = counts[:, 1:].max(dim=1)
    whole = (rows >= 0).all(dim=1)
    share = torch.where(whole, most / rows.shape[1], torch.nan)
    return share, torch.where(whole, common, -1)


def average_precision(
    values: Float[Tensor, "row feature"], positive: Bool[Tensor, " row"]
) -> Float[Tensor, " feature"]:
    """How well each feature's order of the rows puts the positive ones first; 1 is perfectly.

    The mean, over the positive rows, of the share of positive rows among those at least as high;
    without any order it is the share of positive rows.

    Raises:
        ValueError: no row is positive.
    """
    n_positive = int(positive.sum())
    if not n_positive:
        raise ValueError("There is no positive row to find.")
    ordered, order = values.sort(dim=0, descending=True)
    found = positive[order].double()
    rank = torch.arange(1, len(values) + 1, dtype=torch.double)
    last_equal = _last_equal(ordered)
    precision = found.cumsum(dim=0).gather(0, last_equal) / rank[last_equal]
    return ((precision * found).sum(dim=0) / n_positive).float()


def _last_equal(ordered: Float[Tensor, "row feature"]) -> Int[Tensor, "row feature"]:
    """The last row that has the same value, in a descending order."""
    n_rows = len(ordered)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    rows = rearrange(torch.arange(n_rows), "row -> row 1")
    ends = torch.where(is_last, rows, n_rows)
    return ends.flip(0).cummin(dim=0).values.flip(0)


def best_matches(
    directions: Float[Tensor, "feature d_in"], others: Float[Tensor, "other d_in"]
) -> Float[Tensor, " feature"]:
    """For each direction the largest cosine with any of the others: was it found again?"""
    unit, other_unit = (torch.nn.functional.normalize(x, dim=-1) for x in (directions, others))
    cosines = einsum(unit, other_unit, "feature d_in, other d_in -> feature other")
    return cosines.amax(dim=1)
