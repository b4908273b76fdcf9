"""What the store page does: it plans, collects, checks, removes and opens activation stores.

All of it stays below one folder; a name is checked by `catalogue.folder` before anything is done.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow as pa

from dashboards.jobs import Report
from interp.errors import DamagedStoreError
from interp.model.gpt2 import HookedGPT2
from interp.store import catalogue, collecting, documents, upkeep
from interp.store.durable import LocalFiles
from interp.store.planned import PlannedStore
from interp.store.preflight import Preflight
from interp.store.preparing import DtypeChoice, Ready
from interp.store.reader import ActivationStore
from interp.store.reader import open as open_store
from interp.store.status import status
from interp.store.writer import Tally
from interp.tiny.language import held_out_examples

SKILLS = ("colour_binding", "indirect_object", "induction", "greater_than")


class Place(NamedTuple):
    """A store below the folder of stores, as it was when it was looked at."""

    root: str
    name: str
    stamp: str
    """Changes when the store does, so that no old answer about it is remembered."""

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return catalogue.folder(Path(self.root), self.name)


class Request(NamedTuple):
    """What is to be collected."""

    texts: tuple[str, ...]
    hooks: tuple[str, ...]
    dtype: DtypeChoice


class Done(NamedTuple):
    """What came of work on a store."""

    action: Literal["collect", "verify", "verify in full", "delete"]
    result: Any
    """A `Status`; the problems that were found; the files that were left."""


class Document(NamedTuple):
    """One text of a store."""

    text: str
    token_ids: tuple[int, ...]
    """Of the sequence that the model was given."""
    prepend_bos: bool


def stores(root: str) -> pd.DataFrame:
    """Every store below a folder."""
    return catalogue.stores(root)


def held_out_texts(n: int) -> tuple[str, ...]:
    """Texts of the embedded model's language that its training never saw, of every skill."""
    each = [held_out_examples(skill, -(-n // len(SKILLS)), seed=0) for skill in SKILLS]
    mixed = chain.from_iterable(zip(*each, strict=True))
    return tuple(example.text + example.answer for example in mixed)[:n]


def estimate(model: HookedGPT2, root: str, request: Request, report: Report) -> Preflight:
    """What collecting would take; nothing is kept."""
    return collecting.estimate(
        model, request.texts, root=Path(root), hooks=list(request.hooks), dtype=request.dtype,
        watch_texts=_reading(request, report),
    )  # fmt: skip


def collect(model: HookedGPT2, place: Place, request: Request, report: Report) -> Done:
    """Collect a new store, or go on with it where the same was begun."""
    found = collecting.collect(
        model, request.texts, path=place.folder, hooks=list(request.hooks), dtype=request.dtype,
        watch_texts=_reading(request, report), **_watched(report),
    )  # fmt: skip
    return Done("collect", found)


def resume(model: HookedGPT2, place: Place, report: Report) -> Done:
    """Collect what is planned in a store and missing; what was given up is tried again."""
    planned = PlannedStore.read(LocalFiles(place.folder))
    found = collecting.collect(
        model, path=place.folder, hooks=list(planned.hooks), retry_failed=True, **_watched(report)
    )
    return Done("collect", found)


def verify(place: Place, full: bool, report: Report) -> Done:
    """Every problem of a store."""
    with _readable(place):
        planned = PlannedStore.read(LocalFiles(place.folder))
        problems = upkeep.verify(
            planned, full=full, watch=lambda done, total: report("Checking", done, total)
        )
    return Done("verify in full" if full else "verify", problems)


def delete(place: Place, report: Report) -> Done:
    """Remove a store; what is left are files of other kinds."""
    report("Removing", 0, 0)
    return Done("delete", catalogue.delete(Path(place.root), place.name))


def document(model: HookedGPT2, place: Place, number: int) -> Document:
    """A text of a store, with the tokens that the model was given."""
    with _opened(place) as store:
        tokens = documents.sequence(store, number)
        text = documents.text(store, number, model)
        return Document(text, tuple(tokens["token_id"].tolist()), store.spec.prepend_bos)


def kinds(model: HookedGPT2, place: Place) -> tuple[str, ...]:  # noqa: ARG001
    """The kinds of hooks in a store."""
    with _opened(place) as store:
        return tuple(documents.kinds(store))


def compare(model: HookedGPT2, place: Place, number: int) -> pd.DataFrame:
    """Stored activations of a document against a run of the model."""
    with _opened(place) as store:
        return documents.compare(store, model, number)


def norms(model: HookedGPT2, place: Place, kind: str, number: int) -> pd.DataFrame:  # noqa: ARG001
    """Norms of a document's rows: `hook`, `pos`, `token`, `norm`."""
    with _opened(place) as store:
        return documents.norms(store, kind, number).to_dataframe().reset_index()


def _watched(report: Report) -> dict[str, Any]:
    """`approve` and `watch` of `collect`, which show how far it is."""
    n_before, n_tokens = 0, 0

    def begin(ready: Ready) -> None:
        nonlocal n_before, n_tokens
        found = status(ready.store)
        n_before, n_tokens = found.n_tokens_committed, found.n_tokens

    def show(tally: Tally) -> None:
        report("Collecting, in tokens:", min(n_before + tally.n_tokens, n_tokens), n_tokens)

    return {"approve": begin, "watch": show}


def _reading(request: Request, report: Report) -> Any:
    return lambda n_documents, _: report("Reading texts:", n_documents, len(request.texts))


@contextmanager
def _opened(place: Place) -> Iterator[ActivationStore]:
    with _readable(place):
        yield open_store(place.folder)


@contextmanager
def _readable(place: Place) -> Iterator[None]:
    """Files that are no Parquet files, or that are gone, as an error that says so."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DamagedStoreError(f"The store {place.name} cannot be read: {error}") from error
