"""Path patching: which components act *directly* on a head's query, key or value, or on the logits?

A sender's output is replaced by its value in the other run, and only what reaches the receivers
along the residual stream counts (Wang et al. 2022, arXiv:2211.00593, appendix B). The rule:

1. Run the base prompts, and the source prompts, once each.
2. Replace the sender's output (a head's z, an MLP's output) by the source's. All *other heads* keep
   their base output, in every layer. MLPs after the sender recompute from the changed stream, or
   keep their base output too (`freeze_mlps`). Note what each receiver would read: its q, k or v,
   with its LayerNorm recomputed.
3. Run the base prompts with the receivers' q, k or v replaced by these; everything else, other
   heads included, recomputes. For the logits as receiver, step 2 ends with them.

With all heads frozen, step 2 mixes no positions: it costs an MLP per layer and sender at the
positions that are patched. Step 3 is a branch of the base run for each sender (`interp.branches`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from interp.base_run import BaseRun, Edit, rows_at
from interp.branches import ROWS, Branch, Component, Outcome, check_component, evaluate
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.cache import ActivationCache
from interp.model.gpt2 import Block, HookedGPT2
from interp.model.hooks import BlockHooks, Hooks
from interp.model.tokens import Prompt, TokenBatch
from interp.pairs import (
    Place,
    Positions,
    TokenPairs,
    chosen_positions,
    places_of,
    token_pairs,
)
from interp.progress import Progress, no_progress
from interp.results import patched_dataset

Letter = Literal["q", "k", "v"]
Receiver = tuple[int, int, Letter]
"""(layer, head, "q", "k" or "v")."""
Rows = Float[Tensor, "sender example pos d_model"]


@torch.no_grad()
def sweep(
    model: HookedGPT2,
    clean: Prompt,
    corrupted: Prompt,
    *,
    receivers: Sequence[tuple[int, int, str]] | str,
    metric: Metric,
    senders: Sequence[Component] | None = None,
    direction: str = "denoising",
    positions: Positions = None,
    freeze_mlps: bool = False,
    max_memory: int | None = None,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Patch the paths from each sender alone to all receivers together.

    Args:
        clean, corrupted: Prompts of equal token length per pair.
        receivers: Inputs of heads, as (layer, head, "q", "k" or "v"), or "logits".
        senders: Heads as (layer, head), MLPs as (layer, "mlp"); all by default. One that does not
            come before a receiver cannot act on it: its effect is exactly zero.
        direction: "denoising" (clean values sent in the corrupted run) or "noising".
        positions: Where the receivers' inputs are replaced, as in `patching.sweep`.
        freeze_mlps: Keep MLPs at their base output in step 2, so that only the direct path counts;
            otherwise what MLPs pass on counts too.

    Returns:
        `patched` over (`sender`, `example`) in the metric's unit, with the coordinates
        `sender_layer` and `sender_part` (head or "mlp"); `clean` and `corrupted` over `example`.

    Raises:
        PromptError: pairs that cannot be compared, a sender or receiver that does not exist.
    """
    pairs = token_pairs(model, clean, corrupted)
    senders = all_components(model) if senders is None else list(senders)
    for sender in senders:
        check_component(model, *sender)
    inputs = _checked_receivers(model, receivers)
    base = BaseRun(model, pairs.base(direction), metric)
    columns = _columns(base, pairs, inputs, positions)
    other, source = _source(base, pairs.source(direction))
    wires = [
        wire
        for place in places_of(pairs, columns)
        for wire in _wires(base, source, senders, inputs, place, freeze_mlps)
    ]
    through = _through_heads if inputs else _through_logits
    outcome = through(base, wires, len(senders), max_memory, progress)
    sides = (other, base.value) if direction == "denoising" else (base.value, other)
    dims = {"sender": [component_name(*sender) for sender in senders]}
    dataset = patched_dataset(model, pairs, metric, dims, outcome.values, *sides, positions={})
    return dataset.assign_coords(
        sender_layer=("sender", [layer for layer, _ in senders]),
        sender_part=("sender", [str(part) for _, part in senders]),
    ).assign_attrs(
        direction=direction,
        receivers=", ".join(f"L{x}H{h}.{letter}" for x, h, letter in inputs) or "logits",
        mlps="frozen" if freeze_mlps else "recomputed",
        partial=int(not bool(outcome.finished.all())),
    )


