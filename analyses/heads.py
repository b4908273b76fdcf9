"""What does each head of a model do, as far as simple scores can tell?

Every head is scored for what it attends to and whether it copies; then the heads with the highest
scores are read from their weights: what they look for, what they write, whom they listen to.

Prediction, written before running: most heads are no clear case of anything; one in the first
layers attends to the previous token; the best induction head stands later, copies what it reads,
and its keys read what that previous-token head writes more than random weights would
(K-composition), as in the induction circuit of Elhage et al. 2021 and Olsson et al. 2022.

Method: attention on random words shown twice (Olsson et al. 2022, arXiv:2209.11895), the share of
tokens whose own logit the head raises (Wang et al. 2022, arXiv:2211.00593), top token pairs,
singular values and composition scores of the QK and OV circuits (Elhage et al. 2021).
"""

from collections.abc import Iterable
from typing import Annotated

import pandas as pd
import xarray as xr
from typer import Option

import interp
from interp import charts, head_circuits, heads
from interp.errors import PromptError
from interp.model.gpt2 import HookedGPT2
from interp.model.tokens import visible
from interp.model.weights import model_hash
from interp.progress import Progress, no_progress
from interp.prompts.drawing import single_tokens
from interp.report import Report, Section
from interp.tiny.language import LIST_WORDS

CLEAR = 0.5
"""A score from here on is called a clear case."""
N_COMPOSITIONS = 10
"""Pairs of heads listed for each kind of composition."""
Head = tuple[int, int]


def run(
    model: Annotated[str | None, Option(help="Name, folder or checkpoint; default: tiny.")] = None,
    top: Annotated[int, Option(help="How many heads to list for each kind.")] = 3,
    n_pairs: Annotated[int, Option(help="Token pairs to list for each head.")] = 5,
    n_tokens: Annotated[int, Option(help="Length of the repeated part.")] = 30,
    n_sequences: Annotated[int, Option(help="Number of random sequences.")] = 64,
    seed: Annotated[int, Option(help="Of the random words.")] = 0,
    progress: Progress = no_progress,
) -> Report:
    """What does each head of a model do, as far as simple scores can tell?"""
    if top < 1 or n_pairs < 1:
        raise PromptError(f"top and n_pairs must be 1 or more, got {top} and {n_pairs}.")
    hooked = interp.load(model)
    words = single_tokens(hooked, LIST_WORDS, at_least=2)
    vocabulary = [hooked.to_single_token(f" {word}") for word in words]
    sizes = {"n_tokens": n_tokens, "n_sequences": n_sequences, "seed": seed}
    scores = heads.scores(hooked, vocabulary, **sizes)
    leaders = leading_heads(scores, top)
    best = leaders[leaders["rank"] == 1]
    chosen = distinct_heads(leaders)
    sections = [catalogue_section(scores), leader_section(leaders)]
    if hooked.cfg.n_layers > 1:
        composition = head_circuits.composition_scores(hooked)
        sections.append(composition_section(composition, scores, best))
    sections.append(query_key_section(hooked, progress(chosen, "QK circuits"), vocabulary, n_pairs))
    if hooked.cfg.n_classes is None:
        sections.append(
            output_section(hooked, progress(chosen, "OV circuits"), vocabulary, n_pairs)
        )
    values = head_circuits.singular_values(hooked)
    sections.append(strength_section(values, distinct_heads(best)))
    settings = {"model": hooked.cfg.model_name, "model_hash": model_hash(hooked)}
    settings |= {"top": top, "n_pairs": n_pairs, "n_words": len(words)}
    return Report(
        "What does each head do?",
        f"All {hooked.cfg.n_layers * hooked.cfg.n_heads} heads of {hooked.cfg.model_name}: what "
        "they attend to, what they copy, and whom they listen to.",
        tuple(sections),
        settings | sizes | {"definitions": heads.DEFINITIONS},
    )


def leading_heads(scores: xr.DataArray, top: int) -> pd.DataFrame:
    """The heads with the highest scores, by kind."""
    found = []
    for kind in heads.KINDS:
        highest = scores.sel(kind=kind).to_series().dropna().nlargest(top)
        table = highest.rename("score").reset_index()
        table.insert(0, "kind", kind)
        table.insert(1, "rank", range(1, len(table) + 1))
        found.append(table)
    return pd.concat([table for table in found if len(table)], ignore_index=True)


