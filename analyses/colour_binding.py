"""Which heads bind a colour to its thing, and does the answer depend on them and on no others?

"I love the color black, I hope someday to have a cat like that. ... The cat is" → black, with one
to three coloured things. Somewhere the model must join colour and thing, and find the thing again.

Prediction, written before running: a head moves the colour to its thing where the thing is first
mentioned, and a later one moves it from there to the end, because the question names the thing: two
hops, so at least two heads. Without the found heads the answer is lost; without as many others it
is not; with nothing but the found heads it stays.

Method: activation patching with the colours, the things or the question exchanged, by named
position and by head (noising, a stated threshold, intervals, sign-flip p-values with Holm's
correction); edge knock-outs; path patching into queries, keys and values; QK and OV circuits. Then
tests on other prompts: resample ablation (z from the same sentence about other words) of what was
found, of each head, of all others, and of random others as control; mean ablation, which is harder;
and what is left of the colour when the main edge is gone.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import pandas as pd
from torch import Tensor
from typer import Option

import interp
from analyses import _binding_search as searching
from analyses import _binding_tests as testing
from interp import charts, prompts
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.weights import model_hash
from interp.progress import Progress, no_progress
from interp.prompts import PromptPairs
from interp.report import Report, Section
from interp.statistics import bootstrap_mean

N_PAIRS = (1, 2, 3)


def run(
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    n: Annotated[int, Option(help="Prompts per set.")] = 40,
    pairs: Annotated[int, Option(help="Coloured things in the search: 2 or 3.")] = 2,
    threshold: Annotated[float, Option(help="Smallest share of an effect that counts.")] = 0.03,
    controls: Annotated[int, Option(help="Random draws of heads that were not found.")] = 20,
    seed: Annotated[int, Option(help="Of prompts, draws and intervals; tests use the next.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """Which heads bind a colour to its thing, and does the answer depend on them?"""
    if pairs not in (2, 3):
        raise PromptError(
            f"The search exchanges two things with each other: pairs 2 or 3, not {pairs}."
        )
    if n < 2 or controls < 1 or not 0 < threshold < 1:
        raise PromptError(
            f"Use 2 or more prompts, 1 or more controls and a threshold between 0 and 1; got {n}, "
            f"{controls} and {threshold}."
        )
    hooked = interp.load(model)
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked), "n": n}
    settings |= {"pairs": pairs, "threshold": threshold, "controls": controls, "seed": seed}
    sets = {k: prompts.colour_binding(hooked, n, seed=seed, n_pairs=k) for k in N_PAIRS}
    behaviour = behaviour_table(hooked, sets, seed)
    sections = [behaviour_section(behaviour)]
    if bool((behaviour["low"] > 0).all()):
        search = searching.Search.of(hooked, sets[pairs], threshold, seed, progress)
        sections += search_sections(search, controls)
    question = f"{sets[pairs].clean[0]} →{sets[pairs].answers[0]}"
    return Report("Which heads bind a colour to its thing?", question, tuple(sections), settings)


def search_sections(search: searching.Search, controls: int) -> Iterator[Section]:
    """Finding the circuit, and testing it if there is one."""
    heads = searching.head_table(search)
    found = searching.found_heads(heads)
    yield searching.depth_section(search)
    yield searching.heads_section(search, heads)
    if not 0 < len(found) < search.model.cfg.n_layers * search.model.cfg.n_heads:
        return  # nothing to test, or nothing to test it against
    edges = searching.edge_table(search)
    inputs = searching.input_table(search, found)
    intact = float(search.metric(last_logits(search.model, search.pairs.clean)).mean())
    yield searching.edges_section(search, edges, intact)
    yield searching.inputs_section(search, inputs)
    yield searching.weights_section(search, found)
    yield searching.circuit_section(search, heads, edges, inputs, intact)
    n, seed = len(search.pairs), search.seed + 1
    outcomes = [
        testing.outcome_table(search.model, found, n_pairs, n, controls, seed)
        for n_pairs in search.progress(N_PAIRS, "Ablating what was found, and what was not")
    ]
    yield testing.ablation_section(pd.concat(outcomes, ignore_index=True), found, n)
    yield testing.mean_section(search, found)
    yield testing.cut_section(search)
    reader = testing.first_reader(edges)
    if reader in found:
        yield testing.paths_section(search, found, reader)


def last_logits(model: HookedGPT2, texts: Sequence[str]) -> Tensor:
    """Logits where the prompts end."""
    return model(model.to_batch(texts), positions="last")


def behaviour_table(model: HookedGPT2, sets: Mapping[int, PromptPairs], seed: int) -> pd.DataFrame:
    """The logit difference with 1, 2 and 3 things, and how often the answer comes first."""
    rows = []
    for k, pairs in sets.items():
        logits = last_logits(model, pairs.clean)
        exchanged = pairs.metric(model)(last_logits(model, pairs.corrupted))
        right = logits[:, 0].argmax(dim=-1) == pairs.answer_ids(model).to(logits.device)
        interval = bootstrap_mean(pairs.metric(model)(logits).numpy(force=True), seed=seed)
        rows.append(
            {"condition": f"{k} coloured thing{'s' if k > 1 else ''}", "n": len(pairs)}
            | interval._asdict()
            | {"right": float(right.float().mean()), "colours exchanged": float(exchanged.mean())}
        )
    return pd.DataFrame(rows)


def behaviour_section(table: pd.DataFrame) -> Section:
    """Whether there is anything to explain."""
    lowest = table.loc[table["low"].idxmin()]
    reading = (
        "logit(answer) - logit(another colour) where the prompt ends, in logits: mean and 95 % "
        "bootstrap interval over prompts; “right”: the answer is the likeliest word of all. The "
        "other colour is that of another thing; with one thing, one that the prompt does not name. "
        "“Colours exchanged”: the same difference when the two colours change places.",
        "The model prefers the right colour in every set."
        if lowest.low > 0
        else f"With {lowest.condition} the interval reaches {lowest.low:+.2f}: this model does not "
        "bind colours, and there is no circuit to look for.",
    )
    picture = charts.intervals(table, "Mean over prompts, 95 % interval", "logit difference")
    return Section("Does the model bind colours?", reading, table, (picture,))
