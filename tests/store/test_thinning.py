"""A sample has the size that was asked for, is uniform, and depends on the seed alone."""

from collections import Counter

import numpy as np
import pytest

from interp.errors import StoreError
from interp.store import thinning as module
from interp.store.thinning import Subsample, Thinning, Tokens, mixed, parse_positions


def tokens_of(*documents: int, n_ids: int = 7, length: int = 5) -> Tokens:
    """Documents of 5 tokens each, a sequence each; ids follow each other."""
    pos = np.tile(np.arange(length), len(documents))
    document = np.repeat(np.array(documents), length)
    token_id = (document * length + pos) % n_ids
    return Tokens(token_id, document, pos, pos, np.full(len(pos), length))


def stored(tokens: Tokens, positions: str = "all", subsample: str = "", seed: int = 0):
    thinning = Thinning(parse_positions(positions), Subsample.parse(subsample), seed)
    if thinning.sees_all_first:
        thinning.observe(tokens)
    return thinning.stored(tokens)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ("all", [True] * 4),
        ("last", [False, False, False, True]),
        ("0", [True, False, False, False]),
        ("0, 2,-1", [True, False, True, True]),
        ("-4,3,3", [True, False, False, True]),
    ],
)
def test_positions_count_from_either_end_of_each_sequence(positions, expected):
    alone = tokens_of(3, length=4)
    assert stored(alone, positions).tolist() == expected
    lengths = np.array([1, 2, 2])
    ragged = Tokens(*[np.zeros(3, dtype=int)] * 3, np.array([0, 0, 1]), lengths)
    assert stored(ragged, "-1").tolist() == [True, False, True]
    assert stored(ragged, "1").tolist() == [False, False, True]


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_a_share_of_rows_or_documents_is_stored(share):
    tokens = tokens_of(*range(20_000))
    n = len(tokens.pos)
    rows = stored(tokens, subsample=f"{share}")
    assert abs(rows.sum() - share * n) < 5 * (share * (1 - share) * n) ** 0.5
    for pos in range(5):
        here = rows[tokens.pos == pos]
        assert abs(here.mean() - share) < 5 * (share / len(here)) ** 0.5
    whole = stored(tokens, subsample=f"documents:{share}").reshape(-1, 5)
    assert (whole.all(axis=1) == whole.any(axis=1)).all()
    assert abs(whole[:, 0].sum() - share * 20_000) < 5 * (share * 20_000) ** 0.5


def test_a_share_of_one_is_everything():
    tokens = tokens_of(*range(1000))
    assert stored(tokens, subsample="1").all()
    assert stored(tokens, subsample="documents:1.0").all()


@pytest.mark.parametrize("subsample", ["0.4", "documents:0.4", "per-token:30"])
def test_the_seed_alone_decides(subsample):
    whole = tokens_of(*range(400))
    once = stored(whole, subsample=subsample, seed=3)
    thinning = Thinning(None, Subsample.parse(subsample), 3)
    parts = [tokens_of(*range(start, start + 80)) for start in (320, 0, 160, 80, 240)]
    for part in parts:
        thinning.observe(part)
    in_parts = {int(part.document[0]): thinning.stored(part) for part in parts}
    assert once.tolist() == np.concatenate([in_parts[k] for k in sorted(in_parts)]).tolist()
    # Documents one further than those of the next seed must not be the same choice.
    other = stored(whole, subsample=subsample, seed=4)
    assert 0.05 < (once != other).mean() < 0.95
    assert (once[5:] != other[:-5]).any()


def test_a_sample_is_taken_among_the_positions():
    tokens = tokens_of(*range(300))
    last = stored(tokens, "last", "per-token:9")
    assert (tokens.pos[last] == 4).all()
    assert Counter(tokens.token_id[last].tolist()) == dict.fromkeys(range(7), 9)
    few = stored(tokens, "last", "0.5")
    assert (tokens.pos[few] == 4).all()
    assert 100 < few.sum() < 200


@pytest.mark.parametrize("recent", [1, 50, 2**20])
def test_at_most_n_rows_of_each_token_are_those_with_the_smallest_hashes(recent, monkeypatch):
    monkeypatch.setattr(module, "RECENT_CANDIDATES", recent)
    generator = np.random.default_rng(0)
    # Zipf's law, as words have it: some ids are rarer than the limit.
    token_id = np.minimum(generator.zipf(1.3, 5000), 400)
    document, pos = np.arange(5000) // 10, np.arange(5000) % 10
    tokens = Tokens(token_id, document, pos, pos, np.full(5000, 10))
    thinning = Thinning(None, Subsample(per_token=6), 5)
    for start in range(0, 5000, 500):
        thinning.observe(Tokens(*(x[start : start + 500] for x in vars(tokens).values())))
        n_held = sum(len(ids) for ids, _ in (thinning._candidates, *thinning._recent))
        assert n_held <= 2 * max(recent, 6 * 400), "memory is bounded by the vocabulary"
    chosen = thinning.stored(tokens)
    hashes = thinning._hashes(tokens)
    for one in np.unique(token_id):
        here = token_id == one
        assert chosen[here].sum() == min(6, here.sum())
        assert hashes[here & chosen].max() <= hashes[here & ~chosen].min(initial=2**64 - 1)


def test_a_choice_per_token_is_uniform():
    tokens = tokens_of(*range(50), n_ids=1)
    times = sum(stored(tokens, subsample="per-token:50", seed=seed) for seed in range(400))
    # 250 rows, each with probability 1/5 in 400 draws: 80, standard deviation 8.
    assert times.sum() == 400 * 50
    assert 80 - 5 * 8 < times.min() < times.max() < 80 + 5 * 8
    assert times.std() == pytest.approx(8, rel=0.25)


def test_a_token_that_stands_at_no_chosen_position_is_not_stored():
    token_id = np.array([500, 1, 2, 600])
    tokens = Tokens(token_id, np.zeros(4, int), np.arange(4), np.arange(4), np.full(4, 4))
    assert stored(tokens, "1,2", "per-token:1").tolist() == [False, True, True, False]
    only_short = Tokens(token_id[:1], *[np.zeros(1, int)] * 3, np.ones(1, int))
    assert stored(only_short, "3", "per-token:1").tolist() == [False]


def test_hashes_are_those_of_splitmix64():
    # First outputs of the generator with state 0, from its reference implementation.
    state, one = np.zeros(1, np.uint64), np.zeros(1, np.uint64)
    assert int(mixed(state, one)[0]) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize(
    "text", ["0", "2", "-1", "nan", "x", "rows:0.1", "per-token:0", "documents:"]
)
def test_a_subsample_that_is_none_is_an_error(text):
    with pytest.raises(StoreError, match=f"subsample is '{text}'; expected a share like 0.1"):
        Subsample.parse(text)


def test_subsamples_are_read():
    assert Subsample.parse("") == Subsample()
    assert Subsample.parse("0.25") == Subsample(rows=0.25)
    assert Subsample.parse("documents:1") == Subsample(documents=1.0)
    assert Subsample.parse("per-token:100") == Subsample(per_token=100)


@pytest.mark.parametrize("text", ["", "first", "1.5", "0,,1"])
def test_positions_that_are_none_are_an_error(text):
    with pytest.raises(StoreError, match=f"positions is '{text}'; expected all, last, or numbers"):
        parse_positions(text)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_outside_64_bits_is_an_error(seed):
    with pytest.raises(StoreError, match=f"seed is {seed}"):
        Thinning(None, Subsample(), seed)