def distinct_heads(table: pd.DataFrame) -> list[Head]:
    """Each head of the table once, in order of layers."""
    return sorted({(int(row.layer), int(row.head)) for row in table.itertuples()})


def name(layer: int, head: int) -> str:
    """As L2H3."""
    return f"L{layer}H{head}"


def catalogue_section(scores: xr.DataArray) -> Section:
    """Every head with all its scores."""
    table = scores.to_series().unstack("kind")[list(heads.KINDS)].reset_index()
    attention = [k for k in heads.KINDS if k not in ("entropy", "distance")]
    clear = int((table[attention].max(axis=1) >= CLEAR).sum())
    reading = (
        *(f"{kind}: {definition}." for kind, definition in heads.DEFINITIONS.items()),
        f"{clear} of {len(table)} heads have a score of {CLEAR} or more in one of "
        f"{', '.join(attention)}; the others are no clear case of any of these.",
    )
    shown = [kind for kind in heads.KINDS if table[kind].notna().all()]
    pictures = tuple(charts.head_map(table, kind, kind.replace("_", " ")) for kind in shown)
    return Section("All heads", reading, table, pictures)


def leader_section(leaders: pd.DataFrame) -> Section:
    """The first heads of each kind."""
    reading = tuple(
        f"{row.kind}: {name(row.layer, row.head)} leads with {row.score:.3f}."
        for row in leaders[leaders["rank"] == 1].itertuples()
    )
    return Section("The first heads of each kind", reading, leaders)


def composition_section(
    composition: xr.DataArray, scores: xr.DataArray, best: pd.DataFrame
) -> Section:
    """Which heads read what others write, and whether the induction circuit is among them."""
    baseline = composition.attrs["baseline"]
    pairs = composition.to_series().dropna().rename("score")
    table = pairs.groupby("kind", sort=False, group_keys=False).nlargest(N_COMPOSITIONS)
    table = table.reset_index().assign(times_baseline=lambda rows: rows["score"] / baseline)
    sender, receiver = (_best(best, kind) for kind in ("previous_token", "induction"))
    into = composition.sel(receiver_layer=receiver[0], receiver_head=receiver[1])
    reading = [
        "Composition says how strongly the receiver's query (Q), key (K) or value (V) reads what "
        f"the sender writes, as a ratio of norms: 0 to 1, and {baseline:.3f} for random weights of "
        "this size. It is about weights alone; whether a path is used is a question for patching.",
        circuit_reading(into, scores, sender, receiver, baseline),
    ]
    tables = [
        into.sel(kind=kind).to_series().dropna().rename("score").reset_index()
        for kind in composition["kind"].values
    ]
    columns = {"sender_layer": "layer", "sender_head": "head"}
    pictures = tuple(
        charts.head_map(
            senders.rename(columns=columns), "score", f"{kind}-composition into {name(*receiver)}"
        )
        for kind, senders in zip("QKV", tables, strict=True)
        if len(senders)
    )
    return Section("Which heads listen to which", tuple(reading), table, pictures)


def circuit_reading(
    into: xr.DataArray, scores: xr.DataArray, sender: Head, receiver: Head, baseline: float
) -> str:
    """Whether the numbers show the predicted induction circuit."""
    induction, copying = (
        float(scores.sel(kind=kind, layer=receiver[0], head=receiver[1]))
        for kind in ("induction", "ov_copying")
    )
    found = (
        f"The best induction head is {name(*receiver)} (induction {induction:.2f}, copying "
        f"{copying:.2f}), the best previous-token head {name(*sender)}. "
    )
    if sender[0] >= receiver[0]:
        return found + "The second does not stand before the first: not the predicted circuit."
    by_kind = into.sel(sender_layer=sender[0], sender_head=sender[1]) / baseline
    q, k, v = (float(by_kind.sel(kind=kind)) for kind in "QKV")
    rank = 1 + int((into.sel(kind="K") / baseline > k).sum())
    held = induction >= CLEAR and copying >= CLEAR and k > max(1.0, q, v)
    return found + (
        f"From the second into the first: K {k:.2f} times the baseline (rank {rank} of "
        f"{int(into.sel(kind='K').notnull().sum())} earlier heads), Q {q:.2f}, V {v:.2f}. "
        + ("The prediction holds." if held else "The prediction does not hold here.")
    )


