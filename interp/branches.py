"""The engine: many edited continuations of one run, sharing everything that is not edited.

A forward pass in which something is replaced at layer l and position p equals the base run in all
layers below l and, since GPT-2 looks only back, at all positions before p. So an edit is a *branch*
of the base run: it begins at its layer, computes only positions from p on (against the base run's
keys and values for the rest), shares matrix multiplications with all branches alive in that layer,
and ends at the last position that the metric reads. Where only some rows of the residual stream
differ from the base run (at birth), only those are multiplied. The last layer computes only what
the metric reads, and the unembedding only its tokens. A branch that changes nothing is not run.

The numbers are those of one hooked forward per edit, to float rounding.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.base_run import BaseRun, Edit, Part, Point, rows_at
from interp.continuation import Continuation
from interp.errors import PromptError
from interp.memory import available_memory
from interp.model.gpt2 import HookedGPT2
from interp.pairs import Place
from interp.progress import Progress, no_progress

ROWS = 2048
"""Positions that are multiplied together by default: enough to keep a processor busy."""
DEFAULT_SHARE, DEFAULT_LIMIT = 0.5, 2**30
"""Without `max_memory`: this share of the free memory, and at most these bytes."""


@dataclass(frozen=True)
class Branch:
    """Edits that are made together, on some of the base run's examples."""

    cell: int
    """Row of the result that this branch fills, for its examples."""
    examples: tuple[int, ...]
    edits: tuple[Edit, ...]


Component = tuple[int, int | str]
"""A head as (layer, head), or an MLP as (layer, "mlp")."""
Values = Sequence[Float[Tensor, "example pos *width"]]
"""What is patched in, for each layer."""


@dataclass(frozen=True)
class Outcome:
    """What the branches of a base run gave."""

    values: Float[Tensor, "cell example"]
    """The metric; of the base run where no branch has changed anything, NaN if not finished."""
    finished: Bool[Tensor, " cell"]


@torch.no_grad()
def evaluate(
    base: BaseRun,
    branches: Sequence[Branch],
    n_cells: int,
    *,
    max_memory: int | None = None,
    rows: int = ROWS,
    progress: Progress = no_progress,
    description: str = "Patching",
) -> Outcome:
    """The metric of every branch.

    Args:
        branches: At most one for each cell and example.
        max_memory: Bytes for the branches that are computed together; by default half of the free
            memory, at most 1 GiB.
        rows: Positions that are multiplied together; with fewer, steps are shorter.
        progress: Sees the batches of branches; to cancel, it stops giving them out.

    Raises:
        PromptError: too little memory for one branch (says how much is needed).
    """
    budget = available_memory(base.model.cfg.device, DEFAULT_SHARE, DEFAULT_LIMIT)
    budget = budget if max_memory is None else max_memory
    values = base.value.repeat(n_cells, 1)
    batches = list(_batches(base, [p for b in branches for p in _parts(base, b)], budget, rows))
    waiting = torch.zeros(n_cells, dtype=torch.int64)
    for parts in batches:
        waiting[list({part.cell for part in parts})] += 1
    for parts in progress(batches, description):
        cells, examples, measured = Continuation(base, parts).run()
        values[cells, examples] = measured
        waiting[list({part.cell for part in parts})] -= 1
    values[waiting.to(values.device) > 0] = torch.nan
    return Outcome(values, waiting == 0)


def _parts(base: BaseRun, branch: Branch) -> Iterator[Part]:
    """A branch by what its examples' metric reads, without edits that nothing reads."""
    by_reads: dict[tuple[int, ...], list[int]] = {}
    for index, example in enumerate(branch.examples):
        by_reads.setdefault(base.read_sets[example], []).append(index)
    for reads, rows in by_reads.items():
        # In the order of a run: one layer's end comes before the next one's start, and loses to it.
        in_order = sorted(branch.edits, key=lambda edit: edit.layer)
        edits = [_read_part(base, edit, reads, rows) for edit in in_order]
        edits = sorted((e for e in edits if e is not None), key=lambda edit: edit.layer)
        if edits:
            start = min(edit.positions[0] for edit in edits)
            examples = tuple(branch.examples[row] for row in rows)
            yield Part(branch.cell, examples, start, reads, tuple(edits))


def _read_part(
    base: BaseRun, edit: Edit, reads: tuple[int, ...], rows: list[int]
) -> Edit | None:  # fmt: skip
    """The positions of an edit that reach the metric; a layer's end is the next one's start."""
    at_end = edit.point == "resid_post"
    layer, point = (edit.layer + 1, "resid_pre") if at_end else (edit.layer, edit.point)
    n_layers = base.model.cfg.n_layers
    later_keys = layer < n_layers - 1 or (
        layer == n_layers - 1 and point in ("resid_pre", "k", "v")
    )
    readable = range(reads[-1] + 1) if later_keys else reads
    columns = [c for c, position in enumerate(edit.positions) if position in readable]
    if not columns:
        return None
    positions = tuple(edit.positions[column] for column in columns)
    return Edit(point, layer, positions, edit.values[rows][:, columns], edit.head)


