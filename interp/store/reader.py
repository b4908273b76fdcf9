"""Open a store: all that is in it, with neither the model, the tokenizer nor the texts at hand.

Nothing is believed but what the store's records vouch for, and nothing in a store is run as code.
A store may be moved, be read-only, or be unfinished: then the rows of missing units are not there.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from interp.errors import StoreError
from interp.store.collected import Collected, Verify
from interp.store.files import store_files
from interp.store.index import Rows, TokenIndex, matching
from interp.store.plan import VOCABULARY_SCHEMA, read_table
from interp.store.planned import PlannedStore
from interp.store.spec import Spec
from interp.store.views import AlignedViews, View

FROM_TOKENS = ("sequence", "pos", "token_id", "document", "document_pos")
"""Columns of `first_sequence` that the token files have."""


class ActivationStore:
    """A store as it was when it was opened; open it again to see units collected since.

    Args:
        verify: `rows` checks every row against its checksum before it is given out, once; `full`
            reads and checks everything now; `size` checks sizes, headers and moments; `none`
            nothing.
    """

    def __init__(self, store: PlannedStore, *, verify: Verify = "rows") -> None:
        self._store = store
        self._collected = Collected(store, verify=verify)
        self._index = TokenIndex(store, _vocabulary(store))

    @property
    def hooks(self) -> list[str]:
        """Names of the hooks that are stored."""
        return list(self._store.hooks)

    @property
    def spec(self) -> Spec:
        """What decides the numbers."""
        return self._store.spec

    @property
    def n_documents(self) -> int:
        """Texts that were read, also those that gave no token."""
        return self._store.record.plan.n_documents

    @property
    def n_rows(self) -> int:
        """Rows that every hook has."""
        return sum(unit.n_rows for unit in self._collected.units(self.hooks))

    @property
    def is_complete(self) -> bool:
        """Whether every hook has all rows of the plan."""
        return self._collected.is_complete

    def __repr__(self) -> str:
        whole = "complete" if self.is_complete else "unfinished"
        return (
            f"ActivationStore at {self._store.files}: {self.n_rows:,} of "
            f"{self._store.record.plan.n_rows:,} rows of {len(self.hooks)} hooks, {whole}"
        )

    def view(
        self, hook: str, *, where: str | None = None, units: Iterable[int] | None = None
    ) -> View:
        """Rows of one hook.

        Args:
            where: An SQL condition over `interp.store.index.COLUMNS`, such as
                `"pos > 0 and token = ' black'"`.
            units: Only these units.

        Raises:
            StoreError: the hook is not stored, or the condition is none; says what there is.
        """
        return View(self._collected, self._index, self._rows([hook], where, units), hook)

    def align(
        self,
        hooks: Sequence[str],
        *,
        where: str | None = None,
        units: Iterable[int] | None = None,
    ) -> AlignedViews:
        """The rows that all of these hooks have; options as `view`."""
        if isinstance(hooks, str) or not hooks:
            raise StoreError(f"Give a list of hooks, such as {self.hooks[:2]}; got {hooks!r}.")
        return AlignedViews(self._collected, self._index, self._rows(hooks, where, units), hooks)

    def first_sequence(self, document: int) -> pa.Table:
        """What the model was given together with a document's first token, in order.

        Returns:
            `unit`, `sequence`, `pos`, `token_id`, `token`, `document`, `document_pos` (null where
            the store added the token) and `stored` (whether the hooks have a row for it).

        Raises:
            StoreError: there is no such document, or it gave no token.
        """
        if not 0 <= document < self.n_documents:
            raise StoreError(f"Document {document}: documents are 0 to {self.n_documents - 1}.")
        for unit in self._index.units_of_document(document):
            tokens = self._store.tokens(unit)
            own = pc.and_(pc.equal(tokens["document"], document), tokens["document_pos"].is_valid())
            if not pc.any(own).as_py():
                continue
            sequence = pc.min(tokens["sequence"].filter(own))
            found = tokens.filter(pc.equal(tokens["sequence"], sequence))
            return pa.table(
                {
                    "unit": pa.array(np.full(len(found), unit)),
                    "token": self._index.vocabulary.take(found["token_id"]),
                    "stored": found["row"].is_valid(),
                }
                | {name: found[name] for name in FROM_TOKENS}
            ).select(["unit", *FROM_TOKENS, "token", "stored"])
        raise StoreError(f"Document {document} is empty: it gave no token.")

    def _rows(self, hooks: Sequence[str], where: str | None, units: Iterable[int] | None) -> Rows:
        chosen = self._collected.units(hooks)
        if units is not None:
            wanted = set(units)
            n_units = len(self._store.plan.units)
            if unknown := sorted(wanted - set(range(n_units))):
                raise StoreError(f"There is no unit {unknown[0]}; units are 0 to {n_units - 1}.")
            chosen = [unit for unit in chosen if unit.unit in wanted]
        if where is None:
            return Rows(chosen)
        tables = (self._index.table(unit.unit) for unit in chosen)
        return Rows(chosen, [np.packbits(mask) for mask in matching(tables, where)])


def open(path: str | Path, *, verify: Verify = "rows") -> ActivationStore:
    """Open the store in a folder; see `ActivationStore`.

    Raises:
        StoreError: there is no store, or one of another format.
        DamagedStoreError: a file is missing or was altered; names it.
    """
    return ActivationStore(PlannedStore.read(store_files(path)), verify=verify)


def _vocabulary(store: PlannedStore) -> pa.Array:
    """The text of every token id; null where the tokenizer has a gap."""
    table = read_table(store.files, store.record.vocabulary, VOCABULARY_SCHEMA)
    ids = table["token_id"].to_numpy()
    pieces = np.full(ids.max(initial=-1) + 1, None, dtype=object)
    pieces[ids] = table["token"].to_pylist()
    return pa.array(pieces, pa.string())
