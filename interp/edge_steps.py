"""What follows from one attention score, and from one value that a head reads.

`rescored` changes one score before the softmax and follows it to the output. `written` reads what a
head writes at a query, and the part of it that comes from one key, as logits of the next token.
"""

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from interp.attention_edges import PATTERN, SCORES, check_positions
from interp.errors import PromptError
from interp.metrics import Metric
from interp.model import formula
from interp.model.formula import at_least_float32
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, block_name
from interp.model.tokens import Prompt, TokenBatch
from interp.predictions import answer_name
from interp.results import provenance, token_names

SOURCES = ("this key", "all keys")
"""Of what is read: one key's value, or the whole row's."""


@torch.no_grad()
def rescored(
    model: HookedGPT2, tokens: Prompt, edge: tuple[int, int, int, int], change: float,
    metric: Metric,
) -> xr.Dataset:  # fmt: skip
    """What if one score were higher or lower: the row after it, and what the output then is.

    Args:
        edge: (layer, head, query position, key position).
        change: Added to the scaled score of the edge, before the softmax.

    Returns:
        Over `key_pos`: `score` with the change, -inf where masked; `exponential` = exp(score -
        largest score), which the softmax divides by their sum; `weight`, so made; and
        `original_weight`, without the change. `largest`, the largest score; `total`, the sum of the
        exponentials. `original` and `changed`, the metric of the whole run without and with the
        change, and `effect` = changed - original, in the metric's unit. Token strings are a
        coordinate.

    Raises:
        PromptError: more than one prompt, or a position outside it or after the query.
    """
    layer, head, query, key = edge
    batch = _one_prompt(model, tokens, query, key)
    rows: list[Tensor] = []
    measured = []

    def edit(scores: Tensor, hook: Hook) -> None:  # noqa: ARG001
        scores[0, head, query, key] += change

    def keep(values: Tensor, hook: Hook) -> None:  # noqa: ARG001
        rows.append(at_least_float32(values[0, head, query]).clone())

    scores, pattern = block_name(layer, SCORES), block_name(layer, PATTERN)
    for hooks in ([(pattern, keep)], [(scores, edit), (scores, keep)]):
        logits = model.run_with_hooks(batch, hooks, positions=metric.positions)
        assert isinstance(logits, Tensor)
        measured.append(metric(logits)[0])
    original_weight, score = rows
    exponential = (score - score.max()).exp()
    steps = {
        "score": ("key_pos", score),
        "exponential": ("key_pos", exponential),
        "weight": ("key_pos", exponential / exponential.sum()),
        "original_weight": ("key_pos", original_weight),
        "largest": ((), score.max()),
        "total": ((), exponential.sum()),
        "original": ((), measured[0]),
        "changed": ((), measured[1]),
        "effect": ((), measured[1] - measured[0]),
    }
    return xr.Dataset(
        {name: (dims, value.numpy(force=True)) for name, (dims, value) in steps.items()},
        coords={"token": ("key_pos", token_names(model, batch)[0])},
        attrs={"layer": layer, "head": head, "query": query, "key": key, "change": change}
        | {"metric": metric.name, "unit": metric.unit, **provenance(model)},
    )


@torch.no_grad()
def written(
    model: HookedGPT2, tokens: Prompt, edge: tuple[int, int, int, int], *, n_top: int = 5
) -> xr.Dataset:
    """The next tokens that a head's output at a query promotes and suppresses by itself.

    Logits are what it adds, at the query's position, to the final ones there: through the final
    LayerNorm with the scale frozen at the run's value, minus their mean over the vocabulary. What
    later layers make of it is not counted.

    Args:
        edge: (layer, head, query position, key position).
        n_top: How many tokens of each end; all of a smaller vocabulary.

    Returns:
        Over (`source`, `rank`), rank from 1: `promoted` and `promoted_logit`, highest first;
        `suppressed` and `suppressed_logit`, lowest first. `source` is "this key", the part A v W_O
        that is read from the key, or "all keys", the head's whole output.

    Raises:
        PromptError: more than one prompt, or a position outside it or after the query.
    """
    layer, head, query, key = edge
    batch = _one_prompt(model, tokens, query, key)
    names = {name: block_name(layer, f"attn.hook_{name}") for name in ("v", "pattern")}
    names["scale"] = "ln_final.hook_scale"
    _, cache = model.run_with_cache(batch, names_filter=list(names.values()), return_type=None)
    weight, v = cache[names["pattern"]][0, head, query], cache[names["v"]][0, :, head]
    W_O = model.blocks[layer].attn.W_O[head]
    outputs = torch.stack([weight[key] * v[key], weight @ v]) @ W_O
    logits = _logits(model, outputs, cache[names["scale"]][0, query])
    n = min(n_top, logits.shape[-1])
    values = {}
    for name, largest in (("promoted", True), ("suppressed", False)):
        top = logits.topk(n, dim=-1, largest=largest)
        texts = [[answer_name(model, i) for i in row] for row in top.indices.tolist()]
        values[name] = (("source", "rank"), texts)
        values[f"{name}_logit"] = (("source", "rank"), top.values.numpy(force=True))
    return xr.Dataset(
        values,
        coords={"source": list(SOURCES), "rank": range(1, n + 1)},
        attrs={"layer": layer, "head": head, "query": query, "key": key, "unit": "logits"}
        | provenance(model),
    )


def _logits(
    model: HookedGPT2, outputs: Float[Tensor, "source d_model"], scale: Float[Tensor, "1"]
) -> Float[Tensor, "source d_vocab"]:
    """What is written, as logits of the next token."""
    normalized = formula.layer_norm_normalized(outputs, scale) * model.ln_final.w
    logits = at_least_float32(linear(normalized, model.unembed.weight))
    return logits - logits.mean(dim=-1, keepdim=True)


def _one_prompt(model: HookedGPT2, tokens: Prompt, query: int, key: int) -> TokenBatch:
    batch = model.as_batch(tokens)
    if len(batch.tokens) != 1:
        raise PromptError(f"An edge is followed in one prompt, got {len(batch.tokens)}.")
    check_positions(torch.tensor(query), torch.tensor(key), batch.tokens.shape[1])
    return batch
