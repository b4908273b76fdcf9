"""What the walk-through shows of one attention weight: where it comes from, and what it does."""

from typing import NamedTuple

import pandas as pd
import xarray as xr

from dashboards.measurements.basics import Tokens
from interp import attention, edge_steps, edge_tests, patterns
from interp.attention_edges import control_edges
from interp.charts import token_labels
from interp.errors import PromptError
from interp.metrics import logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.progress import Progress
from interp.results import token_names
from interp.statistics import Interval
from interp.tiny.language import held_out_examples

Edge = tuple[int, int, int, int]
"""Layer, head, query position, key position."""
SWAPS = ("white", "red", "green", "loud", "boat", "Mary")
"""Words that are put in the key's place."""
SKILL, SEED = "colour_binding_1", 0
"""Of the generated sentences."""


def positions(model: HookedGPT2, tokens: Tokens, query: int) -> pd.DataFrame:
    """`position`, `token`, `id`, and whether the query can see it (`visible`)."""
    names = token_names(model, model.as_batch([list(tokens)]))[0]
    return pd.DataFrame(
        {
            "position": range(len(tokens)),
            "token": names,
            "id": tokens,
            "visible": [position <= query for position in range(len(tokens))],
        }
    )


def heads(model: HookedGPT2, tokens: Tokens, query: int, key: int) -> pd.DataFrame:
    """`patterns.edge` of every head, heaviest first."""
    table = patterns.edge(model, [list(tokens)], query, key).to_dataframe().reset_index()
    return table.sort_values("weight", ascending=False, ignore_index=True)


def explained(model: HookedGPT2, tokens: Tokens, edge: Edge) -> xr.Dataset:
    """`attention.explain`."""
    return attention.explain(model, [list(tokens)], *edge)


def product(model: HookedGPT2, tokens: Tokens, edge: Edge) -> pd.DataFrame:
    """`coordinate`, `q`, `k` and `product`."""
    steps = explained(model, tokens, edge)
    return steps[["q", "k", "product"]].to_dataframe().reset_index(names="coordinate")


def rescored(
    model: HookedGPT2, tokens: Tokens, edge: Edge, change: float, answers: tuple[int, int]
) -> xr.Dataset:
    """`edge_steps.rescored`."""
    return edge_steps.rescored(model, [list(tokens)], edge, change, logit_diff(*answers))


def row(
    model: HookedGPT2, tokens: Tokens, edge: Edge, change: float, answers: tuple[int, int]
) -> pd.DataFrame:
    """The row of the query by key, also after the change."""
    steps = rescored(model, tokens, edge, change, answers)
    columns = ["score", "exponential", "weight", "original_weight"]
    return steps[columns].to_dataframe().reset_index()


def values(model: HookedGPT2, tokens: Tokens, edge: Edge) -> pd.DataFrame:
    """`key` (position and token), `weight`, `value_norm` and `share` of what the query can see."""
    steps = explained(model, tokens, edge).isel(key_pos=slice(edge[2] + 1))
    table = steps[["weight", "value_norm", "share"]].to_dataframe().reset_index(drop=True)
    table.insert(0, "key", token_labels(steps["token"].values.tolist()))
    return table[["key", "weight", "value_norm", "share"]]


def written(model: HookedGPT2, tokens: Tokens, edge: Edge, n_top: int) -> pd.DataFrame:
    """`edge_steps.written` by `source` and `rank`."""
    return edge_steps.written(model, [list(tokens)], edge, n_top=n_top).to_dataframe().reset_index()


def check(model: HookedGPT2, tokens: Tokens, edge: Edge) -> pd.DataFrame:
    """The row computed here (`recomputed`) beside the model's own (`hook_pattern`)."""
    steps = explained(model, tokens, edge)
    layer, head, query, _ = edge
    own = patterns.of_head(model, [list(tokens)], layer, head)[query]
    table = pd.DataFrame(
        {
            "key": token_labels(steps["token"].values.tolist()),
            "recomputed": steps["weight"].values,
            "hook_pattern": own.values,
        }
    )
    return table.assign(difference=(table["recomputed"] - table["hook_pattern"]).abs())


