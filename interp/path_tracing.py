"""Which heads act on the logits, which heads act on those, and so on: a circuit, read backwards.

Step 1 patches the path from each head to the logits. A head whose effect is beyond a threshold is
found. Each following step patches the paths into the heads found before: into their query where
they stand, and into their key and value at the positions that they look at. It ends when a step
finds no head that was not known. Source: Wang et al. 2022, arXiv:2211.00593, sections 3.1 to 3.3,
where every receiver was chosen by hand.

A path may run through MLPs (see `interp.path_patching`). MLPs are measured as senders, and not
followed further.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp import path_patching, statistics
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import Prompt
from interp.pairs import NamedPositions
from interp.progress import Progress, no_progress

Node = tuple[int, int, str]
"""Layer and head, and the name of the position where it writes."""
LOGITS = "logits"


class Input(NamedTuple):
    """What a path leads into: one letter of some heads at one position, or the logits."""

    letter: str
    pos: str
    heads: tuple[tuple[int, int], ...]

    @property
    def receivers(self) -> list[tuple[int, int, str]] | str:
        """As `path_patching.sweep` takes them."""
        return [(*head, self.letter) for head in self.heads] or LOGITS

    @property
    def names(self) -> str:
        """As in "L2H2, L2H3"."""
        return ", ".join(path_patching.component_name(*head) for head in self.heads) or LOGITS


@torch.no_grad()
def attention_between(model: HookedGPT2, tokens: Prompt, positions: NamedPositions) -> xr.DataArray:
    """Every head's attention weights between named positions.

    Returns:
        Over (`layer`, `head`, `query`, `key`, `example`); 0 where the key comes after the query.

    Raises:
        PromptError: a position outside its prompt.
    """
    batch = model.as_batch(tokens)
    columns = torch.stack([torch.as_tensor(column) for column in positions.values()]).T
    outside = (columns < 0) | (columns >= batch.lengths.cpu()[:, None])
    if bool(outside.any()):
        example, name = outside.nonzero()[0].tolist()
        raise PromptError(
            f"Position {list(positions)[name]!r} is {int(columns[example, name])} in example "
            f"{example}; the prompt has positions 0-{int(batch.lengths[example]) - 1}."
        )
    names = "blocks.*.attn.hook_pattern"
    _, cache = model.run_with_cache(batch, names_filter=names, return_type=None)
    example = torch.arange(len(columns))[:, None, None]

    def chosen(pattern: Tensor) -> Float[Tensor, "example query key head"]:
        return pattern[example, :, columns[:, :, None], columns[:, None, :]]

    weights = [chosen(cache["pattern", layer]) for layer in range(model.cfg.n_layers)]
    return xr.DataArray(
        torch.stack(weights).numpy(force=True),
        dims=("layer", "example", "query", "key", "head"),
        coords={
            "layer": range(model.cfg.n_layers),
            "query": list(positions),
            "key": list(positions),
            "head": range(model.cfg.n_heads),
        },
    ).transpose("layer", "head", "query", "key", "example")


def trace(
    model: HookedGPT2,
    clean: Prompt,
    corrupted: Prompt,
    metric: Metric,
    positions: NamedPositions,
    *,
    end: str = "END",
    direction: str = "noising",
    threshold: float = 0.02,
    attended: float = 0.15,
    seed: int = 0,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Follow the effect of all heads and MLPs on the metric backwards.

    Args:
        clean, corrupted: Prompts of equal token length per pair.
        metric: A metric that reads the position `end`.
        positions: Named positions, of which `end` is one. Paths are followed at these only.
        direction: "noising" (corrupted values sent in the clean run) or "denoising".
        threshold: Share of the mean gap, clean minus corrupted, beyond which the whole bootstrap
            interval of the mean effect must lie.
        attended: Mean attention weight from which on a head counts as looking at a position.
        seed: Of the bootstrap.

    Returns:
        Each path is a sender into an input: `effect` over (`path`, `example`) in the metric's unit,
        `mean`, `low`, `high` and `passes` over `path`; `clean` and `corrupted` over `example`.
        Coordinates: `step`; `receivers` ("L2H3, L2H2" or "logits"); `letter` ("q", "k", "v", or
        empty) and `pos`, of the input; `sender`, its `layer`, and its `part` (head or "mlp").
        Attributes: `gap`, of which `threshold` is a share; `threshold`; `attended`.

    Raises:
        PromptError: pairs that cannot be compared, no position `end`, or a gap of zero.
    """
    if end not in positions:
        raise PromptError(f"There is no position {end!r}; there are {', '.join(positions)}.")
    base = clean if direction == "noising" else corrupted
    weights = attention_between(model, base, positions).mean("example")
    known: set[Node] = set()
    parts: list[xr.Dataset] = []
    inputs, step = [Input("", end, ())], 0
    while inputs:
        step += 1
        found: list[Node] = []
        for each in inputs:
            swept = path_patching.sweep(
                model, clean, corrupted, receivers=each.receivers, metric=metric,
                direction=direction, max_memory=max_memory, progress=progress,
                positions={each.pos: positions[each.pos]} if each.heads else None,
            )  # fmt: skip
            part = _paths(swept, each, step, threshold, seed).assign_attrs(attended=attended)
            found += _passing_heads(part)
            parts.append(part)
        new = [node for node in dict.fromkeys(found) if node not in known]
        known.update(new)
        inputs = _inputs(new, weights, attended)
    return xr.concat(parts, "path", data_vars="minimal", coords="minimal", compat="equals")


