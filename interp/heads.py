"""What each head attends to, as scores in [0, 1] on repeated random tokens.

A sequence of random tokens is shown twice in a row. In the second half the scores are the mean
attention from each position to: the position before it (`previous_token`), the first occurrence of
the same token (`duplicate_token`), and the token after that first occurrence (`induction`).
Source: Olsson et al. 2022, arXiv:2209.11895.
"""

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import model_hash

KINDS = ("previous_token", "duplicate_token", "induction")


def repeated_tokens(
    model: HookedGPT2,
    vocabulary: Sequence[int] | None = None,
    *,
    n_tokens: int = 40,
    n_sequences: int = 16,
    seed: int = 0,
) -> Int[Tensor, "batch pos"]:
    """Random tokens shown twice: BOS (if the model has one), then 2 x `n_tokens` positions.

    Args:
        vocabulary: Token ids to draw from; by default all but BOS.
    """
    bos = model.tokenizer.bos_token_id if model.tokenizer else None
    if 2 * n_tokens + 1 > model.cfg.n_ctx:
        raise PromptError(f"BOS and 2 x {n_tokens} tokens do not fit into {model.cfg.n_ctx}.")
    allowed = torch.tensor(range(model.cfg.d_vocab) if vocabulary is None else vocabulary)
    allowed = allowed[allowed != bos] if bos is not None else allowed
    generator = torch.Generator().manual_seed(seed)
    half = allowed[torch.randint(len(allowed), (n_sequences, n_tokens), generator=generator)]
    parts = [half, half] if bos is None else [torch.full((n_sequences, 1), bos), half, half]
    return torch.cat(parts, dim=1).to(model.cfg.device)


@torch.no_grad()
def scores(
    model: HookedGPT2,
    vocabulary: Sequence[int] | None = None,
    *,
    n_tokens: int = 40,
    n_sequences: int = 16,
    seed: int = 0,
) -> xr.DataArray:
    """Mean attention over the second half's positions, for each kind of target.

    Returns:
        Over (`kind`, `layer`, `head`), each in [0, 1]; the definitions are in the module's text.
    """
    tokens = repeated_tokens(
        model, vocabulary, n_tokens=n_tokens, n_sequences=n_sequences, seed=seed
    )
    _, cache = model.run_with_cache(tokens, return_type=None)
    queries = torch.arange(tokens.shape[1] - n_tokens, tokens.shape[1] - 1, device=tokens.device)
    back = {"previous_token": 1, "duplicate_token": n_tokens, "induction": n_tokens - 1}
    values = torch.stack(
        [
            torch.stack(
                [
                    cache["pattern", layer][:, :, queries, queries - back[kind]].mean(dim=(0, 2))
                    for layer in range(model.cfg.n_layers)
                ]
            )
            for kind in KINDS
        ]
    )
    return xr.DataArray(
        values.numpy(force=True),
        dims=("kind", "layer", "head"),
        coords={
            "kind": list(KINDS),
            "layer": range(model.cfg.n_layers),
            "head": range(model.cfg.n_heads),
        },
        attrs={
            "model": model.cfg.model_name,
            "model_hash": model_hash(model),
            "seed": seed,
            "n_tokens": n_tokens,
            "n_sequences": n_sequences,
        },
    )