def _batches(
    base: BaseRun, parts: Iterable[Part], budget: int, most_rows: int
) -> Iterator[list[Part]]:
    """Parts that begin in the same or neighbouring layers, as many as fit together."""
    batch: list[Part] = []
    n_rows, n_bytes = 0, 0
    for whole in sorted(parts, key=lambda part: part.first_layer):
        each = _bytes_needed(base, whole)
        if each > budget:
            raise PromptError(
                f"One branch needs {each / 2**20:.2g} MiB, and max_memory is "
                f"{budget / 2**20:.2g} MiB. Allow more, or use shorter prompts."
            )
        fitting = max(1, min(budget // each, most_rows // whole.n_rows))
        for begin in range(0, len(whole.examples), fitting):
            part = whole.of(slice(begin, begin + fitting))
            rows, size = (len(part.examples) * x for x in (part.n_rows, each))
            if batch and (n_rows + rows > most_rows or n_bytes + size > budget):
                yield batch
                batch, n_rows, n_bytes = [], 0, 0
            batch.append(part)
            n_rows, n_bytes = n_rows + rows, n_bytes + size
    if batch:
        yield batch


def _bytes_needed(base: BaseRun, part: Part) -> int:
    """Memory of one example of a branch at its peak: streams, keys and values, MLP, logits."""
    cfg = base.model.cfg
    row = 2 * cfg.d_mlp + 8 * cfg.d_model
    numbers = part.n_rows * row + (part.reads[-1] + 1) * 4 * cfg.d_model
    if base.metric.vocab_ids is None:
        numbers += 4 * base.reads.shape[1] * cfg.d_vocab_out
    return numbers * max(base.streams[0].itemsize, 4)


def check_component(model: HookedGPT2, layer: int, part: int | str) -> None:
    """Raise PromptError for a head or MLP that the model does not have."""
    cfg = model.cfg
    known = part == "mlp" or (isinstance(part, int) and 0 <= part < cfg.n_heads)
    if not known or not 0 <= layer < cfg.n_layers:
        raise PromptError(
            f"({layer}, {part!r}) is no head or MLP of this model. Layers are 0-"
            f"{cfg.n_layers - 1}, heads 0-{cfg.n_heads - 1}; an MLP is (layer, 'mlp')."
        )


def grid(
    point: Point,
    values: Values,
    heads: Sequence[int | None],
    places: Sequence[Sequence[Place]],
    window: int,
) -> Iterator[Branch]:
    """One cell for each layer, head and set of positions."""
    cell = 0
    for layer in range(len(values)):
        layers = window_around(layer, window, len(values))
        for head in heads:
            for together in places:
                for place in together:
                    edits = [edit_of(point, each, values[each], place, head) for each in layers]
                    yield Branch(cell, place[0], tuple(edits))
                cell += 1


def window_around(layer: int, window: int, n_layers: int) -> range:
    """Neighbouring layers, centred on `layer`; fewer at the ends of the model.

    An even window has one more before than after, as in Meng et al. 2022, arXiv:2202.05262.

    Raises:
        PromptError: a window of no layer, or of more than there are.
    """
    if not 1 <= window <= n_layers:
        raise PromptError(f"window is {window}; use 1 to {n_layers} layers.")
    begin = layer - window // 2
    return range(max(0, begin), min(n_layers, begin + window))


def edit_of(point: Point, layer: int, values: Tensor, place: Place, head: int | None) -> Edit:
    """What a layer's values (`example pos [head] width`) put at a place."""
    examples, positions = place
    chosen = values if head is None else values[:, :, head]
    return Edit(point, layer, positions, rows_at(chosen, examples, positions), head)


def together(
    model: HookedGPT2,
    groups: Iterable[Sequence[Component]],
    values: Mapping[Point, Values],
    places: Sequence[Place],
) -> Iterator[Branch]:
    """One cell for each group: its heads' z and its MLPs' output replaced at the same time.

    Args:
        values: What is put at "z" and at "mlp_out".

    Raises:
        PromptError: a component that the model does not have.
    """
    for cell, components in enumerate(groups):
        for place in places:
            edits = []
            for layer, part in components:
                check_component(model, layer, part)
                head = part if isinstance(part, int) else None
                point: Point = "mlp_out" if head is None else "z"
                edits.append(edit_of(point, layer, values[point][layer], place, head))
            yield Branch(cell, place[0], tuple(edits))
