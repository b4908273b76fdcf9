"""Patching sweeps against the machine and against arithmetic, rather than against a peer."""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config

from benchmarks import candidates
from benchmarks.least_work import least_flops
from benchmarks.measure import interleaved
from benchmarks.peers import Pairs
from benchmarks.rows import Row
from benchmarks.sweeps import GPT2_SMALL, PROBLEMS, sweep
from interp.model.gpt2 import HookedGPT2

N_ROWS, TIMES = 2048, 5
"""Of the multiplications that measure the machine: rows as in the engine, and how often."""
GIGA = 1e9


@torch.no_grad()
def efficiency(repeats: int, config: GPT2Config = GPT2_SMALL) -> Iterator[Row]:
    """Share of the measured matrix-multiply peak, and the work done against the least."""
    model, multiplications = candidates.ours(config), _multiplications(config)
    for site, first in (("resid_pre", 0), ("resid_pre", 10), ("z", 10)):
        pairs = Pairs.of(config.vocab_size, first)
        with FlopCounterMode(display=False) as counter:
            sweep(model, pairs, site)
        done, least = counter.get_total_flops(), _least(model, pairs, site, first)
        runs: dict[str, Callable[[], object]] = {
            "sweep": lambda pairs=pairs, site=site: sweep(model, pairs, site),
            **{name: run for name, (_, run) in multiplications.items()},
        }
        seconds = interleaved(runs, repeats)
        peak = max(flops / seconds[name] for name, (flops, _) in multiplications.items())
        speed = done / seconds["sweep"]
        what = f"{site} sweep{' by head' if site == 'z' else ''}, {PROBLEMS[first]}"
        numbers = {"interp": speed / GIGA, "peak": peak / GIGA, "share": speed / peak}
        against = "time at the matrix-multiply peak"
        yield Row(f"{what}: speed", "GFLOP/s", numbers, peak / speed, 1 / 0.8, against)
        numbers = {"interp": done / GIGA, "least": least / GIGA}
        yield Row(f"{what}: work", "GFLOP", numbers, done / least, 1.1, "what exactness needs")


def _least(model: HookedGPT2, pairs: Pairs, site: str, first: int) -> int:
    n_examples, n_positions = pairs.clean.shape
    return least_flops(
        model.cfg, site, n_examples=n_examples, n_positions=n_positions, first_difference=first
    )


def _multiplications(config: GPT2Config) -> dict[str, tuple[int, Callable[[], object]]]:
    """FLOP and run of each of the model's own shapes."""
    width = config.n_embd
    runs = {}
    for n_in, n_out in (
        (width, 4 * width),
        (4 * width, width),
        (width, 3 * width),
        (width, width),
    ):
        name = f"[{N_ROWS}, {n_in}] x [{n_in}, {n_out}]"
        runs[name] = (TIMES * 2 * N_ROWS * n_in * n_out, _multiplication(n_in, n_out))
    return runs


def _multiplication(n_in: int, n_out: int) -> Callable[[], object]:
    x, weight = torch.randn(N_ROWS, n_in), torch.randn(n_out, n_in)

    def run() -> list[Tensor]:
        return [F.linear(x, weight) for _ in range(TIMES)]

    return run


@torch.no_grad()
def growth(repeats: int, config: GPT2Config = GPT2_SMALL) -> Iterator[Row]:
    """How a resid_pre sweep grows with layers, positions and pairs, as its least work does.

    The ratio is the time of the largest to that of the smallest, for the same work.
    """
    half = max(1, config.n_layer // 2)
    models = {
        n: candidates.ours(GPT2Config(**{**config.to_diff_dict(), "n_layer": n}))
        for n in (half, config.n_layer)
    }
    sizes = {
        "layers": [(n, 15, 4) for n in models],
        "positions": [(config.n_layer, n, 4) for n in (8, 15, 30)],
        "pairs": [(config.n_layer, 15, n) for n in (1, 4, 8)],
    }
    for axis, (what, of_axis) in enumerate(sizes.items()):
        runs: dict[str, Callable[[], object]] = {}
        least: dict[str, int] = {}
        for size in of_axis:
            n_layers, n_positions, n_pairs = size
            model, name = models[n_layers], str(size[axis])
            pairs = Pairs.of(config.vocab_size, 0, n_pairs=n_pairs, n_positions=n_positions)
            runs[name] = lambda model=model, pairs=pairs: sweep(model, pairs, "resid_pre")
            least[name] = _least(model, pairs, "resid_pre", 0)
        seconds = interleaved(runs, repeats)
        per_work = [seconds[name] / least[name] for name in runs]
        note = "least GFLOP: " + ", ".join(f"{n} {x / GIGA:.3g}" for n, x in least.items())
        yield Row(
            f"resid_pre sweep, {PROBLEMS[0]}, by {what}", "s", seconds, per_work[-1] / per_work[0],
            1.2, "time for the same work", note,
        )  # fmt: skip


GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {
    "patching_efficiency": efficiency,
    "patching_growth": growth,
}
