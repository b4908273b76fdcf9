"""What can a linear probe read from activations, and is it in them or in the probe?

A probe is a classifier trained to read a label from an activation: here softmax regression with an
L2 penalty on standardised features (scikit-learn), so that it can weigh directions and no more.
Training and test never share a document, because tokens of one document know of each other.

A probe can also learn types by heart. The control task (Hewitt & Liang 2019, arXiv:1909.03368)
gives each type a label at random, so that learning by heart is all there is; accuracy minus control
accuracy is the probe's selectivity. Beside both stands the most frequent label's accuracy.

A probe that reads a label shows that the label is there, not that the model uses it; that is a
question for `interp.patching`, or for exchanging what the probe reads (`exchanged`).
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from threadpoolctl import ThreadpoolController
from torch import Tensor

SMALLEST_SCALE = 1e-6
"""A feature whose deviation is no larger than this share of its mean is constant up to rounding."""
MAX_ITERATIONS = 2000
"""Of the solver; standardised features need far fewer."""


@dataclass(frozen=True)
class Probe:
    """A trained linear classifier, in the units of the activations."""

    weights: Float[Tensor, "label feature"]
    bias: Float[Tensor, " label"]
    labels: tuple[str, ...]

    def logits(self, x: Float[Tensor, "row feature"]) -> Float[Tensor, "row label"]:
        """How much speaks for each label; a softmax makes them probabilities."""
        read = einsum(x.float(), self.weights, "row feature, label feature -> row label")
        return read + self.bias

    def predict(self, x: Float[Tensor, "row feature"]) -> list[str]:
        """The most probable label of each row."""
        return [self.labels[best] for best in self.logits(x).argmax(dim=-1).tolist()]

    def basis(self) -> Float[Tensor, "feature direction"]:
        """Orthonormal directions that span all that the probe reads: one fewer than labels.

        What all labels' logits share does not decide between them and is left out.
        """
        differences = self.weights - self.weights.mean(dim=0)
        _, sizes, directions = torch.linalg.svd(differences, full_matrices=False)
        return directions[sizes > 1e-5 * sizes[0]].mT


def fit(
    x: Float[Tensor, "row feature"], labels: Sequence[str], *, penalty: float = 1.0
) -> Probe:  # fmt: skip
    """Train a probe.

    Args:
        labels: The label of each row; at least two different ones.
        penalty: Weight of half the squared weights (of standardised features) beside the summed
            cross-entropy: scikit-learn's 1/C.

    Raises:
        ValueError: lengths differ, there is one label only, or an activation is not finite.
    """
    _check(x, labels)
    features = x.double().numpy(force=True)
    mean, scale = features.mean(axis=0), features.std(axis=0)
    constant = scale <= SMALLEST_SCALE * abs(mean)
    standardised = np.where(constant, 0, features - mean) / np.where(constant, 1, scale)
    model = LogisticRegression(C=1 / penalty, max_iter=MAX_ITERATIONS)
    # On several threads this small problem takes up to a hundred times as long.
    with _threads().limit(limits=1):
        model.fit(standardised, np.asarray(labels))
    weights, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one row, for the second label
        weights, bias = (np.stack([-half[0] / 2, half[0] / 2]) for half in (weights, bias))
    weights = np.where(constant, 0, weights / np.where(constant, 1, scale))
    bias = bias - weights @ mean
    return Probe(
        torch.tensor(weights, dtype=torch.float32, device=x.device),
        torch.tensor(bias, dtype=torch.float32, device=x.device),
        tuple(map(str, model.classes_)),
    )


def in_test(
    documents: Sequence[int] | Int[Tensor, " row"], *, share: float = 0.3, seed: int = 0
) -> Bool[Tensor, " row"]:
    """Which rows are for testing: all those of a random share of the documents.

    Raises:
        ValueError: training or test would have no document.
    """
    ids = torch.as_tensor(documents)
    present = ids.unique()
    n_test = round(share * len(present))
    if not 0 < n_test < len(present):
        raise ValueError(
            f"A share of {share} of {len(present)} documents leaves training or test without any."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = present[torch.randperm(len(present), generator=generator)[:n_test]]
    return torch.isin(ids, chosen)


def control_labels(
    types: Sequence[Hashable], labels: Sequence[str], *, seed: int = 0
) -> list[str]:  # fmt: skip
    """A label at random for each type, drawn as often as the labels occur.

    Args:
        types: Of each row what a probe could learn by heart: in the paper the word itself.
        labels: The real labels of the same rows.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.choice(np.asarray(labels), size=len(labels))
    of_type: dict[Hashable, str] = {}
    return [of_type.setdefault(kind, str(label)) for kind, label in zip(types, drawn, strict=True)]


