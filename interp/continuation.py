"""One batch of branches, carried from the first edited layer to the metric.

Branches with the same first position and the same positions to read form a group: a block of rows
of the residual stream. All groups share the matrix multiplications of a layer; attention runs per
group, against the base run's keys and values before the first position.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.base_run import BaseRun, Edit, Part, rows_at
from interp.model.gpt2 import Heads, Keys
from interp.model.hooks import BlockHooks, Hooks
from interp.model.running import Resid


class _Span(NamedTuple):
    """What branches that are computed together have in common."""

    start: int
    reads: tuple[int, ...]
    positions: tuple[int, ...]
    """Rows of the stream that may differ from the base run."""

    @property
    def end(self) -> int:
        """One past the last position that is computed."""
        return self.reads[-1] + 1


class _Group(NamedTuple):
    """Branches of one span: their numbers, their examples, and their rows of the stream."""

    ids: Int[Tensor, " branch"]
    examples: Int[Tensor, " branch"]
    rows: Float[Tensor, "branch pos d_model"]


class _Member(NamedTuple):
    """A group with the queries, keys and values of its rows."""

    span: _Span
    group: _Group
    q: Heads
    k: Heads
    v: Heads


def _where(positions: Sequence[int], chosen: Sequence[int]) -> slice | list[int]:
    """Index of `chosen` among `positions`, both ascending; a slice if it can be one."""
    columns = [positions.index(position) for position in chosen]
    contiguous = columns and columns[-1] - columns[0] == len(columns) - 1
    return slice(columns[0], columns[-1] + 1) if contiguous else columns


class Continuation:
    """One batch of parts, from the first edited layer to the metric."""

    def __init__(self, base: BaseRun, parts: Sequence[Part]) -> None:
        self.base, self.model, self.parts = base, base.model, parts
        self.device = base.model.cfg.device
        self.no_hooks = Hooks(base.model)
        self.groups: dict[_Span, _Group] = {}
        self.begun: set[int] = set()
        self.edits: dict[tuple[int, str], dict[int, list[Edit]]] = {}
        sizes = [len(part.examples) for part in parts]
        self.first_id = [0, *accumulate(sizes)]
        self.owner = torch.arange(len(parts)).repeat_interleave(torch.tensor(sizes))
        self.owner = self.owner.to(self.device)
        for index, part in enumerate(parts):
            for edit in part.edits:
                here = self.edits.setdefault((edit.layer, edit.point), {})
                here.setdefault(index, []).append(edit)

    def run(self) -> tuple[Tensor, Tensor, Float[Tensor, " branch"]]:
        """Cell, example and metric of each branch that changed anything."""
        n_layers = self.model.cfg.n_layers
        for layer in range(self.parts[0].first_layer, n_layers):
            self._set_stream(layer, "resid_pre", self.base.streams[layer])
            self._begin_inside_attention(layer)
            settled = set(self.begun)
            self._attention(layer)
            self._begin_after_attention(layer, settled)
            self._set_stream(layer, "resid_mid", self.base.mids[layer])
            self._mlp(layer)
        self._set_stream(n_layers, "resid_pre", self.base.streams[-1])
        return self._measured()

    # Taking branches out of their groups, and putting them back

    def _take(self, index: int, positions: Sequence[int], stream: Resid) -> tuple[_Span, _Group]:
        """A part's rows at its own and these positions; of the base run where it has none."""
        part, first = self.parts[index], self.first_id[index]
        examples = torch.tensor(part.examples, device=self.device)
        ids = torch.arange(first, first + len(examples), device=self.device)
        span, own = _Span(part.start, part.reads, ()), None
        if index in self.begun:
            span, own = self._remove(index)
        wide = tuple(sorted({*span.positions, *positions}))
        rows = rows_at(stream, examples, wide)
        if own is not None:
            rows[:, _where(wide, span.positions)] = own
        return span._replace(positions=wide), _Group(ids, examples, rows)

    def _remove(self, index: int) -> tuple[_Span, Float[Tensor, "branch pos d_model"]]:
        """Take a live part, which has further edits, out of its group."""
        part = self.parts[index]
        for span, group in self.groups.items():
            mine = self.owner[group.ids] == index
            if span.start == part.start and bool(mine.any()):
                del self.groups[span]
                if not bool(mine.all()):
                    self._add(span, _Group(*(x[~mine] for x in group)))
                return span, group.rows[mine]
        raise AssertionError("a branch with further edits is never dropped")

    def _put(self, index: int, span: _Span, group: _Group, stream: Resid) -> None:
        """Add branches to the batch, without those that equal the base run for good."""
        if len(self.parts[index].edits) == 1:
            base = rows_at(stream, group.examples, span.positions)
            changed = (group.rows != base).flatten(1).any(dim=1)
            group = group if bool(changed.all()) else _Group(*(x[changed] for x in group))
        self.begun.add(index)
        if len(group.ids):
            self._add(span, group)

    def _add(self, span: _Span, group: _Group) -> None:
        old = self.groups.get(span)
        both = None if old is None else zip(old, group, strict=True)
        self.groups[span] = group if both is None else _Group(*map(torch.cat, both))

    def _edits_at(self, layer: int, point: str) -> Iterator[tuple[int, Edit]]:
        for index, edits in self.edits.get((layer, point), {}).items():
            for edit in edits:
                yield index, edit

    # Edits

    def _set_stream(self, layer: int, point: str, stream: Resid) -> None:
        for index, edit in self._edits_at(layer, point):
            span, group = self._take(index, edit.positions, stream)
            group.rows[:, _where(span.positions, edit.positions)] = edit.values
            self._put(index, span, group, stream)

    def _begin_inside_attention(self, layer: int) -> None:
        """Branches that begin with an edited query, key or value: no row of theirs differs yet."""
        for letter, values in (("q", self.base.q), ("k", self.base.k), ("v", self.base.v)):
            for index, edit in self._edits_at(layer, letter):
                if index in self.begun:
                    continue
                span, group = self._take(index, (), self.base.streams[layer])
                if len(self.parts[index].edits) == 1:
                    base = rows_at(values[layer], group.examples, edit.positions)[:, :, edit.head]
                    changed = (edit.values != base).flatten(1).any(dim=1)
                    group = _Group(*(x[changed] for x in group))
                self.begun.add(index)
                if len(group.ids):
                    self._add(span, group)

    def _begin_after_attention(self, layer: int, settled: set[int]) -> None:
        """Branches that begin with what a head, or all of attention, writes."""
        mid, W_O = self.base.mids[layer], self.model.blocks[layer].attn.W_O
        for index, edit in self._edits_at(layer, "z"):
            if index not in settled:
                span, group = self._take(index, edit.positions, mid)
                own = rows_at(self.base.z[layer], group.examples, edit.positions)[:, :, edit.head]
                written = (edit.values - own) @ W_O[edit.head]
                group.rows[:, _where(span.positions, edit.positions)] += written
                self._put(index, span, group, mid)
        for index, edit in self._edits_at(layer, "attn_out"):
            if index not in settled:
                span, group = self._take(index, edit.positions, mid)
                before = rows_at(self.base.streams[layer], group.examples, edit.positions)
                group.rows[:, _where(span.positions, edit.positions)] = before + edit.values
                self._put(index, span, group, mid)

    def _overwrite(
        self, layer: int, point: str, ids: Int[Tensor, " branch"], value: Tensor,
        positions: Sequence[int],
    ) -> None:  # fmt: skip
        """Edit a value of live branches, whose second axis is these positions."""
        edits = self.edits.get((layer, point), {})
        owners = self.owner[ids]
        for index in owners.unique().tolist() if edits else ():
            rows = (owners == index).nonzero().flatten()
            for edit in edits.get(index, ()):
                columns = [positions.index(position) for position in edit.positions]
                head = [] if edit.head is None else [edit.head]
                place = (rows[:, None], torch.tensor(columns, device=self.device), *head)
                value[place] = edit.values[ids[rows] - self.first_id[index]]

    # Layers

    def _attention(self, layer: int) -> None:
        """Attention of all live branches; afterwards every row from `start` on is their own."""
        attn = self.model.blocks[layer].attn
        together: dict[tuple[int, tuple[int, ...]], list[_Member]] = {}
        for member in self._queries_keys_values(layer):
            together.setdefault((member.span.start, member.span.reads), []).append(member)
        self.groups, mixed = {}, []
        at = BlockHooks(self.no_hooks, layer)
        for (start, reads), members in together.items():
            first = self._first_query(layer, start, reads)
            ids = torch.cat([member.group.ids for member in members])
            examples = torch.cat([member.group.examples for member in members])
            q, k, v, stream = self._with_base(layer, first, examples, members)
            queries, keys = range(first, reads[-1] + 1), range(reads[-1] + 1)
            for point, value, where in (("q", q, queries), ("k", k, keys), ("v", v, keys)):
                self._overwrite(layer, point, ids, value, where)
            z = attn.mix(q, k, v, at, None)
            self._overwrite(layer, "z", ids, z, queries)
            span = _Span(start, reads, tuple(queries))
            mixed.append((span, _Group(ids, examples, stream), z))
        if mixed:
            written = attn.project(torch.cat([z.flatten(0, 1)[None] for *_, z in mixed], dim=1))[0]
            sizes = [z.shape[0] * z.shape[1] for *_, z in mixed]
            for (span, group, _), out in zip(mixed, written.split(sizes), strict=True):
                attn_out = out.reshape(group.rows.shape)
                self._overwrite(layer, "attn_out", group.ids, attn_out, span.positions)
                self.groups[span] = group._replace(rows=group.rows + attn_out)

    def _first_query(self, layer: int, start: int, reads: tuple[int, ...]) -> int:
        """In the last layer only positions that the metric reads are queries."""
        if layer < self.model.cfg.n_layers - 1:
            return start
        return next(position for position in reads if position >= start)

    def _queries_keys_values(self, layer: int) -> Iterator[_Member]:
        """q, k and v of the rows that differ from the base run, multiplied all together."""
        if not self.groups:
            return
        block, cfg = self.model.blocks[layer], self.model.cfg
        rows = torch.cat([group.rows.flatten(0, 1) for group in self.groups.values()])
        normalized = block.ln1(rows)
        weight, bias = block.attn.W_QKV, block.attn.b_QKV
        if layer < cfg.n_layers - 1:
            q, k, v = _project(normalized, weight, bias).unbind(dim=1)
        else:
            k, v = _project(normalized, weight[:, 1:], bias[1:]).unbind(dim=1)
            q, read = torch.zeros_like(k), self._rows_read()
            q[read] = _project(normalized[read], weight[:, :1], bias[:1])[:, 0]
        done = 0
        for span, group in self.groups.items():
            shape = (len(group.ids), len(span.positions), cfg.n_heads, cfg.d_head)
            size = shape[0] * shape[1]
            own = [x[done : done + size].reshape(shape) for x in (q, k, v)]
            yield _Member(span, group, *own)
            done += size

    def _rows_read(self) -> Bool[Tensor, " row"]:
        """Which rows of the last layer the metric reads: only they are queries."""
        read = [
            position in span.reads
            for span, group in self.groups.items()
            for _ in range(len(group.ids))
            for position in span.positions
        ]
        return torch.tensor(read, dtype=torch.bool, device=self.device)

    def _with_base(
        self, layer: int, first: int, examples: Int[Tensor, " branch"], members: list[_Member]
    ) -> tuple[Heads, Keys, Keys, Resid]:
        """Queries from `first` on, all keys and values, and the stream from `first` on."""
        base, end = self.base, members[0].span.end
        q, stream = (x[layer][examples, first:end] for x in (base.q, base.streams))
        k, v = (x[layer][examples, :end] for x in (base.k, base.v))
        done = 0
        for member in members:
            positions, rows = member.span.positions, slice(done, done := done + len(member.k))
            late = sum(position < first for position in positions)
            here = _where(range(first, end), positions[late:])
            q[rows, here], stream[rows, here] = member.q[:, late:], member.group.rows[:, late:]
            everywhere = _where(range(end), positions)
            k[rows, everywhere], v[rows, everywhere] = member.k, member.v
        return q, k, v, stream

    def _mlp(self, layer: int) -> None:
        """The MLP of all live branches; then those that begin with what the MLP writes."""
        block, at = self.model.blocks[layer], BlockHooks(self.no_hooks, layer)
        born_before = set(self.begun)
        for index, edit in self._edits_at(layer, "mlp_out"):
            if index in born_before:
                self._add(*self._take(index, edit.positions, self.base.mids[layer]))
        if self.groups:
            rows = torch.cat([group.rows.flatten(0, 1) for group in self.groups.values()])
            written = block.mlp(block.ln2(rows[None]), at)[0]
            sizes = [group.rows[..., 0].numel() for group in self.groups.values()]
            for (span, group), out in zip(self.groups.items(), written.split(sizes), strict=True):
                mlp_out = out.reshape(group.rows.shape)
                self._overwrite(layer, "mlp_out", group.ids, mlp_out, span.positions)
                self.groups[span] = group._replace(rows=group.rows + mlp_out)
        for index, edit in self._edits_at(layer, "mlp_out"):
            if index not in born_before:
                after = self.base.streams[layer + 1]
                span, group = self._take(index, edit.positions, after)
                before = rows_at(self.base.mids[layer], group.examples, edit.positions)
                group.rows[:, _where(span.positions, edit.positions)] = before + edit.values
                self._put(index, span, group, after)

    # The metric

    def _measured(self) -> tuple[Tensor, Tensor, Float[Tensor, " branch"]]:
        base, groups = self.base, self.groups.values()
        cells = torch.tensor([part.cell for part in self.parts], device=self.device)
        if not groups:
            nobody = torch.empty(0, dtype=torch.long, device=self.device)
            return nobody, nobody, base.value[:0]
        ids, examples = (torch.cat([group[i] for group in groups]) for i in (0, 1))
        read = base.reads[examples]
        stream = base.streams[-1][examples[:, None], read]
        done = 0
        for span, group in self.groups.items():
            rows = slice(done, done := done + len(group.ids))
            for column, position in enumerate(span.positions):
                here = read[rows] == position
                stream[rows][here] = group.rows[:, column, None].expand_as(stream[rows])[here]
        return cells[self.owner[ids]], examples, base.metric_of(stream, examples)


def _project(
    x: Float[Tensor, "row d_model"],
    weight: Float[Tensor, "d_model kind head d_head"],
    bias: Float[Tensor, "kind head d_head"],
) -> Float[Tensor, "row kind head d_head"]:
    """One matrix multiplication for some of queries, keys and values."""
    flat = torch.nn.functional.linear(x, weight.flatten(1).T, bias.flatten())
    return flat.reshape(len(x), *bias.shape)
