"""How long the residual stream is at each depth, and where it points.

`geometry` follows every position through the model: the stream's length, how much the last sublayer
wrote, and how far it already points along the direction that a metric reads. `similarity` compares
one position's stream between depths.

Directions are compared as a LayerNorm sees them, each vector minus its mean over d_model, on which
no prediction depends. A long stream is hard to turn: what a sublayer writes is to be seen beside
the length of what it is added to.
"""

import torch
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from interp.logit_attribution import Reading
from interp.logit_lens import Rows, Shown, depths
from interp.metrics import Metric
from interp.model import formula
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import Prompt
from interp.results import provenance


@torch.no_grad()
def geometry(
    model: HookedGPT2, tokens: Prompt, metric: Metric, *, positions: Shown = None
) -> xr.Dataset:
    """Lengths and directions of the residual stream after each sublayer.

    Args:
        metric: `logit_diff` or another one with `weights`; its direction is the same at all
            positions.
        positions: As in `logit_lens.logit_lens`.

    Returns:
        Over (`layer`, `pos`, `example`), `layer` as in `logit_lens.logit_lens`: `norm`, the
        stream's length; `written`, the length of what the sublayer before added (at "L0 pre": of
        the embeddings); `cosine`, with the metric's direction (-1 to 1); `lens`, the metric of the
        logits that the logit lens reads there, in the metric's unit. NaN beyond a prompt.

    Raises:
        PromptError: a position outside the prompt; a metric that is not linear in the logits.
    """
    rows, reading = Rows.of(model, tokens, positions), Reading.of(model, tokens, metric)
    streams = at_least_float32(torch.stack(rows.streams()))
    example, _ = rows.index
    direction = reading.direction[example]
    scale = formula.layer_norm_scale(streams, model.cfg.eps)
    along = einsum(_centred(streams), direction, "layer row d, row d -> layer row")
    constant = reading.final_bias + reading.unembed_bias
    before = torch.cat([torch.zeros_like(streams[:1]), streams[:-1]])
    found = {
        "norm": streams.norm(dim=-1),
        "written": (streams - before).norm(dim=-1),
        "cosine": along / (_centred(streams).norm(dim=-1) * direction.norm(dim=-1)),
        "lens": along / scale[..., 0] + constant[example],
    }
    return xr.Dataset(
        {name: (("layer", "pos", "example"), rows.table(v)) for name, v in found.items()},
        coords={**depths(model), **rows.coords()},
        attrs=reading.attrs(),
    )


@torch.no_grad()
def similarity(model: HookedGPT2, tokens: Prompt, *, positions: Shown = "last") -> xr.DataArray:
    """The cosine of the residual stream with itself at every other depth, position by position.

    Args:
        positions: As in `logit_lens.logit_lens`.

    Returns:
        Over (`layer`, `other_layer`, `pos`, `example`), from -1 to 1; both depths as `layer` in
        `logit_lens.logit_lens`. NaN beyond a prompt.

    Raises:
        PromptError: a position outside the prompt.
    """
    rows = Rows.of(model, tokens, positions)
    streams = _centred(at_least_float32(torch.stack(rows.streams())))
    units = streams / streams.norm(dim=-1, keepdim=True)
    cosines = einsum(units, units, "layer row d, other row d -> layer other row").clamp(-1, 1)
    n = len(units)
    flat = rows.table(rearrange(cosines, "layer other row -> (layer other) row"))
    coords = depths(model)
    return xr.DataArray(
        rearrange(flat, "(layer other) pos example -> layer other pos example", layer=n),
        dims=("layer", "other_layer", "pos", "example"),
        coords={**coords, "other_layer": coords["layer"], **rows.coords()},
        attrs=provenance(model),
        name="cosine",
    )


def _centred(vectors: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    return vectors - vectors.mean(dim=-1, keepdim=True)
