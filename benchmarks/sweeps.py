"""Patching sweeps and attribution, side by side with the peers.

Peers run one forward pass per cell, so a random sample of a sweep's cells is timed and scaled to
all of them, as the row says. Their run of the clean prompts is not timed; ours is.
"""

import json
import random
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any

import torch
import xarray as xr
from torch import Tensor
from transformers import GPT2Config

from benchmarks import candidates, peers
from benchmarks.measure import interleaved, interleaved_children
from benchmarks.peers import Cells, Pairs
from benchmarks.rows import Row
from interp import logit_attribution, patching
from interp.model.gpt2 import HookedGPT2

GPT2_SMALL = GPT2Config()
PROBLEMS = {0: "every position differs", 10: "differ from position 10 on"}
"""By the first position in which the pairs of 15 tokens differ."""
GOALS = {0: 1 / 10, 10: 1 / 50}
N_CELLS = 30
"""Of each sweep, on which the peers are timed."""
TOLERANCE = 1e-4
"""Logits, between libraries in float32."""
Runs = dict[str, Callable[[], object]]


def sweep(model: HookedGPT2, pairs: Pairs, site: str) -> xr.Dataset:
    """Ours; z by head and position."""
    return patching.sweep(
        model, pairs.clean, pairs.corrupted, site, pairs.metric, per_position=site == "z"
    )


@torch.no_grad()
def against_peers(repeats: int, config: GPT2Config = GPT2_SMALL) -> Iterator[Row]:
    """Sweeps of 4 pairs of 15 tokens: layers x positions, then also x heads; time and numbers."""
    ours, bridge = candidates.ours(config), candidates.transformer_lens(config)
    for first, site in product(GOALS, ("resid_pre", "attn_out", "mlp_out")):
        yield from _compared(repeats, ours, bridge, config, site, first, GOALS[first])
    yield from _compared(repeats, ours, bridge, config, "z", 10, 1 / 30)


def _compared(
    repeats: int, ours: HookedGPT2, bridge, config: GPT2Config, site: str, first: int, goal: float
) -> Iterator[Row]:
    pairs = Pairs.of(config.vocab_size, first)
    sizes = [config.n_layer, pairs.clean.shape[1], config.n_head][: 3 if site == "z" else 2]
    cells = list(product(*map(range, sizes)))
    sample = random.Random(0).sample(cells, min(N_CELLS, len(cells)))
    note = f"peers: {len(sample)} of {len(cells)} cells, scaled"
    loops = {
        "plain loop": peers.plain(ours, pairs, site),
        "transformer-lens": peers.transformer_lens(bridge, pairs, site),
    }
    if peers.nnsight_is_installed():
        loops["nnsight"] = peers.nnsight(config, pairs, site)
    else:
        note += f"; nnsight is not installed: {peers.NNSIGHT}"
    runs: Runs = {"interp": lambda: sweep(ours, pairs, site)}
    runs |= {name: lambda loop=loop: loop(sample) for name, loop in loops.items()}
    results, runs = _keeping(runs)
    seconds = interleaved(runs, repeats)
    for name in loops:
        seconds[name] *= len(cells) / len(sample)
    what = f"{site} sweep{' by head' if site == 'z' else ''}, {PROBLEMS[first]}"
    ratio = seconds["interp"] / seconds["transformer-lens"]
    yield Row(what, "s", seconds, ratio, goal, "transformer-lens", note)
    yield _equality(what, _cells_of(results.pop("interp"), sample), results)


def _keeping(runs: Runs) -> tuple[dict[str, Any], Runs]:
    """The last result of each, once it is there, and runs that leave it."""
    results: dict[str, Any] = {}
    kept: Runs = {
        name: lambda name=name, run=run: results.update({name: run()}) for name, run in runs.items()
    }
    return results, kept


def _cells_of(dataset: xr.Dataset, cells: Cells) -> Tensor:
    axes = [name for name in ("layer", "pos", "head") if name in dataset["patched"].dims]
    patched = dataset["patched"].transpose(*axes, "example")
    return torch.stack([torch.from_numpy(patched.values[cell]) for cell in cells])


