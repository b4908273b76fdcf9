"""One document of a store: its text, how large its activations are, and whether a model repeats
them.

Everything is of the first sequence that the model was given of the document: all of it, unless the
text was longer than the store's `ctx`.
"""

import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from interp.errors import StoreError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import split_name
from interp.model.weights import model_hash
from interp.store.preparing import tokenizer_hash
from interp.store.reader import ActivationStore
from interp.store.recording import Batch, record_rows
from interp.store.spec import DTYPES

RUN_TOLERANCE = 1e-4
"""Of the largest value: what padding and the order of sums may change in a run."""


def sequence(store: ActivationStore, document: int) -> pd.DataFrame:
    """The tokens of the document's first sequence; see `ActivationStore.first_sequence`.

    Raises:
        StoreError: there is no such document, or it gave no token.
    """
    table = store.first_sequence(document).to_pandas()
    return table.assign(document_pos=table["document_pos"].astype("Int32"))


def text(store: ActivationStore, document: int, model: HookedGPT2 | None = None) -> str:
    """The document's own text in its first sequence.

    Args:
        model: Whose tokenizer reads the tokens if it is the store's; else the pieces that the store
            keeps are joined, in which bytes that are no whole character are lost.

    Raises:
        StoreError: there is no such document, or it gave no token.
    """
    tokens = sequence(store, document)
    own = tokens[(tokens["document"] == document) & tokens["document_pos"].notna()]
    tokenizer = None if model is None else model.tokenizer
    if tokenizer is not None and tokenizer_hash(tokenizer) == store.spec.tokenizer_hash:
        return tokenizer.decode(own["token_id"].tolist())
    return "".join(piece or "" for piece in own["token"])


def kinds(store: ActivationStore) -> list[str]:
    """The kinds of hooks in a store, such as `blocks.*.hook_resid_post`, in forward order."""
    return list(dict.fromkeys(_kind(hook) for hook in store.hooks))


def norms(store: ActivationStore, kind: str, document: int) -> xr.DataArray:
    """Euclidean norms of the document's stored rows, over (`hook`, `pos`) with their tokens.

    Args:
        kind: One of `kinds`.

    Raises:
        StoreError: no hook of this kind, or the document is not collected yet.
        DamagedStoreError: a file was altered.
    """
    hooks = [hook for hook in store.hooks if _kind(hook) == kind]
    if not hooks:
        raise StoreError(f"{kind!r} is not in this store. It has {', '.join(kinds(store))}.")
    tokens = sequence(store, document)
    stored = tokens[tokens["stored"]]
    rows = [_rows(store, hook, document, tokens).flatten(1).norm(dim=1) for hook in hooks]
    return xr.DataArray(
        torch.stack(rows).numpy(),
        dims=("hook", "pos"),
        coords={
            "hook": hooks,
            "pos": stored["pos"].to_numpy(),
            "token": ("pos", stored["token"].to_numpy()),
        },
        name="norm",
    )


@torch.no_grad()
def compare(store: ActivationStore, model: HookedGPT2, document: int) -> pd.DataFrame:
    """Run the model on the document's sequence again, and compare with what is stored.

    Returns:
        A row for each hook: `hook`, `dtype`, `n_rows`, `difference` (the largest of any value),
        `largest` (absolute value of the run) and `allowed`: half a step of the stored type at the
        largest value, and `RUN_TOLERANCE` of it.

    Raises:
        StoreError: the model is another one, or the document is not collected yet.
        DamagedStoreError: a file was altered.
    """
    if model_hash(model) != store.spec.model_hash:
        raise StoreError(
            f"The store was made by {store.spec.model!r} with other weights (hash "
            f"{store.spec.model_hash[:8]}, not {model_hash(model)[:8]}), so there is nothing to "
            "compare."
        )
    tokens = sequence(store, document)
    layouts = [store.view(hook).layout for hook in store.hooks]
    batch = Batch(
        torch.tensor([tokens["token_id"].tolist()]),
        torch.tensor([tokens["stored"].tolist()]),
        len(tokens),
    )
    live = record_rows(model, batch, layouts)
    found = []
    for layout in layouts:
        stored, run = _rows(store, layout.name, document, tokens), live[layout.name].float()
        largest = run.abs().max().item() if len(run) else 0.0
        step = torch.finfo(DTYPES[layout.dtype]).eps / 2
        found.append(
            {
                "hook": layout.name,
                "dtype": layout.dtype,
                "n_rows": len(run),
                "difference": (stored - run).abs().max().item() if len(run) else 0.0,
                "largest": largest,
                "allowed": (step + RUN_TOLERANCE) * largest,
            }
        )
    return pd.DataFrame(found)


def _rows(store: ActivationStore, hook: str, document: int, tokens: pd.DataFrame) -> Tensor:
    """The stored rows of the sequence, in order, as float32."""
    unit, number = int(tokens["unit"].iloc[0]), int(tokens["sequence"].iloc[0])
    view = store.view(hook, where=f"sequence = {number}", units=[unit])
    if len(view) != tokens["stored"].sum():
        view.document_rows(document)  # says what is missing
    return view.rows(slice(None), torch.float32)


def _kind(hook: str) -> str:
    layer, kind = split_name(hook)
    return kind if layer is None else f"blocks.*.{kind}"
