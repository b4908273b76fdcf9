"""Does "cat" attend to "black", and does it matter?

In "I love the color black, I hope someday to have a cat like that." a head's attention from "cat"
to "black" is often shown as what the model understood. Is the weight real, where does it come from,
and does the model's answer to "The cat is" depend on it?

Prediction, written before running: some head puts most of its weight on the colour, and cutting
that edge lowers the answer's logit difference; cutting an edge of equal weight elsewhere does not.

Method: weights of all heads; the formula, with its numbers, in the head with the largest causal
effect; then the answer as is, with the edge cut (score set to -inf, so the row renormalises) in
that head and in all heads, with the colour swapped, and with a control edge of equal weight cut;
the same over generated sentences, none of which chose the head, with a bootstrap interval.
"""

from collections.abc import Sequence
from typing import Annotated

import pandas as pd
import xarray as xr
from typer import Option

import interp
from interp import attention, charts, edge_tests
from interp.edge_tests import ALL_HEADS, CONTROL, ONE_HEAD, answer_ids
from interp.errors import PromptError
from interp.metrics import Metric, logit_diff
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import visible
from interp.model.weights import model_hash
from interp.progress import Progress, no_progress
from interp.report import Report, Section
from interp.tiny.language import WORDS, Example, held_out_examples

SENTENCE = "I love the color black, I hope someday to have a cat like that."