def _equality(what: str, own: Tensor, others: Mapping[str, Tensor]) -> Row:
    apart = {name: float((other - own).abs().max()) for name, other in others.items()}
    note = f"one example's values have a standard deviation of {float(own.std(dim=0).mean()):.2g}"
    against = "largest difference from ours"
    return Row(f"{what}: equal", "logits", apart, max(apart.values()), TOLERANCE, against, note)


MEMORY = """
import json, sys
from benchmarks import candidates, sweeps
from benchmarks.measure import added_memory
from benchmarks.peers import Pairs
from transformers import GPT2Config
config = GPT2Config(**json.loads(sys.argv[1]))
model, pairs = candidates.ours(config), Pairs.of(config.vocab_size, 10)
model(pairs.clean)
print(json.dumps({"interp": added_memory(lambda: sweeps.sweep(model, pairs, "z"))}))
"""


def memory(repeats: int, config: GPT2Config = GPT2_SMALL) -> Iterator[Row]:
    """Peak memory of the largest sweep by default, above that of a model that has run."""
    script = (MEMORY, json.dumps(config.to_diff_dict()))
    numbers = interleaved_children({"interp": script}, repeats)["interp"]
    what = f"z sweep by head, {PROBLEMS[10]}: peak memory"
    yield Row(what, "MiB", numbers, numbers["interp"], 2048, "MiB above the model")


@torch.no_grad()
def attribution(repeats: int, config: GPT2Config = GPT2_SMALL) -> Iterator[Row]:
    """Direct attribution of all heads and MLPs at the last of 15 positions, 4 prompts.

    Ours also splits each head by the positions that it reads from.
    """
    ours, bridge = candidates.ours(config), candidates.transformer_lens(config)
    pairs = Pairs.of(config.vocab_size, 0)
    tokens, metric = pairs.clean, pairs.metric
    (_, own_cache), (_, their_cache) = ours.run_with_cache(tokens), bridge.run_with_cache(tokens)
    theirs = "transformer-lens"
    from_tokens: Runs = {
        "interp": lambda: logit_attribution.decompose(ours, tokens, metric),
        theirs: lambda: _theirs(bridge.run_with_cache(tokens)[1], pairs),
        "our forward": lambda: ours(tokens, positions=-1),
        "their forward": lambda: bridge(tokens),
    }
    from_cache: Runs = {
        "interp": lambda: logit_attribution.decompose(ours, tokens, metric, cache=own_cache),
        theirs: lambda: _theirs(_fresh(their_cache), pairs),
        "their default, all positions": lambda: _theirs(_fresh(their_cache), pairs, None),
    }
    what, results = "attribution, heads and MLPs", {}
    for origin, runs in (("tokens", from_tokens), ("a cache", from_cache)):
        results, runs = _keeping(runs)
        seconds = interleaved(runs, repeats)
        ratio = seconds["interp"] / seconds[theirs]
        yield Row(f"{what}, from {origin}", "s", seconds, ratio, 1 / 3, theirs)
    own = results["interp"].sum("pos")
    mlps = own[own.kind.isin(["mlp", "mlp_bias"])].groupby("layer").sum()
    parts = [torch.from_numpy(x.values) for x in (own[own.kind == "head"], mlps)]
    yield _equality(what, torch.cat(parts), {theirs: results[theirs]})


def _fresh(cache):
    """TransformerLens keeps per-head results in a cache once they are made; this has none yet."""
    return type(cache)(dict(cache.cache_dict), cache.model)


def _theirs(cache, pairs: Pairs, positions: int | None = -1) -> Tensor:
    """Heads, then MLPs, as TransformerLens' demos do it."""
    heads = cache.stack_head_results(pos_slice=positions)
    parts, labels = cache.decompose_resid(pos_slice=positions, return_labels=True)
    mlps = parts[[label.endswith("mlp_out") for label in labels]]
    answers, wrong = pairs.answers, pairs.wrong
    return torch.cat(
        [cache.logit_attrs(x, answers, wrong, pos_slice=positions) for x in (heads, mlps)]
    )


GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {
    "patching": against_peers,
    "patching_memory": memory,
    "attribution": attribution,
}
