"""Direct logit attribution: what each part of the model adds to an answer's logit by itself.

A metric that is linear in the logits, such as a logit difference, reads the final residual stream
along one direction. That stream is a sum of what embeddings, heads, MLPs and biases wrote into it,
so the metric is a sum with the same terms:

    metric = Σ component · direction / scale + constants
    direction = centred(w · W_U weights)

The final LayerNorm's scale is frozen at the run's value; removing the mean is a projection, applied
to the direction once. W_O is multiplied by the direction before it meets any activation, and every
value is reduced to what the metric reads while the model runs: no head's d_model vector exists.

These are direct effects: what a head does through later layers counts as those layers'. Whether the
answer depends on a head is a question for `interp.patching` and `interp.ablation`.
Sources: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits" (direct paths);
Wang et al. 2022, arXiv:2211.00593 (logit difference).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
import torch
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import PromptError
from interp.metrics import Metric
from interp.model.cache import ActivationCache
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, HookFunction, block_name, select_names
from interp.model.running import positions_in
from interp.model.tokens import Prompt, TokenBatch
from interp.results import provenance, token_names

NONE = -1
"""Layer or head of a component that has none."""
SCALE, NORMALIZED = "ln_final.hook_scale", "ln_final.hook_normalized"


@torch.no_grad()
def decompose(
    model: HookedGPT2, tokens: Prompt, metric: Metric, *, cache: ActivationCache | None = None
) -> xr.DataArray:
    """The metric as a sum over components, and over the positions that they read from.

    A head's part is split by the key positions whose values it moved, A v W_O · direction; all else
    stands at the position where the metric reads. `da.sum("pos")` is the attribution as it is
    usually shown, `da.sum(["component", "pos"])` the metric. A bias is a component of its own: the
    heads of layer 0 and "L0 attn bias" make up its attn_out, "L0 MLP" and "L0 MLP bias" its
    mlp_out.

    Args:
        metric: `logit_diff`, `logit`, or another one with `weights`, of one position per prompt.
        cache: Of a run on these tokens, if there is one already; otherwise the model runs.

    Returns:
        Over (`component`, `pos`, `example`), in the metric's unit. `component` is a name ("L1H2"),
        with coordinates to select by: `kind` (embed, pos_embed, head, attn_bias, mlp, mlp_bias,
        final_bias, unembed_bias, residue), `layer` and `head` (-1: none). "residue" is the metric
        minus all other parts: rounding, and what hooks wrote into the stream. Padding and keys that
        a head does not see contribute 0. `read` is the position where the metric reads.

    Raises:
        PromptError: the metric is not linear in the logits, or reads several positions; the cache
            is of other tokens.
        UnknownHookError: the cache lacks a value.
    """
    reading = Reading.of(model, tokens, metric)
    folded = [reading.along(block.attn.W_O) for block in model.blocks]
    by_key: dict[int, Float[Tensor, "head key_pos example"]] = {}

    def reduce_values(v: Tensor, hook: Hook) -> None:
        equation = "example key head d_head, example head d_head -> head key example"
        by_key[hook.layer()] = einsum(at_least_float32(v), folded[hook.layer()], equation)

    def weigh(pattern: Tensor, hook: Hook) -> None:
        row = reading.here(rearrange(pattern, "example head query key -> example query head key"))
        by_key[hook.layer()] *= rearrange(row, "example head key -> head key example")

    value = reading.run(
        ["hook_embed", "hook_pos_embed", "blocks.*.attn.hook_z", "blocks.*.hook_mlp_out"],
        [("blocks.*.attn.hook_v", reduce_values), ("blocks.*.attn.hook_pattern", weigh)],
        cache,
    )
    totals = torch.stack(
        [x / reading.scale for x in _written(model, reading, folded)]
        + [reading.final_bias, reading.unembed_bias, torch.zeros_like(value)]
    )
    heads = torch.cat([by_key[layer] for layer in range(model.cfg.n_layers)])
    labels = _labels(model)
    is_head = torch.tensor([kind == "head" for _, kind, _, _ in labels])
    # In float64, in which the parts of a float32 run add up without rounding of their own.
    parts = torch.zeros(len(labels), heads.shape[1], len(value), dtype=torch.float64)
    parts[is_head] = (heads / reading.scale).cpu().double()
    here = (reading.position.cpu(), torch.arange(len(value)))
    parts[:, *here] += totals.cpu().double() - parts.sum(dim=1)
    parts[-1, *here] = value.cpu().double() - parts.sum(dim=(0, 1))
    return _labelled(model, reading, labels, parts)


@torch.no_grad()
def neurons(
    model: HookedGPT2, tokens: Prompt, metric: Metric, *, cache: ActivationCache | None = None
) -> xr.DataArray:
    """What each MLP neuron adds to the metric: its activation times W_out · direction.

    Args:
        metric, cache: As in `decompose`.

    Returns:
        Over (`layer`, `neuron`, `example`), in the metric's unit, with the coordinate `activation`
        (after the activation function, at the position that is read); the neurons of a layer sum to
        its "MLP" component in `decompose`.

    Raises:
        PromptError, UnknownHookError: as in `decompose`.
    """
    reading = Reading.of(model, tokens, metric)
    reading.run(["blocks.*.mlp.hook_post"], cache=cache)
    dims = ("layer", "neuron", "example")
    posts = [
        reading.rows[block_name(layer, "mlp.hook_post")] for layer in range(model.cfg.n_layers)
    ]
    parts = [
        post * reading.along(block.mlp.W_out) / reading.scale[:, None]
        for post, block in zip(posts, model.blocks, strict=True)
    ]
    contribution, activation = (
        rearrange(layers, "layer example neuron -> layer neuron example").numpy(force=True)
        for layers in (parts, posts)
    )
    return xr.DataArray(
        contribution,
        dims=dims,
        coords={
            "layer": range(model.cfg.n_layers),
            "neuron": range(model.cfg.d_mlp),
            "activation": (dims, activation),
            "read": ("example", reading.position.cpu()),
        },
        attrs=reading.attrs(),
        name="contribution",
    )


def both_ends(contributions: pd.Series, n: int) -> pd.Series:
    """The `n` largest and the `n` smallest numbers, largest first; all where they overlap."""
    ordered = contributions.sort_values(ascending=False, kind="stable")
    return pd.concat([ordered.iloc[:n], ordered.iloc[max(n, len(ordered) - n) :]])


def by_part(da: xr.DataArray) -> xr.DataArray:
    """A decomposition in few parts, in the order of the model, with the same sum.

    Args:
        da: As of `decompose`.

    Returns:
        The same with `part` in place of `component`: "embed", "pos_embed", "L0 heads", "L0 MLP" and
        so on; "attention biases" and "MLP biases" of all layers; the final biases; "residue".
    """
    biases = {"attn_bias": "attention biases", "mlp_bias": "MLP biases"}
    columns = (da[name].values.tolist() for name in ("component", "kind", "layer"))
    members: dict[str, list[str]] = {}
    for component, kind, layer in zip(*columns, strict=True):
        part = f"L{layer} heads" if kind == "head" else biases.get(kind, str(component))
        members.setdefault(part, []).append(component)
    last = [name for name in members if name in biases.values()]
    last += da["component"].values[-3:].tolist()
    order = [name for name in members if name not in last] + last
    sums = [da.sel(component=members[name]).sum("component", keep_attrs=True) for name in order]
    return xr.concat(sums, dim="part").assign_coords(part=order)


@dataclass(frozen=True)
class Reading:
    """Where, and along which direction, a linear metric reads a run; and what it finds there."""

    model: HookedGPT2
    batch: TokenBatch
    metric: Metric
    position: Int[Tensor, " example"]
    columns: Float[Tensor, "example read d_model"]
    """Of W_U: those of the tokens that the metric weighs."""
    b_U: Float[Tensor, "example read"]
    """The unembedding's bias at these tokens; zeros where there is none."""
    rows: dict[str, Tensor] = field(default_factory=dict)
    """Values of a run at `position`, by hook name: `example ...`."""

    @classmethod
    def of(cls, model: HookedGPT2, tokens: Prompt, metric: Metric) -> "Reading":
        """Check the metric, and gather what it reads of the weights."""
        batch = model.as_batch(tokens)
        ids = _linear_ids(metric, len(batch.tokens)).to(model.cfg.device)
        columns = model.tokens_to_residual_directions(ids).reshape(*ids.shape, -1)
        b_U = model.unembed.b_U
        biases = torch.zeros_like(columns[..., 0]) if b_U is None else b_U[ids]
        position = _read_position(batch, metric)
        return cls(
            model, batch, metric, position, at_least_float32(columns), at_least_float32(biases)
        )

    @property
    def weights(self) -> Float[Tensor, " read"]:
        """Of the logits in the metric."""
        return self.columns.new_tensor(self.metric.weights)

    @cached_property
    def direction(self) -> Float[Tensor, "example d_model"]:
        """In the residual stream: with the final LayerNorm's weight and centring, not its scale."""
        weighted = self._unembedded * self.model.ln_final.w
        return weighted - weighted.mean(dim=-1, keepdim=True)

    @cached_property
    def _unembedded(self) -> Float[Tensor, "example d_model"]:
        """The direction in what the final LayerNorm gives out."""
        equation = "example read d_model, read -> example d_model"
        return einsum(self.columns, self.weights, equation)

    @property
    def final_bias(self) -> Float[Tensor, " example"]:
        """The part of the final LayerNorm's bias."""
        return self._unembedded @ at_least_float32(self.model.ln_final.b)

    @property
    def unembed_bias(self) -> Float[Tensor, " example"]:
        """The part of the unembedding's bias."""
        return self.b_U @ self.weights

    def along(self, weight: Float[Tensor, "... d_model"]) -> Float[Tensor, "example ..."]:
        """What is written along the direction, before the final LayerNorm's scale."""
        return einsum(
            self.direction, at_least_float32(weight), "example d_model, ... d_model -> example ..."
        )

    def here(self, value: Float[Tensor, "example pos ..."]) -> Float[Tensor, "example ..."]:
        """A value at the position that the metric reads."""
        examples = torch.arange(len(value), device=value.device)
        return at_least_float32(value[examples, self.position])

    def run(
        self,
        names: Sequence[str],
        hooks: Sequence[tuple[str, HookFunction]] = (),
        cache: ActivationCache | None = None,
    ) -> Float[Tensor, " example"]:
        """The metric, with `rows` of these values kept, and hooks that look at the whole of others.

        Args:
            cache: Looked at instead of a new run.
        """

        def keep(value: Tensor, hook: Hook) -> None:
            self.rows[hook.name] = self.here(value)

        hooks = [*hooks, *((name, keep) for name in (*names, SCALE, NORMALIZED))]
        if cache is None:
            self.model.run_with_hooks(self.batch, hooks, return_type=None)
        else:
            _check_cache(cache, self.model, self.batch)
            for pattern, look in hooks:
                for name in select_names(pattern, self.model.cfg.n_layers):
                    look(cache[name], Hook(name))
        final = self.model.ln_final
        normalized = self.rows[NORMALIZED] * final.w + final.b
        logits = einsum(normalized, self.columns, "example d, example read d -> example read")
        return self.metric.of_read((logits + self.b_U)[:, None])

    @property
    def scale(self) -> Float[Tensor, " example"]:
        """The final LayerNorm's scale in the run."""
        return self.rows[SCALE][:, 0]

    def attrs(self) -> dict[str, str]:
        """What a result says about itself."""
        return {"metric": self.metric.name, "unit": self.metric.unit, **provenance(self.model)}


