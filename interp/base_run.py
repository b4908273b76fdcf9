"""A run to branch from, and the edits that branches make.

The base run is computed once, with everything that a later edit needs: the residual stream before
and inside each block, queries, keys, values and what the heads read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import HookError, PromptError
from interp.metrics import Metric
from interp.model.formula import at_least_float32, hides_a_key
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import block_name, full_name, hooks_are_requested
from interp.model.key_values import KeyValueCache
from interp.model.running import Resid, positions_in
from interp.model.tokens import TokenBatch

Point = Literal[
    "resid_pre", "q", "k", "v", "z", "attn_out", "resid_mid", "mlp_out", "resid_post"
]  # fmt: skip
"""What can be edited, in the order in which a block computes it."""


@dataclass(frozen=True)
class Edit:
    """One value that is replaced, at the same positions of several examples."""

    point: Point
    layer: int
    positions: tuple[int, ...]
    """Ascending."""
    values: Float[Tensor, "example pos width"]
    """What is put there; width is d_model, or d_head at q, k, v and z."""
    head: int | None = None
    """At q, k, v and z."""


class Part(NamedTuple):
    """A branch on examples whose metric reads the same positions."""

    cell: int
    examples: tuple[int, ...]
    start: int
    reads: tuple[int, ...]
    """Positions that the metric reads, ascending."""
    edits: tuple[Edit, ...]

    @property
    def first_layer(self) -> int:
        """Where it begins; edits are in order."""
        return self.edits[0].layer

    @property
    def n_rows(self) -> int:
        """Positions computed in a layer, for each example."""
        return self.reads[-1] + 1 - self.start

    def of(self, chosen: slice) -> "Part":
        """The same for some of the examples."""
        edits = tuple(
            Edit(e.point, e.layer, e.positions, e.values[chosen], e.head) for e in self.edits
        )
        return self._replace(examples=self.examples[chosen], edits=edits)


class BaseRun:
    """A run to branch from: all that its layers read, and the metric of it.

    Args:
        batch: Prompts padded on the right.
        stream: The residual stream to start from, instead of the prompts' embeddings.

    Raises:
        HookError: inside a `model.hooks` block, whose hooks branches would not see.
        PromptError: the metric of the run is not finite (names the examples); padding on the left.
    """

    @torch.no_grad()
    def __init__(
        self, model: HookedGPT2, batch: TokenBatch, metric: Metric, stream: Resid | None = None
    ) -> None:
        if hooks_are_requested(model):
            raise HookError(
                "A sweep makes its own edits of the model as it is. Leave the model.hooks block."
            )
        if hides_a_key(batch.attention_mask):
            raise PromptError("Prompts of a sweep are padded on the right, as model.as_batch does.")
        self.model, self.batch, self.metric = model, batch, metric
        n_layers = model.cfg.n_layers
        kinds = ("hook_resid_pre", "hook_resid_mid", *(f"attn.hook_{x}" for x in "qkvz"))
        names = [f"blocks.{layer}.{kind}" for layer in range(n_layers) for kind in kinds]
        last = f"blocks.{n_layers - 1}.hook_resid_post"
        _, cache = model.run_with_cache(
            batch if stream is None else stream,
            names_filter=[*names, last],
            return_type=None,
            start_at_layer=None if stream is None else 0,
        )
        self.streams = [cache["resid_pre", layer] for layer in range(n_layers)] + [cache[last]]
        """The residual stream before each layer, and after the last."""
        self.mids = [cache["resid_mid", layer] for layer in range(n_layers)]
        """The stream between attention and MLP of each layer."""
        self.q, self.k, self.v, self.z = (
            [cache[letter, layer] for layer in range(n_layers)] for letter in "qkvz"
        )
        self.reads = positions_in(batch, metric.positions)
        """Positions that the metric reads: `example chosen`."""
        self.read_sets = [tuple(sorted(set(row))) for row in self.reads.tolist()]
        """The same per example, ascending and once each."""
        everyone = torch.arange(len(batch.tokens), device=model.cfg.device)
        rows = self.streams[-1][everyone[:, None], self.reads]
        self.value = self.metric_of(rows, everyone)
        """The metric of the run itself, per example."""
        wrong = (~self.value.isfinite()).nonzero().flatten().tolist()
        if wrong:
            raise PromptError(f"The metric {metric.name} is not finite in examples {wrong[:5]}.")

    @torch.no_grad()
    def run_other(
        self, batch: TokenBatch, site: str, n_shared: int
    ) -> tuple[Float[Tensor, " example"], list[Tensor]]:
        """Run other prompts, which begin with the same tokens.

        Args:
            batch: As long as this run's prompts, example by example.
            site: Hook point whose values are wanted.
            n_shared: Positions that are the same in both runs. They are not computed again.

        Returns:
            The metric, and the values of each layer at all positions; zeros at shared ones.
        """
        layers = range(self.model.cfg.n_layers)
        last = block_name(layers[-1], "hook_resid_post")
        past = KeyValueCache.of_layers(self.k, self.v, n_shared) if n_shared else None
        own = TokenBatch(batch.tokens[:, n_shared:], batch.attention_mask[:, n_shared:])
        names = [full_name(site, layer) for layer in layers]
        _, cache = self.model.run_with_cache(
            own, names_filter=[*names, last], return_type=None, past_kv_cache=past
        )
        stream = torch.cat([self.streams[-1][:, :n_shared], cache[last]], dim=1)
        everyone = torch.arange(len(stream), device=stream.device)
        value = self.metric_of(stream[everyone[:, None], self.reads], everyone)
        return value, [_padded(cache[name], site, n_shared) for name in names]

    def metric_of(
        self, stream: Float[Tensor, "batch chosen d_model"], examples: Int[Tensor, " batch"]
    ) -> Float[Tensor, " batch"]:
        """The metric, from the final residual stream at the positions that it reads."""
        unembed, metric = self.model.unembed, self.metric.of_examples(examples)
        normalized = self.model.ln_final(stream)
        ids = metric.vocab_ids
        if ids is None:
            return metric.of_read(at_least_float32(unembed(normalized)))
        _check_vocabulary(ids, unembed.weight.shape[0])
        ids = ids.to(stream.device).expand(len(stream), -1)
        read = einsum(
            normalized, unembed.weight[ids], "b chosen d_model, b read d_model -> b chosen read"
        )
        if unembed.b_U is not None:
            read = read + unembed.b_U[ids][:, None]
        return metric.of_read(at_least_float32(read))


def rows_at(
    value: Float[Tensor, "example pos *width"],
    examples: Sequence[int] | Int[Tensor, " chosen"],
    positions: Sequence[int],
) -> Float[Tensor, "chosen chosen_pos *width"]:
    """A copy of some positions of some examples, and of nothing else."""
    rows = torch.as_tensor(examples, dtype=torch.long, device=value.device)
    columns = torch.tensor(list(positions), dtype=torch.long, device=value.device)
    return value[rows[:, None], columns]


def _padded(value: Tensor, site: str, n_shared: int) -> Tensor:
    """Zeros before a value's positions (a pattern's queries)."""
    axis = 2 if site == "pattern" else 1
    shape = list(value.shape)
    shape[axis] = n_shared
    return torch.cat([value.new_zeros(shape), value], dim=axis)


def _check_vocabulary(ids: Int[Tensor, "batch read"], n_logits: int) -> None:
    if int(ids.max()) >= n_logits:
        raise PromptError(f"The metric reads token {int(ids.max())}; the model has {n_logits}.")
