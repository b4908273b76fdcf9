"""From the tokens of a unit to the rows that are stored, batch by batch.

Each sequence is run from position 0, padded on the right only. In causal attention no real token
sees what stands to its right, so padding changes nothing; it is dropped before anything is stored.
The run ends with the last hook that is wanted.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from einops import rearrange
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import axes_of
from interp.model.tokens import TokenBatch
from interp.store.spec import HookLayout


@dataclass(frozen=True)
class Batch:
    """Sequences that are run together."""

    tokens: Int[Tensor, "batch pos"]
    stored: Bool[Tensor, "batch pos"]
    """True at the tokens whose activations are kept; never at padding."""
    n_tokens: int
    """Real tokens."""


def row_layout(name: str, cfg: ModelConfig, ctx: int, dtype: str) -> HookLayout:
    """How the values of one hook lie in a row; attention patterns are rows of `ctx` keys."""
    sizes = {
        "d_model": cfg.d_model,
        "head": cfg.n_heads,
        "d_head": cfg.d_head,
        "d_mlp": cfg.d_mlp,
        "key_pos": ctx,
        "1": 1,
    }
    axes = [axis for axis in axes_of(name) if axis not in ("batch", "pos", "query_pos")]
    return HookLayout(name, tuple(axes), tuple(sizes[axis] for axis in axes), dtype)


def batches(tokens: pa.Table, batch_tokens: int) -> Iterator[Batch]:
    """The sequences of a unit in the order of its rows.

    Args:
        tokens: A unit's token table.
        batch_tokens: Most tokens of a batch, padding included; a longer sequence runs alone.
    """
    ids = tokens["token_id"].to_numpy()
    stored = tokens["row"].is_valid().to_numpy()
    starts = np.flatnonzero(tokens["pos"].to_numpy() == 0)
    lengths = np.diff(starts, append=len(ids))
    first = 0
    while first < len(starts):
        widest = np.maximum.accumulate(lengths[first:])
        fits = widest * np.arange(1, len(widest) + 1) <= batch_tokens
        n_sequences = max(1, int(np.argmin(fits)) if not fits.all() else len(fits))
        chosen = slice(first, first + n_sequences)
        yield _batch(ids, stored, starts[chosen], lengths[chosen])
        first += n_sequences


def _batch(ids: np.ndarray, stored: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> Batch:
    order = np.arange(lengths.max())
    real = order < lengths[:, None]
    places = np.where(real, starts[:, None] + order, starts[:, None])
    return Batch(
        torch.from_numpy(ids[places].astype(np.int64)),
        torch.from_numpy(stored[places] & real),
        int(lengths.sum()),
    )


def record_rows(
    model: HookedGPT2, batch: Batch, layouts: Sequence[HookLayout]
) -> dict[str, Shaped[Tensor, "rows ..."]]:
    """The stored rows of a batch for each hook, in the order of the token table, on the CPU."""
    # All real: what stands to the right of a causal model's token cannot reach it.
    tokens = batch.tokens.to(model.cfg.device)
    everything = TokenBatch(tokens, torch.ones_like(tokens, dtype=torch.bool))
    values = model.record(everything, [layout.name for layout in layouts])
    return {layout.name: _rows(values[layout.name], layout, batch.stored) for layout in layouts}


def _rows(
    value: Tensor, layout: HookLayout, stored: Bool[Tensor, "batch pos"]
) -> Shaped[Tensor, "rows ..."]:
    if "key_pos" in layout.axes:
        by_query = rearrange(value, "batch head query_pos key_pos -> batch query_pos head key_pos")
        missing = layout.feature[-1] - value.shape[-1]
        value = torch.nn.functional.pad(by_query, (0, missing))
    return value[stored.to(value.device)].cpu()