def _check_cache(cache: ActivationCache, model: HookedGPT2, batch: TokenBatch) -> None:
    expected = model.embed(batch.tokens)
    if not torch.equal(cache["hook_embed"], expected):
        raise PromptError(
            "The cache is not of these tokens: its hook_embed must hold their embeddings, "
            f"{list(expected.shape)}. Pass the tokens that it was made with, or no cache."
        )


def _linear_ids(metric: Metric, n_examples: int) -> Int[Tensor, "example read"]:
    """The tokens that a metric weighs, one row per example."""
    ids = metric.vocab_ids
    if metric.weights is None or ids is None:
        raise PromptError(
            f"Direct attribution splits a weighted sum of logits, and {metric.name} is none. Use "
            "metrics.logit_diff or metrics.logit; for other metrics, interp.patching or "
            "interp.gradients."
        )
    if len(ids) not in (1, n_examples):
        raise PromptError(f"The metric has answers for {len(ids)} examples, not {n_examples}.")
    return ids.expand(n_examples, -1)


def _read_position(batch: TokenBatch, metric: Metric) -> Int[Tensor, " example"]:
    chosen = positions_in(batch, metric.positions)
    if metric.positions is None or chosen.shape[1] != 1:
        raise PromptError(
            f"Direct attribution reads one position of each prompt; {metric.name} reads "
            f'{chosen.shape[1]}. Say which: positions="last", a number, or a number for each.'
        )
    return chosen[:, 0]