def _passing_heads(paths: xr.Dataset) -> list[Node]:
    heads = paths.isel(path=(paths["passes"] & (paths["part"] != "mlp")).values)
    columns = (heads[name].values for name in ("layer", "part", "pos"))
    return [(int(layer), int(part), str(pos)) for layer, part, pos in zip(*columns, strict=True)]


def _inputs(nodes: Sequence[Node], weights: xr.DataArray, attended: float) -> list[Input]:
    """What these heads read: queries where they stand, keys and values where they look."""
    together: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for layer, head, pos in nodes:
        if layer == 0:  # nothing comes before it
            continue
        row = weights.sel(layer=layer, head=head, query=pos)
        looked_at = [str(key) for key in row["key"].values[row.values >= attended]]
        for place in [("q", pos), *((letter, key) for key in looked_at for letter in "kv")]:
            together.setdefault(place, []).append((layer, head))
    return [Input(*place, tuple(sorted(heads))) for place, heads in together.items()]


def _paths(swept: xr.Dataset, into: Input, step: int, threshold: float, seed: int) -> xr.Dataset:
    """A path-patching sweep as paths, with intervals and the verdict."""
    gap = float((swept["clean"] - swept["corrupted"]).mean())
    if abs(gap) < statistics.SMALLEST_GAP:
        raise PromptError(
            f"Clean and corrupted prompts give the same {swept.attrs['metric']} on average: there "
            "is no effect to follow."
        )
    effect = statistics.effect(swept).rename(sender="path").reset_coords(drop=True)
    interval = statistics.bootstrap(effect, seed=seed)
    beyond = threshold * abs(gap)
    labels = {"step": step, "receivers": into.names, "letter": into.letter, "pos": into.pos}
    senders = {"sender": "sender", "layer": "sender_layer", "part": "sender_part"}
    attrs = {name: value for name, value in swept.attrs.items() if name != "receivers"}
    return xr.Dataset(
        {
            "effect": effect.drop_vars("path"),
            **{name: interval[name].drop_vars("path") for name in ("mean", "low", "high")},
            "passes": ("path", ((interval.low > beyond) | (interval.high < -beyond)).values),
            "clean": ("example", swept["clean"].values),
            "corrupted": ("example", swept["corrupted"].values),
        },
        coords={name: ("path", [label] * swept.sizes["sender"]) for name, label in labels.items()}
        | {name: ("path", swept[own].values) for name, own in senders.items()},
        attrs=attrs | {"gap": gap, "threshold": threshold, "bootstrap_seed": seed},
    )
