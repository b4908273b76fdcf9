"""Causal tracing: which clean values bring back an answer once its subject is unreadable?

The embeddings of the subject's tokens get Gaussian noise, which breaks the answer. Then the clean
value at one position, of one layer or a window of layers, is restored in the noised run. Source:
Meng et al. 2022, arXiv:2202.05262; their hidden states are `resid_post`, their restored MLPs
`mlp_out` in a window of 10 layers. All restorations are branches of one batch of noised runs
(`interp.branches`): exact, and much less work than one forward pass each.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, get_args

import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.base_run import BaseRun, Point
from interp.branches import evaluate, grid
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import full_name
from interp.model.running import Resid
from interp.model.tokens import Prompt, TokenBatch
from interp.pairs import Place, Positions, TokenPairs, chosen_positions
from interp.progress import Progress, no_progress
from interp.results import provenance, token_names

Site = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
"""What is restored."""
POINTS: dict[str, Point] = {site: site for site in get_args(Site)}


@torch.no_grad()
def trace(
    model: HookedGPT2,
    prompts: Prompt,
    subject: Positions,
    metric: Metric,
    site: str = "resid_pre",
    positions: Positions = None,
    *,
    noise: float = 3.0,
    seeds: Sequence[int] = range(10),
    window: int = 1,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Restore each layer and position alone after noise on the subject, and measure each example.

    Args:
        subject: Positions of the subject's tokens: shared by all examples, or named, each with a
            position for every example (two names may be the same position).
        site: A `Site`.
        positions: Where to restore: everywhere by default, or as `subject`; names become the
            coordinate `pos`.
        noise: Standard deviation of the noise, as a multiple of that of all numbers in the
            embedding matrix (Meng et al. measure it on their subjects' tokens).
        seeds: Each is another draw of the noise, for all prompts together.
        window: Restore this many neighbouring layers together, centred on `layer`.
        max_memory: Bytes for what is computed together; see `branches.evaluate`.
        progress: Shows how far it is; what it no longer asks for stays NaN, and the result is
            marked `partial`.

    Returns:
        `patched` over (`layer`, `pos`, `seed`, `example`), in the metric's unit, NaN beyond a
        prompt's end; `clean` over `example`; `corrupted`, the noised runs, over (`seed`,
        `example`). Tokens are the coordinates `clean_token` and `corrupted_token`, where a noised
        one ends in `*`.

    Raises:
        PromptError: an unknown site, a position out of range, no noise or no seed, a metric that
            is not finite, too little memory for one branch.
    """
    _check(site, noise, seeds)
    batch = model.as_batch(prompts)
    itself = TokenPairs(batch, batch)
    noised, chosen = _where_noised(itself, subject), chosen_positions(itself, positions)
    clean, embedded, values = _clean_run(model, batch, metric, site)
    scale = noise * float(at_least_float32(model.embed.W_E).std())
    streams = [embedded + _noise(embedded, noised, scale, seed) for seed in seeds]
    base = _noised_runs(model, batch, metric, streams)
    first = noised.int().argmax(dim=-1)
    places = [_places(batch, column, first, len(seeds)) for column in chosen.values()]
    copied = [value.repeat(len(seeds), 1, 1) for value in values]
    branches = list(grid(POINTS[site], copied, [None], places, window))
    outcome = evaluate(
        base, branches, len(values) * len(places), max_memory=max_memory, progress=progress,
        description="Restoring",
    )  # fmt: skip
    partial = int(not bool(outcome.finished.all()))
    attrs = {"site": site, "window": window, "noise": noise, "partial": partial}
    return _dataset(base, outcome.values, clean, batch, chosen, noised, seeds).assign_attrs(attrs)


def _check(site: str, noise: float, seeds: Sequence[int]) -> None:
    if site not in POINTS:
        raise PromptError(f"There is no site {site!r} to restore; use {', '.join(POINTS)}.")
    if not 0 < noise < float("inf"):
        raise PromptError(f"noise is {noise}; use a positive number, such as 3.")
    if not len(seeds):
        raise PromptError("Seeds of the noise are missing; give at least one.")