def _written(
    model: HookedGPT2, reading: Reading, folded: Sequence[Float[Tensor, "example head d_head"]]
) -> list[Float[Tensor, " example"]]:
    """What each component wrote along the direction, in the order of `_labels`."""
    rows, direction = reading.rows, reading.direction
    parts = [(rows[name] * direction).sum(dim=-1) for name in ("hook_embed", "hook_pos_embed")]
    for layer, block in enumerate(model.blocks):
        z, mlp_out = (rows[block_name(layer, x)] for x in ("attn.hook_z", "hook_mlp_out"))
        mlp_bias = reading.along(block.mlp.b_out)
        parts += (z * folded[layer]).sum(dim=-1).unbind(dim=1)
        parts.append(reading.along(block.attn.b_O))
        parts += [(mlp_out * direction).sum(dim=-1) - mlp_bias, mlp_bias]
    return parts


def _labels(model: HookedGPT2) -> list[tuple[str, str, int, int]]:
    """Name, kind, layer and head of each component."""
    labels = [(name, name, NONE, NONE) for name in ("embed", "pos_embed")]
    for layer in range(model.cfg.n_layers):
        heads = range(model.cfg.n_heads)
        labels += [(f"L{layer}H{head}", "head", layer, head) for head in heads]
        labels += [
            (f"L{layer} attn bias", "attn_bias", layer, NONE),
            (f"L{layer} MLP", "mlp", layer, NONE),
            (f"L{layer} MLP bias", "mlp_bias", layer, NONE),
        ]
    last = {
        "final LayerNorm bias": "final_bias",
        "unembedding bias": "unembed_bias",
        "residue": "residue",
    }
    return labels + [(name, kind, NONE, NONE) for name, kind in last.items()]


def _labelled(
    model: HookedGPT2,
    reading: Reading,
    labels: Sequence[tuple[str, str, int, int]],
    parts: Float[Tensor, "component pos example"],
) -> xr.DataArray:
    axes = ("component", "kind", "layer", "head")
    columns = dict(zip(axes, zip(*labels, strict=True), strict=True))
    return xr.DataArray(
        parts.numpy(),
        dims=("component", "pos", "example"),
        coords={
            **{name: ("component", list(column)) for name, column in columns.items()},
            "pos": range(parts.shape[1]),
            "token": (("example", "pos"), token_names(model, reading.batch)),
            "read": ("example", reading.position.cpu()),
        },
        attrs=reading.attrs(),
        name="contribution",
    )
