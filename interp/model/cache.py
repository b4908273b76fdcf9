"""The activations of one forward pass, by name, and the views that are derived from them.

The cache owns its data: hooks edit copies, so no later edit reaches a stored tensor. It knows the
model only weakly (the views that need weights ask for it), so a cache never keeps a model alive.
What follows exactly from stored values (scores and pattern from q and k, LayerNorm scales from
the residual stream, the MLP's output of the non-linearity) is computed when somebody looks.
"""

import json
import weakref
from collections.abc import Collection, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import CacheError, UnknownHookError
from interp.model import formula
from interp.model.config import ModelConfig
from interp.model.hooks import (
    POINT_BY_NAME,
    axes_of,
    block_name,
    full_name,
    hook_names,
    resolve_name,
    split_name,
)

Index = int | slice | tuple[int, ...] | list[int] | Int[Tensor, " index"] | None
"""What is taken along an axis: one, a slice, (start, stop), a list of indices, or all (`None`)."""
CacheKey = str | tuple[str, int] | tuple[str, int, str | None]
KeyMask = Bool[Tensor, "batch key_pos"]

SOURCES = {
    "ln1.hook_scale": ("hook_resid_pre",),
    "ln1.hook_normalized": ("hook_resid_pre", "ln1.hook_scale"),
    "attn.hook_attn_scores": ("attn.hook_q", "attn.hook_k"),
    "attn.hook_pattern": ("attn.hook_attn_scores",),
    "hook_mlp_in": ("hook_resid_mid",),
    "ln2.hook_scale": ("hook_mlp_in",),
    "ln2.hook_normalized": ("hook_mlp_in", "ln2.hook_scale"),
    "mlp.hook_post": ("mlp.hook_pre",),
    "ln_final.hook_scale": ("hook_resid_post",),
    "ln_final.hook_normalized": ("hook_resid_post", "ln_final.hook_scale"),
}
"""Points that need not be stored, and the values that each is computed from."""


def primary_names(n_layers: int) -> list[str]:
    """The default hook points that do not follow from the others."""
    return [name for name in hook_names(n_layers) if split_name(name)[1] not in SOURCES]


def attention_names(n_layers: int) -> set[str]:
    """Scores and patterns: with a prefix, they do not follow from the run's own q and k."""
    kinds = ("attn.hook_attn_scores", "attn.hook_pattern")
    return {block_name(layer, kind) for layer in range(n_layers) for kind in kinds}


