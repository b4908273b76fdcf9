"""What a patched query or key does to the attention pattern, exactly.

A softmax bends: the slope of a saturated one is 0, though a patch may move all of its weight. Here
only what follows the pattern is linear, given by the gradient of a metric there. Numbers are
float64: of a saturated row, the small weights are the ones that matter.

Source: Kramár et al. 2024, arXiv:2403.00745 (the QK fix of AtP*).
"""

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from interp.model import formula

Heads = Float[Tensor, "example pos head d_head"]
Pattern = Float[Tensor, "example head query_pos key_pos"]
Effects = Float[Tensor, "example pos head"]


def effects_by_query(
    q: Heads, k: Heads, patched_q: Heads, patched_k: Heads, gradient: Pattern, factor: float
) -> Effects:
    """Change of pattern · gradient in each query's row, when all queries and keys are replaced.

    Args:
        gradient: Of a metric, at the pattern of q and k.
        factor: What q·k is multiplied by before the softmax.
    """
    patterns = (
        _scores(*heads, factor).softmax(dim=-1) for heads in ((patched_q, patched_k), (q, k))
    )
    patched, original = patterns
    change = (patched - original) * gradient.double()
    return reduce(change, "example head pos key_pos -> example pos head", "sum")


def effects_of_single_keys(
    q: Heads, k: Heads, patched_k: Heads, gradient: Pattern, factor: float
) -> Effects:
    """Change of pattern · gradient when one key is replaced, for each key alone.

    A new score moves weight between its key and all others, which keep their proportions: from p
    to p', the change is (p' - p) (gradient there - mean gradient of the others). So no key needs a
    softmax of its own. The others of a row's largest weight are summed without that weight, beside
    which they may have no digits left.

    Source: Kramár et al. 2024, their fast fix for keys.
    """
    scores, gradient = _scores(q, k, factor), gradient.double()
    weights = scores.softmax(dim=-1)
    largest = torch.zeros_like(weights, dtype=torch.bool)
    largest = largest.scatter(-1, scores.argmax(dim=-1, keepdim=True), True)
    rest = scores.masked_fill(largest, -torch.inf)
    rest_weights = rest.softmax(dim=-1).nan_to_num()  # NaN where there is no other key
    weighted = weights * gradient
    mean_of_others = torch.where(
        largest,
        (rest_weights * gradient).sum(dim=-1, keepdim=True),
        (weighted.sum(dim=-1, keepdim=True) - weighted) / (1 - weights),
    )
    log_others = torch.where(
        largest,
        rest.logsumexp(dim=-1, keepdim=True),
        scores.logsumexp(dim=-1, keepdim=True) + (-weights).log1p(),
    )
    before, after = ((x - log_others).sigmoid() for x in (scores, _scores(q, patched_k, factor)))
    change = (after - before) * (gradient - mean_of_others)
    return reduce(change, "example head query_pos pos -> example pos head", "sum")


def _scores(q: Heads, k: Heads, factor: float) -> Pattern:
    """In float64; only causality masks: prompts are padded on the right, where no query looks."""
    unpadded = torch.ones(1, q.shape[1], dtype=torch.bool, device=q.device)
    allowed = formula.allowed_keys(q.shape[1], unpadded)
    return formula.attention_scores(q.double(), k.double(), factor, allowed)
