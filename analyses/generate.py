"""What does the model write, and what does each new word look at?

Generates a continuation word by word. The word at position t is chosen at position t - 1, so the
attention shown for a new word is the row of that position: of one head, or the mean over all heads.
The first token is left out of the "looks at" column, because most heads rest on it; the picture
shows everything.
"""

from typing import Annotated

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor
from typer import Option

import interp
from interp import charts
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import visible
from interp.model.weights import model_hash
from interp.progress import Progress, no_progress
from interp.report import Report, Section


def run(
    text: Annotated[str, Option(help="The beginning.")] = "I love the color black, I hope",
    max_new_tokens: Annotated[int, Option(help="How many tokens to add.")] = 20,
    temperature: Annotated[float, Option(help="0 takes the most likely each time.")] = 0.7,
    top_k: Annotated[int | None, Option(help="Sample among the k most likely.")] = None,
    layer: Annotated[int | None, Option(help="Show this layer's head instead of the mean.")] = None,
    head: Annotated[int | None, Option(help="Head of that layer.")] = None,
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    seed: Annotated[int, Option(help="Same seed, same text.")] = 0,
    progress: Progress = no_progress,  # noqa: ARG001
) -> Report:
    """What does the model write, and what does each new word look at?"""
    hooked = interp.load(model)
    _check_head(hooked, layer, head)
    sampling = {"temperature": temperature, "top_k": top_k, "seed": seed}
    prompt = hooked.to_tokens(text)
    tokens = hooked.generate(prompt, max_new_tokens, **sampling)
    assert isinstance(tokens, Tensor)
    if tokens.shape[1] == prompt.shape[1]:
        raise PromptError("Nothing was generated; ask for at least one new token.")
    with torch.no_grad():
        logits, cache = hooked.run_with_cache(tokens, names_filter="blocks.*.attn.hook_pattern")
    assert isinstance(logits, Tensor)
    pattern = torch.stack([cache["pattern", index][0] for index in range(hooked.cfg.n_layers)])
    chosen = pattern.mean(dim=(0, 1)) if layer is None else pattern[layer, head]
    source = "mean of all heads" if layer is None else f"L{layer}H{head}"
    table = word_table(hooked, tokens[0], logits[0], chosen, prompt.shape[1])
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked), "text": text}
    settings |= sampling | {"max_new_tokens": max_new_tokens, "attention": source}
    written = hooked.to_string(tokens[0, 1:])
    section = words_section(hooked, tokens[0], table, chosen, source)
    return Report("What does each new word look at?", str(written), (section,), settings)


def _check_head(model: HookedGPT2, layer: int | None, head: int | None) -> None:
    if (layer is None) != (head is None):
        raise PromptError("Give both --layer and --head, or neither for the mean of all heads.")
    for name, index, size in (
        ("layer", layer, model.cfg.n_layers),
        ("head", head, model.cfg.n_heads),
    ):
        if index is not None and not 0 <= index < size:
            raise PromptError(f"There is no {name} {index}; there are 0 to {size - 1}.")


def word_table(
    model: HookedGPT2,
    tokens: Tensor,
    logits: Float[Tensor, "pos d_vocab"],
    pattern: Float[Tensor, "query_pos key_pos"],
    n_prompt: int,
) -> pd.DataFrame:
    """Each new token: its probability, and the three tokens its choice looked at most."""
    pieces = [visible(piece) for piece in model.to_str_tokens(tokens)]
    probabilities = logits.softmax(dim=-1)
    rows = []
    for position in range(n_prompt, len(tokens)):
        row = pattern[position - 1, 1:position]
        best = row.topk(min(3, len(row)))
        looks = [
            f"{pieces[key + 1]} {weight:.2f}"
            for weight, key in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        rows.append(
            {
                "position": position,
                "new token": pieces[position],
                "probability": float(probabilities[position - 1, tokens[position]]),
                "looks at": " | ".join(looks),
                "first token gets": float(pattern[position - 1, 0]),
            }
        )
    return pd.DataFrame(rows)


def words_section(
    model: HookedGPT2,
    tokens: Tensor,
    table: pd.DataFrame,
    pattern: Float[Tensor, "query_pos key_pos"],
    source: str,
) -> Section:
    """The new words and the attention behind them."""
    least = table.loc[table["probability"].idxmin()]
    reading = (
        f"{len(table)} new tokens; attention is the {source}, read at the position that chose the "
        f"word. The least expected choice was {least['new token']!r} at probability "
        f"{least['probability']:.3f}.",
        f"On average {table['first token gets'].mean():.0%} of that attention rests on the first "
        "token. What a word looks at is where information may come from; whether it mattered takes "
        "an intervention (interp run black_cat).",
    )
    pieces = [visible(piece) for piece in model.to_str_tokens(tokens)]
    picture = charts.attention_matrix(pattern, pieces, f"Attention, {source}")
    return Section("Each new word", reading, table, (picture,))