class ActivationCache(Mapping[str, Tensor]):
    """Activations by full name (`cache["blocks.3.attn.hook_pattern"]`) or short (`cache["pattern", 3]`).

    Negative layers count from the end. Shapes are in `interp.model.hooks`.

    Args:
        stored: Values by full name, each with its batch axis; `<name>_grad` holds gradients.
        key_mask: False at keys that no query may read (padding); `None` if causality is enough.
        has_batch_dim: Whether values are given out with their batch axis.
        model: The model that made it, for views that need weights; held weakly.
        underivable: Points whose value in this run does not follow from others: a hook edited
            them, or (scores and patterns) keys of a prefix were read.
    """  # noqa: E501

    def __init__(
        self,
        stored: Mapping[str, Tensor],
        cfg: ModelConfig,
        *,
        key_mask: KeyMask | None = None,
        has_batch_dim: bool = True,
        model: object | None = None,
        underivable: Collection[str] = (),
    ) -> None:
        self.cfg = cfg
        self.has_batch_dim = has_batch_dim
        self._stored = dict(stored)
        self._key_mask = key_mask
        self._underivable = frozenset(underivable)
        self._model: weakref.ref[Any] | None = weakref.ref(model) if model is not None else None

    # Reading

    def __getitem__(self, key: CacheKey) -> Tensor:
        name = self._resolve(key)
        value = self._with_batch(name)
        return value if self.has_batch_dim else value[0]

    def _resolve(self, key: CacheKey) -> str:
        short, layer = (key, None) if isinstance(key, str) else key[:2]
        sublayer = key[2] if isinstance(key, tuple) and len(key) == 3 else None
        if layer is not None and layer < 0:
            layer += self.cfg.n_layers
        name = full_name(short, layer, sublayer)
        suffix = "_grad" if name.endswith("_grad") else ""
        name = resolve_name(name.removesuffix("_grad"), self.cfg.n_layers) + suffix
        if not self._available(name):
            shown = ", ".join(list(self._stored)[:6])
            edited = " A hook edited it in this run." if name in self._underivable else ""
            raise UnknownHookError(
                f"{name!r} is not in this cache of {len(self._stored)} values ({shown}, ...)."
                f"{edited} Ask for it in names_filter."
            )
        return name

    def _sources(self, name: str) -> list[str]:
        """Full names of what a derived value is computed from."""
        layer, kind = split_name(name)
        layer = self.cfg.n_layers - 1 if layer is None else layer
        return [
            block_name(layer, source) if POINT_BY_NAME[source].in_block else source
            for source in SOURCES.get(kind, ())
        ]

    def _available(self, name: str) -> bool:
        if name in self._stored:
            return True
        sources = self._sources(name) if name not in self._underivable else []
        return bool(sources) and all(map(self._available, sources))

    def _with_batch(self, name: str) -> Tensor:
        return self._stored[name] if name in self._stored else self._derive(name)

    def _derive(self, name: str) -> Tensor:
        """Compute a value that follows from stored ones (or from ones that do)."""
        layer, kind = split_name(name)
        x, *others = map(self._with_batch, self._sources(name))
        if kind.endswith("hook_scale"):
            return formula.layer_norm_scale(x, self.cfg.eps)
        if kind.endswith("hook_normalized"):
            return formula.layer_norm_normalized(x, *others)
        if kind == "attn.hook_attn_scores":
            assert layer is not None
            return self._scores(x, others[0], layer)
        if kind == "attn.hook_pattern":
            pattern = formula.attention_pattern(x)
            return pattern.to(self.cfg.dtype) if self.cfg.reorder_and_upcast_attn else pattern
        return formula.activation(self.cfg.act_fn)(x) if kind == "mlp.hook_post" else x

    def _scores(self, q: Tensor, k: Tensor, layer: int) -> Tensor:
        if self.cfg.reorder_and_upcast_attn:
            q, k = formula.at_least_float32(q), formula.at_least_float32(k)
        mask = self._key_mask
        if mask is None:
            mask = torch.ones(1, k.shape[1], dtype=torch.bool, device=k.device)
        allowed = formula.allowed_keys(q.shape[1], mask)
        return formula.attention_scores(q, k, self.cfg.score_factor(layer), allowed)

    def __iter__(self) -> Iterator[str]:
        known = hook_names(self.cfg.n_layers, optional=True)
        yield from filter(self._available, known)
        yield from (name for name in self._stored if name.endswith("_grad"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        rows = [f"  {name}  {shape}  {mib:.2f} MiB" for name, shape, mib in self._table()]
        total = sum(mib for _, _, mib in self._table())
        derived = len(self) - len(self._stored)
        head = f"ActivationCache: {len(rows)} stored values, {total:.1f} MiB"
        return "\n".join([f"{head}; {derived} more derived on reading", *rows])

    def _repr_html_(self) -> str:
        cells = (
            f"<tr><td><code>{escape(name)}</code></td><td>{escape(shape)}</td><td>{mib:.2f}</td></tr>"
            for name, shape, mib in self._table()
        )
        header = "<tr><th>name</th><th>shape</th><th>MiB</th></tr>"
        return f"<table>{header}{''.join(cells)}</table>"

    def _table(self) -> list[tuple[str, str, float]]:
        """Name, shape with axis names, and size of each stored value."""
        return [
            (
                name,
                ", ".join(f"{a} {n}" for a, n in zip(axes_of(name), x.shape, strict=True)),
                x.nbytes / 2**20,
            )
            for name, x in self._stored.items()
        ]

    # Slicing, moving, saving

    def slice(
        self, *, batch: Index = None, pos: Index = None, head: Index = None
    ) -> "ActivationCache":
        """A new cache with parts of the axes; the tensors are copies.

        Args:
            batch: Examples. An int drops the batch axis.
            pos: Positions; of scores and patterns the queries, keys stay whole.
            head: Heads; values without a head axis are unchanged.
        """
        asked = {"batch": batch, "pos": pos, "query_pos": pos, "head": head}
        wanted = {axis: _as_slice(index) for axis, index in asked.items() if index is not None}
        lazily = pos is None and head is None
        names = list(self._stored) if lazily else list(self)
        values = {name: _take(self._with_batch(name), axes_of(name), wanted) for name in names}
        mask = self._key_mask
        if mask is not None and batch is not None and len(mask) > 1:
            mask = mask[wanted["batch"]]
        return self._like(values, mask, self.has_batch_dim and not isinstance(batch, int))

    def _like(
        self, values: Mapping[str, Tensor], mask: KeyMask | None, has_batch_dim: bool
    ) -> "ActivationCache":
        model = self._model() if self._model else None
        return ActivationCache(
            values,
            self.cfg,
            key_mask=mask,
            has_batch_dim=has_batch_dim,
            model=model,
            underivable=self._underivable,
        )

    def remove_batch_dim(self) -> "ActivationCache":
        """Give values out without the batch axis; an error if there is more than one example."""
        sizes = {len(value) for value in self._stored.values()}
        if sizes != {1}:
            raise CacheError(f"Only a batch of 1 can lose its axis; this one has {max(sizes)}.")
        return self._like(self._stored, self._key_mask, has_batch_dim=False)

    def to(
        self, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> "ActivationCache":
        """A new cache on another device or in another floating-point type."""
        values = {
            name: value.to(device=device, dtype=dtype) for name, value in self._stored.items()
        }
        mask = self._key_mask.to(device) if self._key_mask is not None else None
        return self._like(values, mask, self.has_batch_dim)

    def save(self, path: str | Path) -> None:
        """Write the stored values (and the padding mask) as safetensors."""
        tensors = {name: value.contiguous().clone() for name, value in self._stored.items()}
        if self._key_mask is not None:
            tensors["key_mask"] = self._key_mask
        partial = Path(path).with_suffix(".partial")
        about = {"has_batch_dim": self.has_batch_dim, "underivable": sorted(self._underivable)}
        save_file(tensors, partial, metadata={"activation_cache": json.dumps(about)})
        partial.replace(path)

    @classmethod
    def load(cls, path: str | Path, cfg: ModelConfig) -> "ActivationCache":
        """Read a saved cache; `cfg` is the configuration of the model that made it.

        Raises:
            CacheError: the file was not written by `save`, or by a model with more layers.
        """
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {}).get("activation_cache")
            if about is None:
                raise CacheError(f"{path} was not written by ActivationCache.save.")
            values = {name: file.get_tensor(name) for name in list(file.keys())}
        mask = values.pop("key_mask", None)
        for name in values:
            resolve_name(name.removesuffix("_grad"), cfg.n_layers)
        return cls(values, cfg, key_mask=mask, **json.loads(about))

    # Views of the residual stream, with TransformerLens' meaning

    @property
    def model(self):
        """The model that made this cache, if it still exists."""
        model = self._model() if self._model else None
        if model is None:
            raise CacheError(
                "This view needs the weights of the model that made the cache, and that model is "
                "gone (or the cache was loaded from a file). Keep the model in a variable."
            )
        return model

    def _layer(self, layer: int | None) -> int:
        return self.cfg.n_layers if layer is None or layer == -1 else layer

    def _resid(self, layer: int) -> Tensor:
        at_end = layer == self.cfg.n_layers
        return self["resid_post", layer - 1] if at_end else self["resid_pre", layer]

    def accumulated_resid(
        self,
        layer: int | None = None,
        *,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Index = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """The residual stream before each layer up to `layer`, stacked: `component batch pos d_model`.

        Args:
            layer: Last layer; `None` or -1 for the stream just before the final LayerNorm.
            incl_mid: Also between attention and MLP.
            apply_ln: Apply the LayerNorm that reads at `layer`, to each with its own statistics
                when that is the final one (the logit lens).
            mlp_input: Stop at the MLP's input of `layer`.
        """  # noqa: E501
        last = self._layer(layer)
        values, labels = [], []
        for index in range(last + 1):
            values.append(self._resid(index))
            labels.append("final_post" if index == self.cfg.n_layers else f"{index}_pre")
            if (incl_mid and index < last) or (mlp_input and index == last):
                values.append(self["resid_mid", index])
                labels.append(f"{index}_mid")
        stack = torch.stack([_positions(value, pos_slice, -2) for value in values])
        if apply_ln and last == self.cfg.n_layers:
            stack = self.model.ln_final(stack)
        elif apply_ln:
            stack = self.apply_ln_to_stack(stack, last, mlp_input=mlp_input, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        *,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Index = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """What was written into the stream before `layer`: `component batch pos d_model`.

        Args:
            mode: "all", "attn" or "mlp": which layers' outputs.
            incl_embeds: Begin with token and position embeddings.
        """
        last = self._layer(layer)
        labels = ["embed", "pos_embed"] if incl_embeds else []
        kinds = {"all": ("attn_out", "mlp_out"), "attn": ("attn_out",), "mlp": ("mlp_out",)}[mode]
        labels += [f"{index}_{kind}" for index in range(last) for kind in kinds]
        if mlp_input and mode != "mlp":
            labels.append(f"{last}_attn_out")
        values = []
        for label in labels:
            index, _, kind = label.partition("_")
            values.append(self[kind, int(index)] if index.isdigit() else self[f"hook_{label}"])
        stack = torch.stack([_positions(value, pos_slice, -2) for value in values])
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, mlp_input=mlp_input, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def stack_head_results(
        self,
        layer: int | None = -1,
        *,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Index = None,
        apply_ln: bool = False,
    ) -> Tensor | tuple[Tensor, list[str]]:
        """Each head's contribution z W_O before `layer`: `component batch pos d_model`.

        Args:
            incl_remainder: Add everything that is not a head, so that the parts sum to the stream.
        """
        last = self._layer(layer)
        heads = [self._head_results(index, pos_slice) for index in range(last)]
        stream = _positions(self._resid(last), pos_slice, -2)
        stack = torch.cat(heads) if heads else stream.new_zeros(0, *stream.shape)
        labels = [f"L{index}H{head}" for index in range(last) for head in range(self.cfg.n_heads)]
        if incl_remainder:
            stack = torch.cat([stack, (stream - stack.sum(dim=0))[None]])
            labels.append("remainder")
        if apply_ln:
            stack = self.apply_ln_to_stack(stack, last, pos_slice=pos_slice)
        return (stack, labels) if return_labels else stack

    def _head_results(self, layer: int, pos_slice: Index) -> Tensor:
        name = block_name(layer, "attn.hook_result")
        if name in self._stored:
            result = _positions(self[name], pos_slice, -3)
            return rearrange(result, "... head d_model -> head ... d_model")
        z = _positions(self["z", layer], pos_slice, -3)
        W_O = self.model.blocks[layer].attn.W_O
        return einsum(z, W_O, "... head d_head, head d_head d_model -> head ... d_model")

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "component *batch_pos d_model"],
        layer: int | None = None,
        *,
        mlp_input: bool = False,
        pos_slice: Index = None,
        batch_slice: Index = None,
    ) -> Float[Tensor, "component *chosen d_model"]:
        """Divide parts of the stream by the scale of the whole: the LayerNorm as a linear map.

        The scale is frozen at this run's; the weight is applied, the bias belongs to no part.
        With folded LayerNorms this is TransformerLens' method; on raw weights it is exact too.
        """
        last = self._layer(layer)
        model = self.model
        if last == self.cfg.n_layers:
            norm, scale = model.ln_final, self["ln_final.hook_scale"]
        else:
            which = "ln2" if mlp_input else "ln1"
            norm, scale = getattr(model.blocks[last], which), self["scale", last, which]
        scale = _positions(scale, pos_slice, -2)
        if self.has_batch_dim and batch_slice is not None:
            residual_stack = residual_stack[:, _as_index(batch_slice)]
            scale = scale[_as_index(batch_slice)]
        return formula.layer_norm_normalized(residual_stack, scale) * norm.w

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "component *batch_pos d_model"],
        tokens: str | int | Int[Tensor, "..."],
        incorrect_tokens: str | int | Int[Tensor, "..."] | None = None,
        *,
        pos_slice: Index = None,
        batch_slice: Index = None,
        has_batch_dim: bool = True,
    ) -> Float[Tensor, "component ..."]:
        """What each part of the final stream adds to a token's logit (or a difference of two).

        Direct logit attribution with the final LayerNorm's scale frozen. The parts of a complete
        decomposition sum to the logit, less the LayerNorm bias's and the unembedding bias's share.
        """
        direction = self.model.tokens_to_residual_directions(tokens)
        if incorrect_tokens is not None:
            other = self.model.tokens_to_residual_directions(incorrect_tokens)
            if other.shape != direction.shape:
                raise CacheError(
                    f"tokens and incorrect_tokens differ in shape: {tuple(direction.shape[:-1])} "
                    f"and {tuple(other.shape[:-1])}."
                )
            direction = direction - other
        scaled = self.apply_ln_to_stack(
            residual_stack, pos_slice=pos_slice, batch_slice=batch_slice
        )
        one_per_example = has_batch_dim and direction.ndim == 2 and scaled.ndim == 4
        if one_per_example and len(direction) == scaled.shape[1]:
            direction = direction[:, None]
        return (scaled * direction).sum(dim=-1)


def _as_slice(index: Index) -> slice | list[int] | Tensor:
    """An index that keeps the axis: 3 becomes 3:4."""
    if isinstance(index, int):
        return slice(index, index + 1 or None)
    if isinstance(index, tuple):
        return slice(*index)
    return slice(None) if index is None else index


def _as_index(index: Index) -> int | slice | list[int] | Tensor:
    return index if isinstance(index, int) else _as_slice(index)


def _take(
    value: Tensor, axes: list[str], wanted: Mapping[str, slice | list[int] | Tensor]
) -> Tensor:
    for dim, axis in enumerate(axes):
        if axis in wanted:
            value = value[(slice(None),) * dim + (wanted[axis],)]
    return value.clone()


def _positions(value: Tensor, index: Index, dim: int) -> Tensor:
    """Some positions of a value whose position axis is `dim`; an int drops the axis."""
    if index is None:
        return value
    moved = value.movedim(dim, 0)[_as_index(index)]
    return moved if isinstance(index, int) else moved.movedim(0, dim)
