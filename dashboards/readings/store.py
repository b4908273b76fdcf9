"""What activation stores hold, what collecting takes, and what a check found."""

from datetime import timedelta

import pandas as pd
from rich.filesize import decimal

from dashboards.components.prose import code
from dashboards.measurements.store import Done
from interp.store.catalogue import Entry
from interp.store.preflight import Preflight
from interp.store.status import Status

MOST_NAMED = 3


def listed(table: pd.DataFrame) -> list[str]:
    """How many stores there are, and which are not whole.

    Args:
        table: As of `interp.store.catalogue.stores`.
    """
    if table.empty:
        return ["There is no store yet. Collect one below."]
    unlike = table[table["state"] != "complete"]
    n = "1 store" if len(table) == 1 else f"{len(table)} stores"
    says = f"{n}, {decimal(int(table['n_bytes'].sum()))} on disk."
    if unlike.empty:
        return [f"{says} Nothing is missing."]
    named = ", ".join(
        f"{code(each.name)} ({each.state})" for each in unlike.head(MOST_NAMED).itertuples()
    )
    return [f"{says} {len(unlike)} not complete: {named}."]


def about(entry: Entry) -> list[str]:
    """What one store holds."""
    if entry.state in ("unplanned", "unreadable"):
        return [f"{code(entry.name)} holds {decimal(entry.n_bytes)} and cannot be opened."]
    return [
        f"{code(entry.name)} is {entry.state}: {entry.n_committed} of {entry.n_units} units. "
        f"{entry.n_documents:,} documents, {entry.n_tokens:,} tokens, {entry.n_rows:,} rows of "
        f"{len(entry.hooks)} hooks, {decimal(entry.n_bytes)}, by {code(entry.model)}, "
        f"{entry.written} UTC."
    ]


def costs(found: Preflight) -> list[str]:
    """What collecting will take."""
    seconds = timedelta(seconds=max(1, round(found.seconds)))
    free = "" if found.free_bytes is None else f" of {decimal(found.free_bytes)} free"
    says = [
        f"{found.n_documents:,} documents, {found.n_tokens:,} tokens: {found.n_rows:,} rows of "
        f"{len(found.hooks)} hooks, **{decimal(found.n_bytes)}**{free}, about {seconds} "
        "(h:mm:ss). Nothing is written before you collect."
    ]
    if found.large_hooks:
        says.append(
            "Some hooks take more than 64 KiB a token. Patterns follow from q and k, which are far "
            "smaller."
        )
    return says


def done(work: Done) -> list[str]:
    """What came of it, in words."""
    if work.action == "delete":
        return [_deleted(work.result)]
    if work.action == "collect":
        return [_collected(work.result)]
    if work.result:
        return [
            f"Damaged: {len(work.result)} problems. What is named below must not be used; remove "
            "the store, or restore these files from a copy."
        ]
    if work.action == "verify":
        return [
            "Sound: sizes, headers, tokens and records are as written. The values themselves were "
            "not read; a full check does that."
        ]
    return ["Sound: every byte is as written."]


def _deleted(left: list[str]) -> str:
    if not left:
        return "The store is removed."
    return "The store is removed. Files that are not of a store were left, such as " + code(left[0])


def _collected(found: Status) -> str:
    if found.is_complete:
        return f"Complete: all units are committed, {found.n_tokens_committed:,} tokens."
    return (
        f"{found.n_committed} of {found.n_planned} units are there; {len(found.failed)} were given "
        "up. Resume tries them again."
    )


def check(table: pd.DataFrame) -> list[str]:
    """Whether the model still gives what is stored.

    Args:
        table: As of `interp.store.documents.compare`.
    """
    worst = table.loc[(table["difference"] / table["allowed"].clip(lower=1e-12)).idxmax()]
    says = (
        f"largest difference {worst.difference:.2g} in {code(worst.hook)}, at a largest value of "
        f"{worst.largest:.3g}"
    )
    if worst.n_rows == 0:
        return ["No row of this document is stored, so there is nothing to compare."]
    if worst.difference <= worst.allowed:
        return [
            f"The model gives what is stored: {says}. That is within the rounding of "
            f"{worst['dtype']}."
        ]
    return [
        f"**The model does not give what is stored**: {says}, where {worst.allowed:.2g} would be "
        f"the rounding of {worst['dtype']}. The store may be damaged: check it in full."
    ]


def norms(table: pd.DataFrame) -> list[str]:
    """Where activations are large.

    Args:
        table: As of `measurements.store.norms`.
    """
    if table.empty:
        return ["No row of this document is stored."]
    top = table.loc[table["norm"].idxmax()]
    rest = table[table["pos"] != 0]["norm"]
    first = table[table["pos"] == 0]["norm"]
    says = (
        f"Largest at {code(top.token)} (position {top.pos}), in {code(top.hook)}: {top.norm:.3g}."
    )
    if len(first) and len(rest):
        says += (
            f" The first position has {first.mean():.3g} on average, the others {rest.mean():.3g}."
        )
    return [f"{says} Large does not mean important: each LayerNorm divides the length out again."]