def _columns(
    base: BaseRun, pairs: TokenPairs, inputs: Sequence[Receiver], positions: Positions
) -> list[Int[Tensor, " example"]]:
    """The positions at which the receivers read."""
    if inputs:
        return list(chosen_positions(pairs, positions).values())
    if positions is not None:
        raise PromptError('With receivers="logits" the metric says where the logits are read.')
    return list(base.reads.T.cpu())


def all_components(model: HookedGPT2) -> list[Component]:
    """Every head and every MLP, in the order of the forward pass."""
    heads = range(model.cfg.n_heads)
    return [(layer, part) for layer in range(model.cfg.n_layers) for part in (*heads, "mlp")]


def component_name(layer: int, part: int | str) -> str:
    """As in L3H1, or L3 MLP."""
    return f"L{layer} MLP" if part == "mlp" else f"L{layer}H{part}"


def _checked_receivers(
    model: HookedGPT2, receivers: Sequence[tuple[int, int, str]] | str
) -> list[Receiver]:
    """The heads' inputs; none stands for the logits."""
    if receivers == "logits":
        return []
    if isinstance(receivers, str) or not receivers:
        raise PromptError(f'receivers is {receivers!r}; use [(layer, head, "q")] or "logits".')
    letters: dict[str, Letter] = {"q": "q", "k": "k", "v": "v"}
    for layer, head, letter in receivers:
        check_component(model, layer, head)
        if letter not in letters:
            raise PromptError(f"A head reads through q, k or v, not {letter!r}.")
    return [(layer, head, letters[letter]) for layer, head, letter in receivers]


def _source(base: BaseRun, batch: TokenBatch) -> tuple[Float[Tensor, " example"], ActivationCache]:
    """The source run's metric, and what its heads and MLPs write."""
    logits, cache = base.model.run_with_cache(
        batch,
        names_filter=["blocks.*.attn.hook_z", "blocks.*.hook_mlp_out"],
        positions=base.metric.positions,
    )
    assert isinstance(logits, Tensor)
    return base.metric(logits), cache


@dataclass(frozen=True)
class _Wire:
    """What one sender does at one place, along the residual stream."""

    cell: int
    place: Place
    heard: tuple[Edit, ...]
    """What the receivers after it would read."""
    final: Float[Tensor, "example pos d_model"]
    """The stream after the last layer."""


