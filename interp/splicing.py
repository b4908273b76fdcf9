"""Does the model still predict when something else takes the place of an activation?

The test of a reconstruction, such as a sparse autoencoder's: the activation is replaced in the run,
and the loss compared with the intact run's and with that of an ablated one (Bricken et al. 2023,
"Towards Monosemanticity"; Gao et al. 2024, arXiv:2406.04093, section 4.1).
"""

from collections.abc import Callable, Mapping

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, HookFunction
from interp.model.tokens import TokenBatch
from interp.results import provenance
from interp.statistics import Interval, bootstrap_ratio

EXAMPLES_PER_RUN = 64

Replace = Callable[[Float[Tensor, "row d_in"]], Float[Tensor, "row d_in"]]
"""What takes the place of activations."""


@torch.no_grad()
def spliced_losses(
    model: HookedGPT2,
    batch: TokenBatch,
    hook: str,
    replacements: Mapping[str, Replace],
    *,
    keep: Bool[Tensor, "batch pos"] | None = None,
) -> xr.DataArray:
    """The model's loss when something takes the place of an activation.

    Args:
        hook: Name of an activation `batch pos d_in`.
        replacements: What takes its place, by name; each is given rows.
        keep: Where the activation stays as it is, such as at BOS; by default nowhere.

    Returns:
        Mean cross-entropy of the next token in nats over (`condition`, `example`); the first
        condition is `clean`, the run that nobody edits.
    """
    replaced = batch.attention_mask if keep is None else batch.attention_mask & ~keep
    conditions: dict[str, Replace | None] = {"clean": None, **replacements}
    losses: dict[str, list[Tensor]] = {name: [] for name in conditions}
    for rows in torch.arange(len(batch.tokens)).split(EXAMPLES_PER_RUN):
        part = TokenBatch(batch.tokens[rows], batch.attention_mask[rows])
        n_predicted = part.lengths - 1
        for name, replace in conditions.items():
            hooks = [] if replace is None else [(hook, _splice(replace, replaced[rows]))]
            with model.hooks(hooks):
                loss = model(part, "loss", loss_per_token=True)
            assert isinstance(loss, Tensor)
            losses[name].append(loss.sum(dim=1) / n_predicted)
    return xr.DataArray(
        torch.stack([torch.cat(parts) for parts in losses.values()]).numpy(force=True),
        dims=("condition", "example"),
        coords={"condition": list(conditions)},
        attrs={"hook": hook, "metric": "next-token loss", "unit": "nats", **provenance(model)},
    )


def _splice(replace: Replace, replaced: Bool[Tensor, "batch pos"]) -> HookFunction:
    def splice(x: Tensor, hook: Hook) -> Tensor:
        if x.ndim != 3:
            raise ValueError(f"{hook.name} has shape {list(x.shape)}, not batch pos d_in.")
        edited = x.clone()
        edited[replaced] = replace(x[replaced])
        return edited

    return splice


def loss_recovered(
    losses: xr.DataArray, condition: str, *, ablation: str, seed: int = 0
) -> Interval:  # fmt: skip
    """(ablated - spliced) / (ablated - clean), of the mean losses: 1 loses nothing, 0 everything.

    Args:
        losses: Of `spliced_losses`.
        ablation: The condition that counts as 0, such as "zero" or "mean".

    Raises:
        PromptError: the ablation costs nothing.
    """
    ablated = losses.sel(condition=ablation)
    return bootstrap_ratio(
        ablated - losses.sel(condition=condition),
        ablated - losses.sel(condition="clean"),
        seed=seed,
    )