class Effects(NamedTuple):
    """The answer in each condition, and which edge was the control."""

    table: pd.DataFrame
    conditions: tuple[str, ...]
    control: pd.DataFrame
    """One row, or none where no other edge could be a control."""


def effects(model: HookedGPT2, tokens: Tokens, edge: Edge, answers: tuple[int, int]) -> Effects:
    """`edge_tests.outcomes` in every condition that this prompt has.

    A query with one visible key would be left with none, so that its edge cannot be cut; a short
    prompt has no other edge; and only a model of tokens, whose wrong answer is another one than the
    key, can have it in the key's place.
    """
    target, wrong = answers
    layer, head, query, key = edge
    conditions = [edge_tests.AS_IS]
    if query > 0:
        conditions += [edge_tests.ONE_HEAD, edge_tests.ALL_HEADS]
        try:
            control_edges(model, [list(tokens)], layer, head, query, key)
            conditions.append(edge_tests.CONTROL)
        except PromptError:  # there is no room for one, which the page says
            pass
    conditions.append(edge_tests.ZEROED)
    swapped = [[*tokens[:key], wrong, *tokens[key + 1 :]]]
    if model.cfg.n_classes is None and wrong != tokens[key]:
        conditions.append(edge_tests.SWAPPED)
    found = edge_tests.outcomes(
        model, [list(tokens)], edge, target, wrong, swapped=swapped, conditions=conditions
    ).isel(example=0, drop=True)
    over = [name for name in found.data_vars if found[name].dims]
    control = [name for name in found.data_vars if not found[name].dims]
    return Effects(
        found[over].to_dataframe().reset_index(),
        tuple(conditions),
        pd.DataFrame([{name: found[name].item() for name in control}] if control else []),
    )


class General(NamedTuple):
    """Over generated sentences: means with intervals, and effects of cutting."""

    table: pd.DataFrame
    one_head: Interval
    all_heads: Interval
    control: Interval
    n: int
    """Sentences that are done."""


def general(model: HookedGPT2, layer: int, head: int, n: int, *, progress: Progress) -> General:
    """`edge_tests.over_examples` of held-out sentences of the embedded model's language."""
    examples = held_out_examples(SKILL, n, SEED)
    found = edge_tests.over_examples(model, examples, layer, head, progress=progress)
    conditions = (edge_tests.ONE_HEAD, edge_tests.ALL_HEADS, edge_tests.CONTROL)
    one, every, control = (edge_tests.effect(found, name, seed=SEED) for name in conditions)
    return General(
        edge_tests.summary(found, seed=SEED), one, every, control, found.sizes["example"]
    )


def replacements(model: HookedGPT2, own: int, wrong: int) -> tuple[int, ...]:
    """Ids of the wrong answer and of `SWAPS` that are one token of this model, each once."""
    ids = [wrong]
    for word in SWAPS if model.tokenizer is not None else ():
        try:
            ids.append(model.to_single_token(f" {word}"))
        except PromptError:  # several tokens of this vocabulary
            continue
    return tuple(i for i in dict.fromkeys(ids) if i != own)


def swaps(model: HookedGPT2, tokens: Tokens, edge: Edge, ids: tuple[int, ...]) -> pd.DataFrame:
    """`edge_tests.swaps`."""
    return edge_tests.swaps(model, [list(tokens)], edge, ids)


def words(model: HookedGPT2, text: str, prepend_bos: bool, query: str, key: str) -> tuple[int, int]:
    """Positions of two words, each where it appears first.

    Raises:
        PromptError: a word is not in the text, or the model has no tokenizer.
    """
    query_pos, key_pos = (
        model.find_word(text, word, occurrence=0, prepend_bos=prepend_bos) for word in (query, key)
    )
    return query_pos, key_pos