def run(
    text: Annotated[str, Option(help="The sentence.")] = SENTENCE,
    query: Annotated[str, Option(help="The word that looks.")] = "cat",
    key: Annotated[str, Option(help="The word that is looked at, and the answer.")] = "black",
    question: Annotated[
        str, Option(help="Follows the sentence; {query} is filled in.")
    ] = "The {query} is",
    swap: Annotated[str, Option(help="What replaces the key; default: another colour.")] = "",
    query_occurrence: Annotated[int | None, Option(help="Which, if the query repeats.")] = None,
    key_occurrence: Annotated[int | None, Option(help="Which, if the key repeats.")] = None,
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    sentences: Annotated[int, Option(help="Generated sentences; 0 leaves that step out.")] = 200,
    seed: Annotated[int, Option(help="Of the generated sentences and the bootstrap.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """Does "cat" attend to "black", and does it matter?"""
    if sentences < 0 or sentences == 1:
        raise PromptError(f"Use 0 sentences, or 2 and more for an interval; got {sentences}.")
    hooked = interp.load(model)
    query_pos = hooked.find_word(text, query, occurrence=query_occurrence)
    key_pos = hooked.find_word(text, key, occurrence=key_occurrence)
    prompt = f"{text} {question.replace('{query}', query)}"
    swap = swap or another_colour(hooked, text, key)
    swapped_text = prompt.replace(key, swap)
    asked = Example("", prompt, f" {key}", f" {swap}", f" {query}", f" {key}", swapped_text)

    heads = attention.edge_effects(
        hooked, prompt, query_pos, key_pos, answer_metric(hooked, [asked])
    )
    layer, head = strongest_head(heads)
    outcomes = edge_tests.outcomes(
        hooked, prompt, (layer, head, query_pos, key_pos), *answer_ids(hooked, [asked]),
        swapped=swapped_text,
    )  # fmt: skip
    steps = attention.explain(hooked, text, layer, head, query_pos, key_pos)
    sections = [
        token_section(hooked, text),
        heads_section(heads, query, key, layer, head),
        product_section(steps, layer, head, query, key),
        formula_section(hooked, text, steps, query_pos, key_pos),
        claim_section(hooked, asked, outcomes),
    ]
    if sentences:
        examples = held_out_examples("colour_binding_1", sentences, seed)
        sections.append(general_section(hooked, examples, layer, head, seed, progress))
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked), "seed": seed}
    settings |= {"text": text, "query": query, "key": key, "question": question, "swap": swap}
    settings |= {"sentences": sentences, "prepend_bos": hooked.cfg.default_prepend_bos}
    title = f"Does “{query}” attend to “{key}”, and does it matter?"
    return Report(title, f"{prompt} → {asked.answer.strip()}?", tuple(sections), settings)


def another_colour(model: HookedGPT2, text: str, key: str) -> str:
    """A colour that is one token and not in the text; `key` must be a colour too."""
    if key not in WORDS["colours"]:
        raise PromptError(f"{key!r} is not a colour we know; say what replaces it with --swap.")
    unused = [colour for colour in WORDS["colours"] if colour not in text]
    return next(colour for colour in unused if len(model.to_str_tokens(f" {colour}", False)) == 1)


def answer_metric(model: HookedGPT2, examples: Sequence[Example]) -> Metric:
    """logit(answer) - logit(wrong answer)."""
    return logit_diff(*answer_ids(model, examples))


def strongest_head(heads: xr.Dataset) -> tuple[int, int]:
    """The head whose edge, when cut, lowers the metric most."""
    lowest = heads["effect"].isel(example=0).argmin(dim=("layer", "head"))
    return int(lowest["layer"]), int(lowest["head"])


def token_section(model: HookedGPT2, text: str) -> Section:
    """What the model reads."""
    ids = model.to_tokens(text)[0].tolist()
    pieces = model.to_str_tokens(ids)
    table = pd.DataFrame(
        {"position": range(len(ids)), "token": [visible(piece) for piece in pieces], "id": ids}
    )
    reading = (
        f"The sentence is {len(ids)} tokens for {model.cfg.model_name}. A space belongs to the "
        "token that follows it (shown as ·). The first token marks the beginning of the text; many "
        "heads rest on it when they have nothing to look for.",
    )
    return Section("The sentence as tokens", reading, table)


def heads_section(heads: xr.Dataset, query: str, key: str, layer: int, head: int) -> Section:
    """Every head's weight on the edge beside its effect."""
    columns = ["layer", "head", "weight", "rank", "lift", "effect"]
    table = heads.isel(example=0).to_dataframe().reset_index()[columns]
    table = table.sort_values("effect", ignore_index=True)
    chosen = table.iloc[0]
    heaviest = table.sort_values("weight").iloc[-1]
    name = f"L{layer}H{head}"
    reading = [
        f"Weight is the share of its attention that “{query}” gives to “{key}”; rank 1 means no "
        f"token gets more; lift is the weight over what even attention would give. Effect is the "
        f"change of logit(answer) - logit(swapped word) when that one edge is cut.",
        f"Largest effect: {name} with {chosen.effect:+.2f} logits at weight {chosen.weight:.3f} "
        f"(rank {chosen['rank']:.0f}, {chosen.lift:.1f} times even attention).",
    ]
    if (heaviest.layer, heaviest["head"]) != (layer, head):
        reading.append(
            f"The heaviest edge is another: L{heaviest.layer:.0f}H{heaviest['head']:.0f} with "
            f"weight {heaviest.weight:.3f}, whose effect is {heaviest.effect:+.2f}. A high weight "
            "alone does not show that the answer depends on it."
        )
    pictures = (
        charts.head_map(table, "weight", f"Attention weight, “{query}” to “{key}”"),
        charts.head_map(table, "effect", "Effect of cutting that edge (logits)", signed=True),
    )
    return Section("Which heads look, and which matter", tuple(reading), table, pictures)


def product_section(steps: xr.Dataset, layer: int, head: int, query: str, key: str) -> Section:
    """q·k, coordinate by coordinate."""
    table = steps[["q", "k", "product"]].to_dataframe().reset_index(names="coordinate")
    largest = table.loc[table["product"].abs().idxmax()]
    reading = (
        f"In L{layer}H{head} “{query}” asks with the vector q and “{key}” answers with k, "
        f"{len(table)} numbers each. Their products sum to q·k = {float(steps.dot):.3f}; the "
        f"largest is {largest['product']:+.2f}, at coordinate {largest.coordinate:.0f}. Only "
        "differences between the keys of one query matter to the softmax, so q·k may be negative.",
    )
    picture = charts.bars(table, "coordinate", "product", "q·k by coordinate")
    return Section("The question q and the key k", reading, table, (picture,))


def formula_section(
    model: HookedGPT2, text: str, steps: xr.Dataset, query: int, key: int
) -> Section:
    """softmax(q·k / √d_head) v with its numbers."""
    layer, head = steps.attrs["layer"], steps.attrs["head"]
    tokens = [visible(token) for token in steps["token"].values]
    visible_keys = range(query + 1)
    table = pd.DataFrame(
        {
            "key": charts.token_labels(tokens),
            "score": steps["score"].values,
            "softmax": steps["weight"].values,
            "|v|": steps["value_norm"].values,
            "share of output": steps["share"].values,
        }
    )
    d_head = model.cfg.d_head
    others = len(visible_keys) - 1
    reading = (
        f"Head L{layer}H{head}, query {tokens[query]!r} (position {query}), key {tokens[key]!r} "
        f"(position {key}): q·k = {float(steps.dot):.3f}. Times "
        f"{steps.attrs['score_factor']:.4f}, which is 1/√{d_head} in a plain GPT-2: "
        f"{float(steps.scaled):.3f}. Positions after the query are masked (-inf).",
        f"The softmax sets this score against those of {others} other visible positions: "
        f"weight {float(steps['weight'][key]):.4f}. The value read there makes up "
        f"{float(steps['share'][key]):.1%} of what the head writes for this query (A·v·W_O, "
        "projected on the whole; all shares sum to 1).",
        f"Check: this equals the model's own hook_pattern; largest difference "
        f"{float(steps.difference):.1e}.",
    )
    _, cache = model.run_with_cache(text, names_filter=f"blocks.{layer}.attn.hook_pattern")
    pictures = (
        charts.attention_row(
            steps["weight"].values.tolist(),
            tokens,
            f"Where {tokens[query]} looks in L{layer}H{head}",
        ),
        charts.attention_matrix(
            cache["pattern", layer][0, head], tokens, f"All of L{layer}H{head}: rows sum to 1"
        ),
    )
    return Section("The formula with its numbers", reading, table, pictures)


def claim_section(
    model: HookedGPT2,
    asked: Example,
    outcomes: xr.Dataset,
) -> Section:
    """The answer with and without the edge, on the one sentence."""
    first = outcomes.isel(example=0)
    table = first[["probability", "logit_diff", "effect"]].to_dataframe().reset_index()
    by_condition = table.set_index("condition")
    tokens = [visible(token) for token in model.to_str_tokens(asked.text)]
    reading = [
        f"Question: “{asked.text}” Probability of “{asked.answer.strip()}” and "
        f"logit({asked.answer.strip()}) - logit({asked.wrong.strip()}), in logits.",
        "The control edge is the one of nearest weight, in any head, that touches neither word nor "
        f"the last position: L{int(first.control_layer)}H{int(first.control_head)}, "
        f"{tokens[int(first.control_query)]!r} to {tokens[int(first.control_key)]!r}, weight "
        f"{float(first.control_weight):.3f} against {float(first.original_weight):.3f}.",
        edge_tests.verdict(by_condition["logit_diff"].to_dict()),
    ]
    chart_rows = table.rename(columns={"logit_diff": "mean"}).assign(
        low=table["logit_diff"], high=table["logit_diff"]
    )
    picture = charts.intervals(chart_rows, "The answer in each condition", "logit difference")
    return Section("Does it matter for this sentence?", tuple(reading), table, (picture,))


def general_section(
    model: HookedGPT2, examples: Sequence[Example], layer: int, head: int, seed: int,
    progress: Progress,
) -> Section:  # fmt: skip
    """The same over sentences that had no part in choosing the head."""
    found = edge_tests.over_examples(model, examples, layer, head, progress=progress)
    table = edge_tests.summary(found, seed=seed)
    effect, everywhere, control = (
        edge_tests.effect(found, condition, seed=seed)
        for condition in (ONE_HEAD, ALL_HEADS, CONTROL)
    )
    reading = (
        f"{len(examples)} sentences in several phrasings, with colours and things that training "
        f"never combined; head L{layer}H{head} was chosen on the sentence above, not on these. "
        "Mean and bootstrap 95 % interval over sentences.",
        f"Mean effect on the logit difference: edge cut in this head {effect}, in all heads "
        f"{everywhere}, control edge {control}.",
        edge_tests.general_verdict(effect, everywhere, control),
    )
    in_logits = table[table["measure"] == "logit_diff"]
    picture = charts.intervals(
        in_logits, f"Mean over {len(examples)} sentences, 95 % interval", "logit difference"
    )
    return Section("Does it hold in general?", reading, table, (picture,))
