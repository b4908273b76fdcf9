"""Shuffled reading: every row once, whoever asks for it, and exactly on after a stop."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from interp.errors import StoreError
from interp.model.tokens import Tokenizer
from interp.store.reader import ActivationStore
from interp.store.reader import open as open_store
from interp.store.shuffle import Batch
from interp.store.views import TokenRows
from tests.store.small_store import RESID, Z, plan_store, write_small_store, write_units

SMALL = {"batch": 10, "block_rows": 6, "blocks_in_flight": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("small") / "store"
    write_small_store(path, tokenizer)
    return path


@pytest.fixture
def st(folder: Path) -> ActivationStore:
    return open_store(folder)


def rows_of(batches: list[Batch]) -> list[int]:
    return [row for batch in batches for row in batch.row.tolist()]


def check_batches(batches: list[Batch], view: TokenRows) -> None:
    """Each batch says what its rows are, truly."""
    frame = view.tokens().set_index("row")
    for batch in batches:
        x = batch.x if isinstance(batch.x, dict) else {RESID.name: batch.x}
        stated = torch.stack([batch.token_id, batch.document], dim=1)
        known = frame.loc[batch.row.tolist(), ["token_id", "pos", "sequence", "document"]]
        assert torch.equal(stated, torch.tensor(known[["token_id", "document"]].to_numpy().copy()))
        expected = torch.tensor(known.to_numpy().copy())
        assert torch.equal(x[RESID.name], expected.float())
        if Z.name in x:
            assert torch.equal(x[Z.name].flatten(start_dim=1)[:, :4], expected.half())


def test_each_row_comes_once_with_its_token(st):
    view = st.view(RESID.name)
    shuffled = view.shuffled(**SMALL)
    batches = list(shuffled)
    assert sorted(rows_of(batches)) == list(range(96))
    assert [len(batch.x) for batch in batches] == [10] * 9 + [6]
    assert shuffled.n_batches == 10
    check_batches(batches, view)
    assert batches[0].x.dtype == torch.float32
    assert rows_of(batches)[:20] != list(range(20))


def test_aligned_views_are_shuffled_together(st):
    views = st.align([Z.name, RESID.name], where="pos > 0")
    batches = list(views.shuffled(**SMALL))
    assert sorted(rows_of(batches)) == views.tokens()["row"].tolist()
    assert batches[0].x[Z.name].dtype == torch.float16
    check_batches(batches, views)


@pytest.mark.parametrize("where", ["token = ' black'", "pos > 0 and not bos", "unit = 1", "false"])
def test_a_condition_keeps_its_rows_under_shuffling(st, where):
    view = st.view(RESID.name, where=where)
    batches = list(view.shuffled(**SMALL))
    assert sorted(rows_of(batches)) == view.tokens()["row"].tolist()
    check_batches(batches, view)


def test_the_order_is_that_of_the_seed_and_the_epoch(st):
    view = st.view(RESID.name)
    orders = {
        (seed, epoch): rows_of(list(view.shuffled(**SMALL, seed=seed, epoch=epoch)))
        for seed in range(2)
        for epoch in range(2)
    }
    assert len(set(map(tuple, orders.values()))) == 4
    again = view.shuffled(**SMALL, seed=1)
    assert rows_of(list(again)) == rows_of(list(again)) == orders[1, 0]


@pytest.mark.parametrize("world", [2, 3, 7])
def test_ranks_share_the_rows_in_equally_many_batches(st, world):
    view = st.view(RESID.name)
    ranks = [view.shuffled(**SMALL, rank=rank, world=world) for rank in range(world)]
    batches = [list(rank) for rank in ranks]
    assert sorted(row for rank in batches for row in rows_of(rank)) == list(range(96))
    assert {len(rank) for rank in batches} == {ranks[0].n_batches}


@pytest.mark.parametrize("n_before", [0, 1, 4, 9, 10])
def test_a_stopped_epoch_goes_on_exactly(st, folder, n_before):
    view = st.view(RESID.name)
    whole = list(view.shuffled(**SMALL, seed=5, epoch=2))
    stopped = view.shuffled(**SMALL, seed=5, epoch=2)
    iterator = iter(stopped)
    for _ in range(n_before):
        next(iterator)
    state = stopped.state_dict()
    resumed = open_store(folder).view(RESID.name).shuffled(**SMALL, seed=5, epoch=2)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    rest = list(resumed)
    assert [b.row.tolist() for b in rest] == [b.row.tolist() for b in whole[n_before:]]
    check_batches(rest, view)
    assert resumed.state_dict()["batches"] == 10
    assert rows_of(list(resumed)) == rows_of(whole)  # the next iteration begins at the beginning


def test_a_state_of_another_shuffle_is_refused(st):
    view = st.view(RESID.name)
    state = view.shuffled(**SMALL, seed=1).state_dict()
    with pytest.raises(
        StoreError, match=r"of another shuffle: seed 1 \(here 2\), world 1 \(here 3"
    ):
        view.shuffled(**SMALL, seed=2, world=3).load_state_dict(state)
    with pytest.raises(StoreError, match=r"batch None \(here 10\)"):
        view.shuffled(**SMALL).load_state_dict({})


def test_a_state_of_other_rows_is_refused(tmp_path, tokenizer):
    store = plan_store(tmp_path / "store", tokenizer)
    group = store.groups[store.hooks[RESID.name][0]]
    write_units(store, group, [0, 1])
    shuffled = open_store(tmp_path / "store").view(RESID.name).shuffled(**SMALL)
    next(iter(shuffled))
    write_units(store, group, [2])
    grown = open_store(tmp_path / "store").view(RESID.name).shuffled(**SMALL)
    grown.load_state_dict(shuffled.state_dict())
    with pytest.raises(StoreError, match="other units have been collected since"):
        next(iter(grown))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"batch": 0}, "batch is at least 1, got 0"),
        ({"blocks_in_flight": 0}, "blocks_in_flight is at least 1, got 0"),
        ({"seed": -1}, "seed is 0 or more, got -1"),
        ({"rank": 2, "world": 2}, r"rank is 0 to 1 \(world - 1\), got 2"),
    ],
)
def test_settings_out_of_range_are_refused(st, options, why):
    with pytest.raises(StoreError, match=why):
        st.view(RESID.name).shuffled(**options)


def test_a_state_of_one_process_is_refused_in_a_worker(st):
    shuffled = st.view(RESID.name).shuffled(**SMALL)
    next(iter(shuffled))
    shuffled.load_state_dict(shuffled.state_dict())
    with pytest.raises(StoreError, match=r"of worker 0 of 1; this is worker 0 of 2"):
        list(DataLoader(shuffled, batch_size=None, num_workers=2))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_share_the_rows(st, method):
    view = st.view(RESID.name, where="pos > 0")
    shuffled = view.shuffled(**SMALL)
    view[:3]  # shards are open when the workers begin
    loader = DataLoader(shuffled, batch_size=None, num_workers=2, multiprocessing_context=method)
    batches = list(loader)
    assert sorted(rows_of(batches)) == view.tokens()["row"].tolist()
    check_batches(batches, view)
    with pytest.raises(StoreError, match="drawn in the workers of a DataLoader"):
        shuffled.state_dict()


def test_one_process_is_a_data_loader_too(st):
    shuffled = st.view(RESID.name).shuffled(**SMALL)
    batches = list(DataLoader(shuffled, batch_size=None))
    assert rows_of(batches) == rows_of(list(shuffled))
    assert isinstance(batches[0], Batch)


def test_mixing_is_told_relative_to_a_full_shuffle(st):
    view = st.view(RESID.name)

    def mixing(**options: int) -> float:
        return view.shuffled(**options).mixing

    assert mixing() == 1.0  # one batch
    assert mixing(batch=8, block_rows=8, blocks_in_flight=12) == pytest.approx(1, abs=0.05)
    in_order = mixing(batch=8, block_rows=8, blocks_in_flight=1)
    assert in_order > 4 > mixing(batch=8, block_rows=8, blocks_in_flight=4) > 1
    # Ranks get whole blocks, so that two rows of a block meet more often.
    two = view.shuffled(batch=8, block_rows=8, blocks_in_flight=12, world=2).mixing
    assert two == pytest.approx(2, rel=0.1)
