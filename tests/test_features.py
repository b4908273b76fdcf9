"""What features have in common: strongest rows, purity, average precision."""

import pytest
import torch
from sklearn.metrics import average_precision_score

from interp import features
from tests.comparison import assert_close

VALUES = torch.tensor([[5.0, -1.0], [4.0, 0.0], [3.0, 2.0], [0.0, 1.0], [6.0, 3.0]])
DOCUMENTS = torch.tensor([0, 0, 1, 2, 0])


def test_of_each_document_the_strongest_row_counts():
    rows = features.strongest(VALUES, DOCUMENTS, 2)
    assert rows.tolist() == [[4, 2], [4, 2]]
    rows = features.strongest(VALUES, DOCUMENTS, 3)
    assert rows.tolist() == [[4, 2, -1], [4, 2, 3]]


def test_strongest_rows_of_many_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(500, 7, generator=generator)
    documents = torch.randint(60, (500,), generator=generator)
    found = features.strongest(values, documents, 10)
    for feature in range(7):
        best = {}
        for row in values[:, feature].argsort(descending=True).tolist():
            best.setdefault(int(documents[row]), row)
        assert found[feature].tolist() == list(best.values())[:10]


def test_purity_is_the_share_of_the_commonest_class():
    rows = torch.tensor([[0, 1, 2, 3], [4, 3, 2, 5], [0, 1, -1, -1]])
    classes = torch.tensor([2, 2, 1, 2, 0, -1])
    share, common = features.purity(rows, classes)
    assert share[:2].tolist() == [0.75, 0.25]
    assert common.tolist()[0] == 2
    assert bool(share[2].isnan())
    assert int(common[2]) == -1


def test_rows_without_a_class_make_no_purity():
    share, _ = features.purity(torch.tensor([[0, 1, 2]]), torch.tensor([-1, -1, 0]))
    assert float(share) == pytest.approx(1 / 3)


def test_average_precision_by_hand():
    values = torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    positive = torch.tensor([True, False, True, False])
    assert float(features.average_precision(values, positive)) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_is_scikit_learns_also_with_equal_values():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(6, (200, 5), generator=generator).float()
    positive = torch.rand(200, generator=generator) < 0.3
    expected = [
        average_precision_score(positive.numpy(), values[:, feature].numpy())
        for feature in range(5)
    ]
    assert_close(features.average_precision(values, positive), torch.tensor(expected).float())


def test_there_must_be_something_to_find():
    with pytest.raises(ValueError, match="no positive row"):
        features.average_precision(VALUES, torch.zeros(5, dtype=torch.bool))


def test_a_direction_matches_the_nearest_of_any_length():
    directions = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    others = torch.tensor([[3.0, 4.0], [5.0, 0.0]])
    found = features.best_matches(directions, others)
    assert found.tolist() == pytest.approx([1.0, 0.8, -0.6])
