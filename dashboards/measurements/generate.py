"""What the model writes, and what each choice looked at."""

import pandas as pd
import xarray as xr

from dashboards.measurements.basics import Tokens
from interp import patterns, writing
from interp.model.gpt2 import HookedGPT2
from interp.progress import Progress, no_progress


def steps(
    model: HookedGPT2, tokens: Tokens, n: int, temperature: float, top_k: int, seed: int,
    *, progress: Progress = no_progress,
) -> xr.Dataset:  # fmt: skip
    """`writing.steps`; `top_k` 0 stands for all tokens."""
    return writing.steps(
        model, [list(tokens)], n, temperature=temperature, top_k=top_k or None, seed=seed,
        progress=progress,
    )  # fmt: skip


def row(model: HookedGPT2, tokens: Tokens, layer: int, head: int) -> pd.DataFrame:
    """What the last token looks at in one head: `key_pos`, `key_token`, `weight`."""
    weights = patterns.row(model, [list(tokens)], len(tokens) - 1)
    return weights.sel(layer=layer, head=head, drop=True).to_dataframe().reset_index()


def heaviest_keys(model: HookedGPT2, tokens: Tokens) -> pd.DataFrame:
    """What the last token looks at most in every head, the first token left out."""
    return writing.heaviest_keys(model, [list(tokens)], len(tokens) - 1)


def as_prompt(model: HookedGPT2, tokens: Tokens, prepend_bos: bool) -> tuple[str, bool]:
    """Tokens as the text of a prompt, and whether that text is read as the same tokens again."""
    if model.tokenizer is None:
        return " ".join(map(str, tokens)), True
    text = model.to_string(list(tokens[1:] if prepend_bos else tokens))
    assert isinstance(text, str)
    again = model.tokenizer.encode(text)
    return text, tuple(again) == tuple(tokens[1:] if prepend_bos else tokens)
