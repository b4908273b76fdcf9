"""Linear probes: they find what was planted, and nothing where nothing is."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from interp import probes, statistics
from tests.comparison import assert_close

N, D = 600, 12
LABELS = ("black", "red", "white")


@pytest.fixture(scope="module")
def planted():
    """Noise with one direction per label on top: rows, labels, types and documents."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(LABELS), (N,), generator=generator)
    directions = torch.linalg.qr(torch.randn(D, len(LABELS), generator=generator)).Q
    x = torch.randn(N, D, generator=generator) + 6 * directions.T[chosen]
    labels = [LABELS[index] for index in chosen]
    types = torch.randint(200, (N,), generator=generator).tolist()
    documents = torch.arange(N) // 4
    return x, labels, types, documents, directions


def test_a_planted_label_is_read_and_a_random_one_is_not(planted):
    x, labels, types, documents, _ = planted
    ds = probes.evaluate(x, labels, types, documents)
    assert float(ds.accuracy.mean()) > 0.98
    assert float(ds.control.mean()) < 0.5
    assert float(ds.majority.mean()) < 0.45
    assert np.array_equal(ds.selectivity, ds.accuracy - ds.control)
    assert ds.sizes["document"] == 45
    interval = statistics.bootstrap(ds.accuracy, "document")
    assert float(interval.low) > 0.95


def test_no_label_is_read_from_noise(planted):
    x, labels, types, documents, _ = planted
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    ds = probes.evaluate(noise, labels, types, documents)
    assert float(ds.accuracy.mean()) == pytest.approx(1 / 3, abs=0.1)


def test_a_probe_reads_the_planted_directions(planted):
    x, labels, _, _, directions = planted
    basis = probes.fit(x, labels).basis()
    assert basis.shape == (D, len(LABELS) - 1)
    assert_close(basis.T @ basis, torch.eye(2), 1e-5)
    differences = directions - directions.mean(dim=1, keepdim=True)
    inside = basis.T @ torch.linalg.svd(differences).U[:, :2]
    assert torch.linalg.svdvals(inside).min() > 0.9


def test_the_units_of_a_feature_do_not_matter(planted):
    x, labels, _, _, _ = planted
    scales = torch.logspace(-2, 3, D)
    one, other = probes.fit(x, labels), probes.fit(x * scales + 5, labels)
    assert one.predict(x) == other.predict(x * scales + 5)
    assert_close(other.weights * scales, one.weights, 1e-4)


def test_a_feature_that_never_changes_is_not_read(planted):
    x, labels, _, _, _ = planted
    x = x.clone()
    x[:, 3] = 7.0
    probe = probes.fit(x, labels)
    assert torch.equal(probe.weights[:, 3], torch.zeros(len(LABELS)))
    assert probe.predict(x) == probes.fit(x[:, torch.arange(D) != 3], labels).predict(
        x[:, torch.arange(D) != 3]
    )


@pytest.mark.parametrize("n_labels", [2, 3])
def test_probabilities_are_those_of_scikit_learn(planted, n_labels):
    x, labels, _, _, _ = planted
    labels = [label if label in LABELS[:n_labels] else LABELS[0] for label in labels]
    x = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    expected = LogisticRegression(C=0.1, max_iter=1000).fit(x.numpy(), labels)
    found = probes.fit(x, labels, penalty=10.0).logits(x).softmax(dim=-1)
    assert_close(found, torch.tensor(expected.predict_proba(x.numpy())).float(), 1e-4)


def test_what_all_labels_share_is_not_read():
    probe = probes.Probe(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.zeros(2), ("a", "b"))
    assert probe.basis().abs().tolist() == [[0.0], [1.0]]


def test_two_labels_have_a_direction(planted):
    x, labels, _, _, _ = planted
    two = ["black" if label == "black" else "other" for label in labels]
    probe = probes.fit(x, two)
    assert probe.labels == ("black", "other")
    assert probe.basis().shape == (D, 1)
    right = np.mean(np.asarray(probe.predict(x)) == np.asarray(two))
    assert right > 0.98


def test_rows_of_a_document_are_never_divided():
    documents = [7, 7, 3, 3, 3, 9, 1, 1, 5, 5]
    test = probes.in_test(documents, share=0.4, seed=2)
    tested = {d for d, t in zip(documents, test.tolist(), strict=True) if t}
    trained = {d for d, t in zip(documents, test.tolist(), strict=True) if not t}
    assert len(tested) == 2
    assert not tested & trained