def _wires(
    base: BaseRun,
    source: ActivationCache,
    senders: Sequence[Component],
    receivers: Sequence[Receiver],
    place: Place,
    freeze_mlps: bool,
) -> Iterator[_Wire]:
    """Step 2 for all senders, as many together as a matrix multiplication fills."""
    n_rows = len(place[0]) * len(place[1])
    order = sorted(range(len(senders)), key=lambda cell: senders[cell][0])
    for begin in range(0, len(order), max(1, ROWS // n_rows)):
        cells = order[begin : begin + max(1, ROWS // n_rows)]
        own = [senders[cell] for cell in cells]
        heard, final = _carried(base, source, own, receivers, place, freeze_mlps)
        for row, cell in enumerate(cells):
            edits = tuple(
                Edit(letter, layer, place[1], values[row], head)
                for (layer, head, letter), values in heard.items()
                if senders[cell][0] < layer
            )
            yield _Wire(cell, place, edits, final[row])


def _carried(
    base: BaseRun,
    source: ActivationCache,
    senders: Sequence[Component],
    receivers: Sequence[Receiver],
    place: Place,
    freeze_mlps: bool,
) -> tuple[dict[Receiver, Float[Tensor, "sender example pos d_head"]], Rows]:
    """The stream with each sender's output replaced and every other head frozen.

    Senders are in order of their layers, so that those which have begun are the first rows.
    """

    def at_place(value: Tensor) -> Tensor:
        return rows_at(value, *place)

    heard: dict[Receiver, Tensor] = {}
    rows = at_place(base.streams[0]).expand(len(senders), -1, -1, -1).clone()
    for layer in range(senders[0][0], base.model.cfg.n_layers):
        block = base.model.blocks[layer]
        before = sum(each < layer for each, _ in senders)
        for receiver in receivers:
            if receiver[0] == layer and before:
                heard[receiver] = _read_by(block, rows, receiver)
        mid = at_place(base.mids[layer])
        rows[:before] += mid - at_place(base.streams[layer])
        rows[before:] = mid
        change = at_place(source["z", layer]) - at_place(base.z[layer])
        for row, (each, part) in enumerate(senders):
            if each == layer and isinstance(part, int):
                rows[row] += change[:, :, part] @ block.attn.W_O[part]
        began = sum(each < layer or (each == layer and part != "mlp") for each, part in senders)
        rows = _after_mlp(base, rows, layer, place, freeze_mlps) if began else rows
        after = at_place(base.streams[layer + 1])
        for row, (each, part) in enumerate(senders):
            if each == layer and part == "mlp":
                rows[row] = mid + at_place(source["mlp_out", layer])
            elif each > layer:
                rows[row] = after
    return heard, rows


def _read_by(block: Block, rows: Rows, receiver: Receiver) -> Float[Tensor, "s example pos d_head"]:
    """A head's query, key or value of these rows of the stream."""
    _, head, letter = receiver
    index = "qkv".index(letter)
    attn = block.attn
    return block.ln1(rows) @ attn.W_QKV[:, index, head] + attn.b_QKV[index, head]


def _after_mlp(
    base: BaseRun, rows: Rows, layer: int, place: Place, freeze_mlps: bool
) -> Rows:  # fmt: skip
    if freeze_mlps:
        return rows + (rows_at(base.streams[layer + 1], *place) - rows_at(base.mids[layer], *place))
    block, at = base.model.blocks[layer], BlockHooks(Hooks(base.model), layer)
    return rows + block.mlp(block.ln2(rows.flatten(0, 1)), at).reshape(rows.shape)


def _through_heads(
    base: BaseRun,
    wires: Sequence[_Wire],
    n_senders: int,
    max_memory: int | None,
    progress: Progress,
) -> Outcome:
    """Step 3: the receivers read what was sent, and everything else recomputes."""
    branches = [Branch(wire.cell, wire.place[0], wire.heard) for wire in wires if wire.heard]
    return evaluate(
        base, branches, n_senders, max_memory=max_memory, progress=progress,
        description="Patching paths",
    )  # fmt: skip


def _through_logits(
    base: BaseRun,
    wires: Sequence[_Wire],
    n_senders: int,
    max_memory: int | None,  # noqa: ARG001  one stream at a time is the least there is
    progress: Progress,
) -> Outcome:
    """The metric of the streams that step 2 ends with."""
    values = base.value.repeat(n_senders, 1)
    waiting = torch.bincount(torch.tensor([wire.cell for wire in wires]), minlength=n_senders)
    by_sender = sorted(wires, key=lambda wire: wire.cell)
    for wire in progress(by_sender, "Patching paths"):
        waiting[wire.cell] -= 1
        examples = torch.tensor(wire.place[0], device=values.device)
        stream = base.streams[-1][examples].clone()
        stream[:, list(wire.place[1])] = wire.final
        read = stream[
            torch.arange(len(examples), device=values.device)[:, None], base.reads[examples]
        ]
        values[wire.cell, examples] = base.metric_of(read, examples)
    values[waiting.to(values.device) > 0] = torch.nan
    return Outcome(values, waiting == 0)
