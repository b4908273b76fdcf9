"""The first result: one attention edge, and the answer with and without it."""

import pandas as pd

from dashboards.measurements.basics import Tokens
from interp.attention import knockout
from interp.metrics import logit_diff, prob
from interp.model.gpt2 import HookedGPT2


def cut_edge(
    model: HookedGPT2, tokens: Tokens, layer: int, head: int, query: int, key: int,
    answers: tuple[int, int],
) -> pd.DataFrame:  # fmt: skip
    """`run` (as is, edge cut here, edge cut in all heads), `logit_diff`, `probability`."""
    runs = {
        f"edge cut in L{layer}H{head}": [(layer, head, query, key)],
        "edge cut in every head": [(None, None, query, key)],
    }
    metrics = {"logit_diff": logit_diff(*answers), "probability": prob(answers[0])}
    table = pd.DataFrame({"run": ["as it is", *runs]})
    for name, metric in metrics.items():
        cut = [knockout(model, [list(tokens)], edges, metric) for edges in runs.values()]
        table[name] = [cut[0].original.item(), *(ds.cut.item() for ds in cut)]
    return table
