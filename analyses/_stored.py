"""Activations that a study works on: from a store that stays, or from one that goes with it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from interp import store
from interp.errors import StoreError
from interp.model.gpt2 import HookedGPT2
from interp.store.files import store_files
from interp.store.reader import ActivationStore
from interp.store.spec import read_store


@contextmanager
def collected(
    model: HookedGPT2, texts: Sequence[str] | None, hooks: Sequence[str], path: Path | None
) -> Iterator[ActivationStore]:
    """A store of these activations.

    Args:
        texts: None to use the tokens that the store at `path` has.
        path: Where it stays for the next time; what is there already is not computed again. None
            for a temporary one.

    Raises:
        StoreError: the folder holds other texts or another model, or units were given up.
    """
    with TemporaryDirectory(prefix="interp-store-") as temporary:
        folder = path or Path(temporary, "store")
        done = store.collect(model, texts, path=folder, hooks=list(hooks))
        if not done.is_complete:
            raise StoreError(
                f"The store at {folder} lacks {done.n_planned - done.n_committed} of "
                f"{done.n_planned} units. See `interp cache status`, or choose another folder."
            )
        yield store.open(folder)


def is_store(path: Path) -> bool:
    """Whether a folder holds a store."""
    return read_store(store_files(path)) is not None
