"""What the model says next: the most probable tokens, as is or under an intervention."""

from collections.abc import Sequence

import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from interp.errors import PromptError
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import HookFunction, NamesFilter
from interp.model.tokens import Prompt, TokenBatch
from interp.results import provenance


@torch.no_grad()
def predictions(
    model: HookedGPT2,
    tokens: Prompt,
    *,
    n_top: int = 10,
    fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]] = (),
) -> xr.Dataset:
    """The tokens that one prompt most probably goes on with; a classifier's classes.

    Args:
        n_top: How many; all of a smaller vocabulary.
        fwd_hooks: Interventions, such as `ablation.zero_heads` or `attention_edges.cut_edges`.

    Returns:
        `token_id`, `token`, `prob` and `logit` over `rank`, which begins at 1; over
        (`example`, `rank`) where there are several prompts.
    """
    batch = model.as_batch(tokens)
    logits = model.run_with_hooks(batch, list(fwd_hooks), positions="last")
    assert isinstance(logits, Tensor)
    final = at_least_float32(logits[:, 0])
    top = final.topk(min(n_top, final.shape[-1]), dim=-1)
    values = {"token_id": top.indices, "logit": top.values}
    values["prob"] = final.softmax(dim=-1).gather(1, top.indices)
    names = [[answer_name(model, i) for i in row] for row in top.indices.tolist()]
    dims = ("example", "rank")
    ds = xr.Dataset(
        {name: (dims, value.numpy(force=True)) for name, value in values.items()}
        | {"token": (dims, names)},
        coords={"rank": range(1, 1 + top.indices.shape[1])},
        attrs=provenance(model),
    )
    return ds.isel(example=0) if len(final) == 1 else ds


def before_and_after(
    model: HookedGPT2,
    tokens: Prompt,
    fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]],
    *,
    n_top: int = 10,
) -> pd.DataFrame:
    """How an intervention changes what one prompt goes on with.

    Args:
        fwd_hooks: The intervention, as in `predictions`.

    Returns:
        A row for each token among the `n_top` of either run, most probable before first:
        `token_id`, `token`, `before`, `after` and `change` (probabilities), `rank_before` and
        `rank_after` (from 1).

    Raises:
        PromptError: more than one prompt.
    """
    batch = model.as_batch(tokens)
    if len(batch.tokens) != 1:
        raise PromptError(f"Predictions are compared for one prompt, got {len(batch.tokens)}.")
    before, after = (_next_probabilities(model, batch, hooks)[0] for hooks in ((), fwd_hooks))
    n = min(n_top, len(before))
    both = [*before.topk(n).indices.tolist(), *after.topk(n).indices.tolist()]
    ids = torch.tensor(list(dict.fromkeys(both)), device=before.device)
    ids = ids[before[ids].argsort(descending=True, stable=True)]
    columns = {"before": before[ids], "after": after[ids], "change": after[ids] - before[ids]}
    columns |= {
        f"rank_{name}": 1 + (run[None] > run[ids, None]).sum(dim=1)
        for name, run in (("before", before), ("after", after))
    }
    names = {"token_id": ids.tolist(), "token": [answer_name(model, i) for i in ids.tolist()]}
    return pd.DataFrame(names | {name: own.numpy(force=True) for name, own in columns.items()})


@torch.no_grad()
def _next_probabilities(
    model: HookedGPT2, batch: TokenBatch, fwd_hooks: Sequence[tuple[NamesFilter, HookFunction]]
) -> Float[Tensor, "example d_vocab_out"]:
    """What each prompt goes on with."""
    logits = model.run_with_hooks(batch, list(fwd_hooks), positions="last")
    assert isinstance(logits, Tensor)
    return at_least_float32(logits[:, 0]).softmax(dim=-1)


def token_name(model: HookedGPT2, token_id: int) -> str:
    """The text of a token that the model reads; the id where there is no tokenizer."""
    if model.tokenizer is None or token_id >= len(model.tokenizer):
        return f"<{token_id}>"
    return model.tokenizer.piece(token_id)


def answer_name(model: HookedGPT2, answer_id: int) -> str:
    """The text of a token that the model says; "class 1" of a classifier."""
    if model.cfg.n_classes is not None:
        return f"class {answer_id}"
    return token_name(model, answer_id)