def evaluate(
    x: Float[Tensor, "row feature"],
    labels: Sequence[str],
    types: Sequence[Hashable],
    documents: Sequence[int] | Int[Tensor, " row"],
    *,
    penalty: float = 1.0,
    test_share: float = 0.3,
    seed: int = 0,
) -> xr.Dataset:
    """Train a probe for the labels and one for the control task, and test both.

    Args:
        types: See `control_labels`.
        documents: The document of each row; no document is in both training and test.
        seed: Of the split and the control labels.

    Returns:
        `accuracy`, `control`, `selectivity` (their difference) and `majority` (the most frequent
        training label) over `document`, the test documents: each the share of the document's rows
        that are right. `interp.statistics.bootstrap(..., "document")` gives intervals, for the
        probe as it was trained.
    """
    ids = torch.as_tensor(documents)
    test = in_test(ids, share=test_share, seed=seed)
    tasks = {"accuracy": list(labels), "control": control_labels(types, labels, seed=seed)}
    right = {}
    for name, task in tasks.items():
        truth = np.asarray(task)
        probe = fit(x[~test], truth[~test].tolist(), penalty=penalty)
        right[name] = np.asarray(probe.predict(x[test])) == truth[test]
    truth = np.asarray(list(labels))
    known, counts = np.unique(truth[~test], return_counts=True)
    right["majority"] = truth[test] == known[counts.argmax()]
    of_document, row_of = ids[test].unique(return_inverse=True)
    n_rows = np.bincount(row_of)
    shares = {
        name: ("document", np.bincount(row_of, weights=values) / n_rows)
        for name, values in right.items()
    }
    ds = xr.Dataset(shares, coords={"document": of_document.numpy()})
    ds["selectivity"] = ds.accuracy - ds.control
    made_by = {"penalty": penalty, "seed": seed, "unit": "share of rows"}
    return ds.assign_attrs(made_by, n_train=int((~test).sum()), n_test=int(test.sum()))


def exchanged(
    x: Float[Tensor, "*row feature"],
    other: Float[Tensor, "*#row feature"],
    basis: Float[Tensor, "feature direction"],
) -> Float[Tensor, "*row feature"]:
    """Activations whose part inside a subspace is another's; outside they stay as they are.

    With another run's activations this patches the subspace alone; with a mean it removes what
    varies there. A probe with this `basis` then reads exactly what it would read from `other`.
    """
    inside = einsum(other - x, basis, "... feature, feature direction -> ... direction")
    return x + einsum(inside, basis, "... direction, feature direction -> ... feature")


def random_basis(
    like: Float[Tensor, "feature direction"], *, seed: int = 0
) -> Float[Tensor, "feature direction"]:
    """As many orthonormal directions, drawn at random: a control for a probe's."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(like.shape, generator=generator)
    return torch.linalg.qr(drawn).Q.to(like)


@cache
def _threads() -> ThreadpoolController:
    """The libraries that compute in threads; looking for them takes longer than a probe."""
    return ThreadpoolController()


def _check(x: Tensor, labels: Sequence[str]) -> None:
    if len(x) != len(labels):
        raise ValueError(f"Every row needs its label; got {len(x)} rows and {len(labels)} labels.")
    if len(set(labels)) < 2:
        raise ValueError(f"A probe tells labels apart; all rows have {next(iter(labels), None)!r}.")
    if not bool(x.isfinite().all()):
        raise ValueError("Some activations are infinite or NaN; leave these rows out.")
