"""What the head page shows: one head's scores, patterns, circuits, relatives and use."""

from collections.abc import Sequence

import pandas as pd
import torch
import xarray as xr

from dashboards.measurements.basics import Tokens
from dashboards.measurements.references import reference
from interp import ablation, head_circuits, heads, patterns, prompts
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.tiny.language import held_out_examples

N_TOKENS, N_SEQUENCES = 20, 8
"""Of the repeated random tokens: a tenth of the library's default work, stated on the page."""
SHOWN_TOKENS = 12
"""Of the random tokens that a pattern is shown on."""
COMMON = 2000
"""Tokens with the lowest ids, which a tokenizer learned first."""
STORED = {
    "colour_binding_2": "two coloured things",
    "indirect_object": "who was given it",
    "induction": "a word list that begins again",
    "greater_than": "a span of years",
}
"""Stored sentences by their skill."""
VOCABULARIES = {
    "words": "everyday words",
    "prompt": "this prompt's tokens",
    "common": f"the first {COMMON} tokens",
}
"""Which tokens a head's circuits are searched over."""
KINDS = ("zero", "mean")
"""Ablations of the head alone."""


def n_repeated(model: HookedGPT2, wanted: int) -> int:
    """How many random tokens fit twice into the model."""
    return min(wanted, (model.cfg.n_ctx - 1) // 2)


def scores(model: HookedGPT2) -> xr.DataArray:
    """Every head's scores on repeated random tokens, over (`kind`, `layer`, `head`)."""
    return heads.scores(model, n_tokens=n_repeated(model, N_TOKENS), n_sequences=N_SEQUENCES)


def scores_on_prompt(model: HookedGPT2, tokens: Tokens) -> xr.DataArray:
    """Every head's scores on the prompt."""
    return heads.scores_on_prompt(model, [list(tokens)])


def passport(random: xr.DataArray, here: xr.DataArray, layer: int, head: int) -> pd.DataFrame:
    """One head's scores with their ranks, on random text and (`prompt_...`) on the prompt."""
    own = heads.passport(random, layer, head)
    other = heads.passport(here, layer, head).set_index("kind")[["score", "rank"]]
    n = here["n_queries"].to_series().rename("prompt_queries")
    return own.join(other.add_prefix("prompt_"), on="kind").join(n, on="kind")


def leading(random: xr.DataArray, kind: str) -> pd.DataFrame:
    """All heads by a score, highest first: `rank`, `layer`, `head`, `score`."""
    return heads.leading(random, kind)


def pattern(
    model: HookedGPT2, tokens: Tokens, text: str, prepend_bos: bool, layer: int, head: int
) -> xr.DataArray:
    """One head's pattern over (`query_pos`, `key_pos`).

    Args:
        text: "prompt", "repeated" or a skill of `STORED`.
    """
    shown = [list(tokens)]
    if text == "repeated":
        n_tokens = n_repeated(model, SHOWN_TOKENS)
        shown = heads.repeated_tokens(model, n_tokens=n_tokens, n_sequences=1)
    elif text != "prompt":
        shown = model.to_tokens(sentence(text), prepend_bos=prepend_bos)
    return patterns.of_head(model, shown, layer, head)


def sentence(skill: str) -> str:
    """A stored sentence."""
    return held_out_examples(skill, 1, seed=0)[0].text


def vocabulary(model: HookedGPT2, name: str, tokens: Tokens) -> Sequence[int]:
    """Token ids of one of `VOCABULARIES`."""
    if name == "words":
        return prompts.everyday_words(model)
    return sorted(set(tokens)) if name == "prompt" else range(min(COMMON, model.cfg.d_vocab))


def qk_pairs(model: HookedGPT2, layer: int, head: int, name: str, tokens: Tokens) -> pd.DataFrame:
    """The pairs of tokens where the first looks for the second most."""
    found = head_circuits.qk_top_pairs(model, layer, head, vocabulary(model, name, tokens))
    return found.to_dataframe().reset_index()


def ov_pairs(model: HookedGPT2, layer: int, head: int, name: str, tokens: Tokens) -> pd.DataFrame:
    """The pairs of tokens where reading the first raises the second most."""
    found = head_circuits.ov_top_pairs(model, layer, head, vocabulary(model, name, tokens))
    return found.to_dataframe().reset_index()


def ov_tokens(
    model: HookedGPT2, layer: int, head: int, token: int, name: str, tokens: Tokens
) -> pd.DataFrame:
    """The tokens that reading one token raises most."""
    allowed = vocabulary(model, name, tokens)
    found = head_circuits.ov_top_tokens(model, layer, head, token, allowed)
    return found.to_dataframe().reset_index()


def similar(model: HookedGPT2, tokens: Tokens, layer: int, head: int) -> pd.DataFrame:
    """Every other head by how alike it looks: `layer`, `head`, `random` and `prompt` overlaps."""
    n_tokens = n_repeated(model, N_TOKENS)
    repeated = heads.repeated_tokens(model, n_tokens=n_tokens, n_sequences=N_SEQUENCES)
    found = {
        name: patterns.overlap(model, shown, layer, head).to_series()
        for name, shown in (("random", repeated), ("prompt", [list(tokens)]))
    }
    table = pd.DataFrame(found).drop((layer, head)).sort_values("random", ascending=False)
    return table.reset_index()


def without(
    model: HookedGPT2, tokens: Tokens, layer: int, head: int, answers: tuple[int, int], source: str
) -> pd.DataFrame:
    """The logit difference without the head: `kind`, `original`, `ablated`, `effect`."""
    groups = {f"L{layer}H{head}": [(layer, head)]}
    rows = []
    for kind in KINDS:
        others = None if kind == "zero" else reference(model, tokens, source, 0)
        ds = ablation.ablate_together(
            model, torch.tensor([tokens]), groups, logit_diff(*answers), kind, reference=others
        )
        values = {name: float(ds[name].max()) for name in ("original", "ablated", "effect")}
        rows.append({"kind": kind} | values)
    return pd.DataFrame(rows)
