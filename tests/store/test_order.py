"""The order of a shuffled epoch, on plain numbers."""

from math import ceil

import numpy as np
import pytest

from interp.store.order import Order, deal, meeting_probability

DEFAULT = {"batch": 4096, "block_rows": 8192, "blocks_in_flight": 64}


def blocks(n_rows: int, block_rows: int) -> np.ndarray:
    starts = np.arange(0, n_rows, block_rows)
    return np.stack([starts, np.minimum(starts + block_rows, n_rows)], axis=1)


def order(n_rows: int, *, batch: int, block_rows: int, blocks_in_flight: int, seed=0) -> Order:
    return Order(
        deal(blocks(n_rows, block_rows), seed=[seed], part=0, parts=1),
        batch=batch,
        n_batches=ceil(n_rows / batch),
        window=block_rows * blocks_in_flight,
        seed=[seed, 1],
    )


def batches(order: Order) -> list[np.ndarray]:
    drawn = []
    for step in order.steps():
        order.take_in(step)
        assert len(order.in_use) == step.n_full
        drawn.append(order.held[order.draw(step)])
    return drawn


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 60])
def test_parts_share_the_rows_evenly(parts: int):
    every = blocks(50, 8)
    shares = [deal(every, seed=[3], part=part, parts=parts) for part in range(parts)]
    rows = [np.concatenate([[], *(np.arange(*run) for run in share)]) for share in shares]
    assert sorted(np.concatenate(rows).tolist()) == list(range(50))
    sizes = [len(share) for share in rows]
    assert max(sizes) - min(sizes) <= 1
    # Blocks that are cut are cut only where parts meet.
    assert sum(map(len, shares)) <= len(every) + parts - 1


@pytest.mark.parametrize("n_rows", [1, 7, 64, 65, 1000])
@pytest.mark.parametrize(
    ("batch", "block_rows", "blocks_in_flight"), [(8, 4, 4), (64, 4, 2), (5, 100, 1)]
)
def test_each_row_is_drawn_once_and_batches_are_full(n_rows, batch, block_rows, blocks_in_flight):
    drawn = batches(
        order(n_rows, batch=batch, block_rows=block_rows, blocks_in_flight=blocks_in_flight)
    )
    assert sorted(np.concatenate(drawn).tolist()) == list(range(n_rows))
    assert [len(rows) for rows in drawn[:-1]] == [batch] * (len(drawn) - 1)
    assert 1 <= len(drawn[-1]) <= batch


def test_the_window_holds_no_more_rows_than_asked_for():
    held = order(10_000, batch=10, block_rows=100, blocks_in_flight=8)
    assert held.capacity == 800
    assert max(step.n_full for step in held.steps()) == 800


def test_later_batches_get_a_row_each():
    runs = deal(blocks(16, 4), seed=[0], part=0, parts=1)
    last = Order(runs, batch=8, n_batches=3, window=16, seed=[0])
    assert [step.size for step in last.steps()] == [8, 7, 1]


def same_document_pairs(batches: list[np.ndarray], document_rows: int) -> float:
    counts = [np.bincount(rows // document_rows) for rows in batches]
    return float(sum((count * (count - 1)).sum() / 2 for count in counts))


def full_shuffle_pairs(n_rows: int, document_rows: int, batch: int) -> float:
    """Expected over all batches of a permutation of all rows."""
    sizes = np.diff([*range(0, n_rows, batch), n_rows])
    pairs = n_rows * (document_rows - 1) / 2
    return float(pairs * (sizes * (sizes - 1)).sum() / (n_rows * (n_rows - 1)))


@pytest.mark.parametrize("n_rows", [100_000, 500_000])
def test_default_settings_mix_documents_like_a_full_shuffle(n_rows: int):
    """As long as the rows fit into the window: half a million."""
    drawn = batches(order(n_rows, **DEFAULT))
    ratio = same_document_pairs(drawn, 500) / full_shuffle_pairs(n_rows, 500, 4096)
    assert ratio == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(("n_rows", "blocks_in_flight"), [(20_000, 16), (40_000, 8), (40_000, 2)])
def test_the_mixing_that_is_told_is_the_mixing_that_happens(n_rows: int, blocks_in_flight: int):
    settings = {"batch": 128, "block_rows": 200, "blocks_in_flight": blocks_in_flight}
    told = meeting_probability(order(n_rows, **settings))
    met = [
        same_document_pairs(batches(order(n_rows, **settings, seed=seed)), 200) for seed in range(3)
    ]
    assert told == pytest.approx(np.mean(met) / (n_rows * 199 / 2), rel=0.03)


def test_small_blocks_mix_like_a_full_shuffle_however_many_rows_there_are():
    drawn = batches(order(50_000, batch=128, block_rows=1, blocks_in_flight=256))
    ratio = same_document_pairs(drawn, 500) / full_shuffle_pairs(50_000, 500, 128)
    assert ratio == pytest.approx(1, abs=0.05)


def test_rows_leave_the_window_by_lot():
    """In the first batch every full slot is equally likely."""
    counts = np.zeros(64)
    for seed in range(2000):
        first = order(64, batch=16, block_rows=64, blocks_in_flight=1, seed=seed)
        step = next(first.steps())
        first.take_in(step)
        counts[first.held[first.draw(step)]] += 1
    expected = 2000 * 16 / 64
    assert ((counts - expected) ** 2 / expected).sum() < 100  # chi-squared of 63 degrees: 1 in 500
