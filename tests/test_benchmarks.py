"""The benchmarks' mechanics at a tiny size. Nothing here depends on how long anything takes."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config

from benchmarks import __main__ as command
from benchmarks import candidates, engine, peers, sweeps
from benchmarks.least_work import least_flops
from benchmarks.peers import Pairs
from benchmarks.rows import Row

TINY = GPT2Config(
    vocab_size=60, n_positions=32, n_embd=16, n_layer=3, n_head=2, initializer_range=0.2,
    bos_token_id=0, eos_token_id=0,
)  # fmt: skip
SITES = ("resid_pre", "attn_out", "mlp_out", "z")


@pytest.fixture(autouse=True)
def one_second_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every candidate runs once and takes one second; nnsight would change every object."""

    def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
        for run in runs.values():
            run()
        return dict.fromkeys(runs, 1.0)

    monkeypatch.setattr(sweeps, "interleaved", interleaved)
    monkeypatch.setattr(engine, "interleaved", interleaved)
    monkeypatch.setattr(peers, "nnsight_is_installed", lambda: False)


@pytest.mark.parametrize("first", [0, 10])
@pytest.mark.parametrize("site", SITES)
def test_engine_does_what_exactness_needs_and_little_more(site: str, first: int) -> None:
    model, pairs = candidates.ours(TINY), Pairs.of(TINY.vocab_size, first)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        sweeps.sweep(model, pairs, site)
    least = least_flops(model.cfg, site, n_examples=4, n_positions=15, first_difference=first)
    assert least <= counter.get_total_flops() < 2 * least


def test_pairs_differ_from_the_given_position_on() -> None:
    pairs = Pairs.of(50, 3, n_pairs=6, n_positions=8)
    differs = pairs.clean != pairs.corrupted
    assert torch.equal(differs, (torch.arange(8) >= 3).expand(6, -1))
    assert bool((pairs.answers != pairs.wrong).all())


def test_sweep_rows_scale_the_sampled_cells_and_compare_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sweeps, "N_CELLS", 9)
    rows = list(sweeps.against_peers(1, TINY))
    times, equal = rows[::2], rows[1::2]
    assert len(times) == 7
    for row, n_cells in zip(times, [45] * 6 + [90], strict=True):
        assert row.numbers == {
            "interp": 1, "plain loop": n_cells / 9, "transformer-lens": n_cells / 9
        }  # fmt: skip
        assert row.ratio == pytest.approx(9 / n_cells)
        assert f"9 of {n_cells} cells, scaled; nnsight is not installed: pip install" in row.note
    for row in equal:
        assert row.numbers.keys() == {"plain loop", "transformer-lens"}
        assert row.reached
        assert float(row.note.split()[-1]) > 100 * row.ratio


def test_a_wrong_number_is_not_equal() -> None:
    own = torch.ones(3, 2)
    row = sweeps._equality("sweep", own, {"peer": own, "other": own + 2e-4})
    assert row.numbers == pytest.approx({"peer": 0, "other": 2e-4}, rel=1e-3)
    assert not row.reached


def test_attribution_rows_compare_the_same_numbers() -> None:
    from_tokens, from_cache, equal = sweeps.attribution(1, TINY)
    assert from_tokens.what.endswith("from tokens")
    assert from_cache.what.endswith("from a cache")
    assert equal.reached
    assert float(equal.note.split()[-1]) > 100 * equal.ratio


def test_efficiency_rows_are_shares_of_the_fastest_multiplication() -> None:
    rows = list(engine.efficiency(1, TINY))
    flops = 5 * 2 * 2048 * 16 * 64
    for speed, work in zip(rows[::2], rows[1::2], strict=True):
        assert speed.numbers["peak"] == flops / 1e9
        assert speed.numbers["interp"] == work.numbers["interp"]
        assert speed.ratio == pytest.approx(1 / speed.numbers["share"])
        assert work.ratio >= 1


def test_growth_rows_compare_time_with_work() -> None:
    layers, positions, pairs = engine.growth(1, TINY)
    assert list(layers.numbers) == ["1", "3"]
    assert list(positions.numbers) == ["8", "15", "30"]
    # Eight pairs took as long as one.
    assert pairs.ratio == pytest.approx(1 / 8)


def test_command_prints_and_writes_the_table(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = Row("a sweep", "s", {"interp": 0.5}, 0.0125, 1 / 50, "a peer", "9 cells")
    monkeypatch.setattr(command, "GROUPS", {"one": lambda repeats: iter([row] * repeats)})
    out = tmp_path / "reports" / "table.md"
    command.main(["one"], repeats=2, out=out)
    expected = "| a sweep | s | interp 0.5 | 0.0125 | 0.02 | a peer | yes | 9 cells |"
    assert out.read_text(encoding="utf-8").splitlines()[-2:] == [expected] * 2
    assert "Written to" in capsys.readouterr().out