def _best(best: pd.DataFrame, kind: str) -> Head:
    row = best[best["kind"] == kind].iloc[0]
    return int(row["layer"]), int(row["head"])


def query_key_section(
    model: HookedGPT2, chosen: Iterable[Head], vocabulary: list[int], n_pairs: int
) -> Section:
    """What the leading heads look for, among these words."""
    tables = []
    for layer, head in chosen:
        pairs = head_circuits.qk_top_pairs(model, layer, head, vocabulary, n_pairs=n_pairs)
        table = pairs[["query_token", "key_token", "score"]].to_dataframe()
        tables.append(table.assign(head=name(layer, head)))
    table = _visible(pd.concat(tables))[["head", "query_token", "key_token", "score"]]
    strongest = table.loc[table["score"] == table["score"].max()].iloc[0]
    reading = (
        f"Query and key words with the highest attention scores, of {len(vocabulary)} words, for "
        "the heads listed above: each word alone in the stream, without position, relative to "
        "the mean over the keys. A head that goes by position has nothing to show here.",
        f"Strongest: {strongest['head']}, {strongest['query_token']!r} looks for "
        f"{strongest['key_token']!r} (+{strongest['score']:.2f}).",
    )
    return Section("What they look for (QK)", reading, table)


def output_section(
    model: HookedGPT2, chosen: Iterable[Head], vocabulary: list[int], n_pairs: int
) -> Section:
    """What the leading heads write, among these words."""
    tables = []
    for layer, head in chosen:
        pairs = head_circuits.ov_top_pairs(model, layer, head, vocabulary, n_pairs=n_pairs)
        table = pairs[["read_token", "raised_token", "logit"]].to_dataframe()
        tables.append(table.assign(head=name(layer, head)))
    table = _visible(pd.concat(tables))[["head", "read_token", "raised_token", "logit"]]
    copied = table[table["read_token"] == table["raised_token"]].groupby("head").size()
    reading = (
        "When the head reads the first word, the logit of the second rises most, compared with "
        "reading an average word (final LayerNorm scale 1, direct path only).",
        "Pairs of a word with itself: "
        + ("; ".join(f"{head} {n} of {n_pairs}" for head, n in copied.items()) or "none")
        + ".",
    )
    return Section("What they write (OV)", reading, table)


def _visible(table: pd.DataFrame) -> pd.DataFrame:
    """With white space of tokens shown."""
    tokens = [column for column in table.columns if column.endswith("_token")]
    return table.assign(**{column: table[column].map(visible) for column in tokens})


def strength_section(values: xr.DataArray, chosen: list[Head]) -> Section:
    """Singular values: the largest of each head, and all of the leading ones."""
    largest = values.isel(component=0).to_series().unstack("circuit")
    table = largest[["QK", "OV"]].add_suffix(" largest").reset_index()
    curves = values.to_series().rename("value").reset_index()
    curves = curves.assign(
        series=[name(*head) for head in zip(curves["layer"], curves["head"], strict=True)]
    )
    curves = curves[curves["series"].isin([name(*head) for head in chosen])]
    curves = curves.assign(component=curves["component"] + 1)
    best = table.loc[table["QK largest"].idxmax()]
    reading = (
        f"Singular values of {values.attrs['unit']}; LayerNorm weights folded in. A head whose "
        "values fall quickly acts along few directions.",
        f"Largest QK value: {name(int(best['layer']), int(best['head']))} with "
        f"{best['QK largest']:.2f}.",
    )
    pictures = tuple(
        charts.lines(
            curves[curves["circuit"] == circuit],
            "component",
            "value",
            "series",
            f"Singular values of {circuit}",
        )
        for circuit in ("QK", "OV")
    )
    return Section("How strong the circuits are", reading, table, pictures)
