"""What the model writes, token by token: how sure it was, what else it might have written, and
what the choice looked at.

The steps are those of `model.generate`, with the same keys and values kept, so that the same seed
and settings give the same tokens. The token at position p is chosen at position p - 1: what the
choice looked at is the attention of the query p - 1.
"""

import numpy as np
import pandas as pd
import torch
import xarray as xr

from interp import patterns
from interp.errors import PromptError
from interp.model.formula import at_least_float32
from interp.model.generation import cached_logits, check_sampling, drawing_probabilities, draws
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import Prompt
from interp.predictions import token_name
from interp.progress import Progress, no_progress
from interp.results import provenance


@torch.no_grad()
def steps(
    model: HookedGPT2,
    tokens: Prompt,
    max_new_tokens: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    stop_at_eos: bool = True,
    n_top: int = 5,
    progress: Progress = no_progress,
) -> xr.Dataset:
    """Continue one prompt as `model.generate` does, and keep what was known at every step.

    Args:
        temperature, top_k, seed, stop_at_eos: As of `model.generate`.
        n_top: How many alternatives are kept of each step.
        progress: Gives out the steps; where it stops early, attribute `partial` is 1.

    Returns:
        Over `step`, which begins at 1: `position` of the new token, `token_id`, `token`, `prob`
        (the model's own, at temperature 1 and among all tokens), `rank` by that (1 = most
        probable), and `drawn_prob` (with the temperature and `top_k` it was drawn with). Over
        (`step`, `alternative`), which begins at 1: `top_id`, `top_token` and `top_prob`, the most
        probable tokens of each step.

    Raises:
        PromptError: more than one prompt, a classifier, or settings that `model.generate` refuses.
    """
    if model.cfg.n_classes is not None:
        raise PromptError(
            f"{model.cfg.model_name} is a classifier: it tells classes apart and writes no text."
        )
    batch = model.as_batch(tokens)
    if len(batch.tokens) != 1:
        raise PromptError(f"One prompt is continued at a time, got {len(batch.tokens)}.")
    n_prompt = batch.tokens.shape[1]
    check_sampling(
        n_prompt, model.cfg.n_ctx, max_new_tokens=max_new_tokens, temperature=temperature,
        top_k=top_k,
    )  # fmt: skip
    bos = model.tokenizer.bos_token_id if model.tokenizer else None
    drawn = draws(
        cached_logits(model), batch.tokens, max_new_tokens=max_new_tokens,
        temperature=temperature, top_k=top_k, seed=seed, stop_token=bos if stop_at_eos else None,
    )  # fmt: skip
    rows, ended = [], False
    for _ in progress(range(max_new_tokens), "Writing"):
        step = next(drawn, None)
        if ended := step is None:
            break
        logits, chosen = step
        probabilities = drawing_probabilities(logits, temperature=temperature, top_k=top_k)
        rows.append(_step(logits[0], int(chosen), float(probabilities[0, chosen]), n_top))
    ds = _labelled(model, rows, n_prompt, min(n_top, model.cfg.d_vocab))
    settings = {"temperature": temperature, "top_k": top_k or 0, "seed": seed}
    partial = {"partial": 1} if len(rows) < max_new_tokens and not ended else {}
    return ds.assign_attrs(**settings, **partial, **provenance(model))


def heaviest_keys(
    model: HookedGPT2, tokens: Prompt, query: int, *, first_key: int = 1
) -> pd.DataFrame:
    """The key that one query looks at most in every head, heaviest first.

    Args:
        first_key: 1 leaves out the first token, where many heads rest; 0 leaves out none. The
            first query has no other key.

    Returns:
        `layer`, `head`, `key`, `key_token`, `weight`.

    Raises:
        PromptError: more than one prompt, or a position outside it.
    """
    row = patterns.row(model, tokens, query)
    seen = row.isel(key_pos=slice(min(first_key, query), query + 1))
    best = seen.isel(key_pos=seen.argmax("key_pos")).rename("weight")
    table = best.reset_coords(["key_pos", "key_token"]).to_dataframe().reset_index()
    table = table.rename(columns={"key_pos": "key"}).sort_values(
        "weight", ascending=False, kind="stable"
    )
    return table[["layer", "head", "key", "key_token", "weight"]].reset_index(drop=True)


def _step(
    logits: torch.Tensor, chosen: int, drawn_prob: float, n_top: int
) -> dict[str, int | float | list[int] | list[float]]:
    prob = at_least_float32(logits).softmax(dim=-1)
    top = prob.topk(min(n_top, len(prob)))
    return {
        "token_id": chosen,
        "prob": float(prob[chosen]),
        "rank": 1 + int((prob > prob[chosen]).sum()),
        "drawn_prob": drawn_prob,
        "top_id": top.indices.tolist(),
        "top_prob": top.values.tolist(),
    }


def _labelled(model: HookedGPT2, rows: list[dict], n_prompt: int, n_top: int) -> xr.Dataset:
    both = ("step", "alternative")
    kinds = {"token_id": int, "prob": float, "rank": int, "drawn_prob": float}
    numbers = {name: np.array([row[name] for row in rows], kind) for name, kind in kinds.items()}
    top = {
        name: np.array([row[name] for row in rows], kind).reshape(-1, n_top)
        for name, kind in {"top_id": int, "top_prob": float}.items()
    }
    named = np.vectorize(lambda i: token_name(model, i), otypes=[object])
    return xr.Dataset(
        {"position": ("step", n_prompt + np.arange(len(rows)))}
        | {name: ("step", values) for name, values in numbers.items()}
        | {name: (both, values) for name, values in top.items()}
        | {
            "token": ("step", named(numbers["token_id"])),
            "top_token": (both, named(top["top_id"])),
        },
        coords={"step": np.arange(1, 1 + len(rows)), "alternative": np.arange(1, 1 + n_top)},
    )