def _where_noised(itself: TokenPairs, subject: Positions) -> Bool[Tensor, "example pos"]:
    """The subject's tokens; every one has to be inside its prompt."""
    n_examples, n_positions = itself.clean.tokens.shape
    if not subject:
        raise PromptError("Positions of the subject are missing; name the tokens to put noise on.")
    if not isinstance(subject, Mapping):
        subject = {str(position): [position] * n_examples for position in subject}
    columns = torch.stack(list(chosen_positions(itself, subject).values()))
    place = torch.arange(n_positions)
    return (columns[..., None] == place).any(dim=0).to(itself.clean.tokens.device)


def _clean_run(
    model: HookedGPT2, batch: TokenBatch, metric: Metric, site: str
) -> tuple[Float[Tensor, " example"], Resid, list[Resid]]:
    """The metric, the embedded prompts, and what is restored of each layer."""
    names = [full_name(site, layer) for layer in range(model.cfg.n_layers)]
    logits, cache = model.run_with_cache(
        batch, names_filter=[full_name("resid_pre", 0), *names], positions=metric.positions
    )
    assert isinstance(logits, Tensor)
    return metric(logits), cache["resid_pre", 0], [cache[name] for name in names]


def _noise(
    embedded: Resid, noised: Bool[Tensor, "batch pos"], scale: float, seed: int
) -> Float[Tensor, "batch pos d_model"]:
    """Normal noise on the subject, exactly nothing elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(embedded.shape, generator=generator).to(embedded)
    return (scale * draw).masked_fill(~noised[..., None], 0)


def _noised_runs(
    model: HookedGPT2, batch: TokenBatch, metric: Metric, streams: Sequence[Resid]
) -> BaseRun:
    """One run of all examples with the first noise, then all with the second, and so on."""
    copies = torch.arange(len(batch.tokens), device=batch.tokens.device).repeat(len(streams))
    copied = TokenBatch(batch.tokens[copies], batch.attention_mask[copies])
    return BaseRun(model, copied, metric.of_examples(copies), torch.cat(list(streams)))


def _places(
    batch: TokenBatch,
    column: Int[Tensor, " example"],
    first: Int[Tensor, " example"],
    n_seeds: int,
) -> list[Place]:
    """Rows of the noised runs by where they are restored; before the subject they are clean."""
    together: dict[int, list[int]] = {}
    n_examples = len(column)
    rows = zip(column.tolist(), first.tolist(), batch.lengths.tolist(), strict=True)
    for example, (position, begin, end) in enumerate(rows):
        if begin <= position < end:
            copies = range(example, n_seeds * n_examples, n_examples)
            together.setdefault(position, []).extend(copies)
    return [(tuple(rows), (position,)) for position, rows in together.items()]


def _dataset(
    base: BaseRun,
    values: Float[Tensor, "cell row"],
    clean: Float[Tensor, " example"],
    batch: TokenBatch,
    chosen: Mapping[Hashable, Int[Tensor, " example"]],
    noised: Bool[Tensor, "example pos"],
    seeds: Sequence[int],
) -> xr.Dataset:
    columns = torch.stack(list(chosen.values())).to(values.device)
    patched = rearrange(
        values, "(layer pos) (seed example) -> layer pos seed example",
        pos=len(chosen), seed=len(seeds),
    ).masked_fill((columns >= batch.lengths)[:, None], torch.nan)  # fmt: skip
    names = token_names(base.model, batch)
    starred = [
        [name + "*" * star for name, star in zip(row, stars, strict=True)]
        for row, stars in zip(names, noised.tolist(), strict=True)
    ]
    tokens, noised_tokens = (
        [[row[p] for p in own] for row, own in zip(rows, columns.T.tolist(), strict=True)]
        for rows in (names, starred)
    )
    corrupted = rearrange(base.value, "(seed example) -> seed example", seed=len(seeds))
    return xr.Dataset(
        {
            "patched": (("layer", "pos", "seed", "example"), patched.numpy(force=True)),
            "clean": ("example", clean.numpy(force=True)),
            "corrupted": (("seed", "example"), corrupted.numpy(force=True)),
        },
        coords={
            "layer": range(len(patched)),
            "pos": list(chosen),
            "seed": list(seeds),
            "clean_token": (("example", "pos"), tokens),
            "corrupted_token": (("example", "pos"), noised_tokens),
        },
        attrs={
            "direction": "denoising",
            "metric": base.metric.name,
            "unit": base.metric.unit,
            **provenance(base.model),
        },
    )