def test_an_accuracy_is_a_mean_over_documents():
    """Document 1 has three rows, one of them right; its share is a third."""
    x = torch.tensor([[-1.0], [1.0]] * 10 + [[1.0], [-1.0], [-1.0], [1.0]])
    labels = ["a", "b"] * 10 + ["b", "b", "b", "b"]
    documents = [*range(100, 120), 1, 1, 1, 2]
    seed = next(s for s in range(2000) if set(_tested(documents, s)) == {1, 2})
    ds = probes.evaluate(x, labels, range(24), documents, test_share=2 / 22, seed=seed)
    assert ds["document"].values.tolist() == [1, 2]
    assert ds.accuracy.values.tolist() == pytest.approx([1 / 3, 1])
    assert ds.attrs["n_test"] == 4


def _tested(documents, seed):
    test = probes.in_test(documents, share=2 / 22, seed=seed)
    return [d for d, t in zip(documents, test.tolist(), strict=True) if t]


def test_the_majority_is_the_most_frequent_label():
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    labels = ["red" if row % 10 else "black" for row in range(100)]
    ds = probes.evaluate(x, labels, range(100), range(100), test_share=0.5)
    tested = [labels[document] for document in ds["document"].values]
    assert ds.majority.values.tolist() == [float(label == "red") for label in tested]


def test_a_control_label_belongs_to_its_type():
    types = ["cat", "dog", "cat", "bird", "dog", "cat"] * 50
    labels = ["black", "red", "red"] * 100
    control = probes.control_labels(types, labels, seed=1)
    assert len(set(zip(types, control, strict=True))) == 3
    assert set(control) <= set(labels)
    many = probes.control_labels(range(3000), ["black", "red", "red"] * 1000, seed=1)
    assert many.count("red") / 3000 == pytest.approx(2 / 3, abs=0.03)


def test_few_types_can_be_learned_by_heart(planted):
    """A control with as few types as labels is as easy as the task: selectivity 0."""
    x, labels, _, documents, _ = planted
    ds = probes.evaluate(x, labels, labels, documents)
    assert float(ds.selectivity.mean()) == pytest.approx(0, abs=0.02)


def test_exchanging_what_a_probe_reads_exchanges_what_it_says(planted):
    x, labels, _, _, _ = planted
    probe = probes.fit(x, labels)
    other = x.roll(1, dims=0)
    mixed = probes.exchanged(x, other, probe.basis())
    expected = probe.logits(other)
    found = probe.logits(mixed)
    assert_close(found - found.mean(1, keepdim=True), expected - expected.mean(1, keepdim=True))
    outside = torch.eye(D) - probe.basis() @ probe.basis().T
    assert_close(mixed @ outside, x @ outside, 1e-5)


def test_random_directions_are_as_many_and_orthonormal(planted):
    x, labels, _, _, _ = planted
    basis = probes.fit(x, labels).basis()
    drawn = probes.random_basis(basis, seed=3)
    assert drawn.shape == basis.shape
    assert_close(drawn.T @ drawn, torch.eye(2), 1e-5)
    assert torch.equal(drawn, probes.random_basis(basis, seed=3))
    assert not torch.equal(drawn, probes.random_basis(basis, seed=4))


def test_equal_seeds_give_equal_numbers(planted):
    x, labels, types, documents, _ = planted
    one, same, other = (
        probes.evaluate(x, labels, types, documents, seed=seed) for seed in (5, 5, 6)
    )
    assert one.identical(same)
    assert not one["document"].equals(other["document"])


@pytest.mark.parametrize(
    ("labels", "change", "message"),
    [
        (["a", "b"], None, "got 4 rows and 2 labels"),
        (["a"] * 4, None, "tells labels apart; all rows have 'a'"),
        (["a", "b"] * 2, float("nan"), "infinite or NaN"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(labels, change, message):
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    if change is not None:
        x[1, 1] = change
    with pytest.raises(ValueError, match=message):
        probes.fit(x, labels)


def test_a_split_needs_documents_on_both_sides():
    with pytest.raises(ValueError, match="leaves training or test without any"):
        probes.in_test([1, 1, 1])
