"""Rows of a store that the autoencoder study keeps aside, with what their sentences say."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import StoreError
from interp.model.tokens import TokenBatch
from interp.store.reader import ActivationStore
from interp.tiny.lexicon import WORDS

COLOURS = WORDS["colours"]
BEFORE, AFTER = 12, 1
"""Tokens shown around an example's."""


@dataclass(frozen=True)
class Rows:
    """Activations of whole sequences without their first token, whose activations are extreme."""

    x: Float[Tensor, "row d_in"]
    tokens: pd.DataFrame
    """The store's columns for each row, one sequence after the other, and `colour`."""
    everything: pd.DataFrame
    """The same with the first tokens."""

    @property
    def sequences(self) -> Int[Tensor, " row"]:
        """The sequence of each row."""
        return torch.tensor(self.tokens["sequence"].to_numpy())

    @property
    def words(self) -> Int[Tensor, " row"]:
        """The token of each row."""
        return torch.tensor(self.tokens["token_id"].to_numpy().astype(np.int64))

    @property
    def colours(self) -> Int[Tensor, " row"]:
        """Which colour the sentence has named so far, the last one; -1 for none."""
        return torch.tensor(self.tokens["colour"].to_numpy())

    def things(self) -> Int[Tensor, " chosen"]:
        """Rows at things in a sentence that has named a colour."""
        spaced = [f" {thing}" for thing in WORDS["things"]]
        mask = self.tokens["token"].isin(spaced) & (self.tokens["colour"] >= 0)
        return torch.tensor(np.flatnonzero(mask))

    def context(self, row: int) -> str:
        """The tokens around a row, its own in brackets."""
        here = self.tokens.iloc[row]
        sequence = self.everything[self.everything["sequence"] == here["sequence"]]
        pieces = dict(zip(sequence["pos"], sequence["token"], strict=True))
        del pieces[0]
        own = int(here["pos"])
        shown = range(own - BEFORE, own + AFTER + 1)
        text = "".join(
            f" [{pieces[pos].strip()}]" if pos == own else pieces.get(pos, "") for pos in shown
        )
        return f"… {text.strip()}"


def read_rows(activations: ActivationStore, hook: str, where: str) -> Rows:
    """All rows of whole sequences.

    Args:
        where: Chooses sequences, not single rows.

    Raises:
        StoreError: the store keeps only some positions of them.
    """
    view = activations.view(hook, where=where)
    tokens = view.tokens()
    if not (tokens.groupby("sequence").cumcount() == tokens["pos"]).all():
        raise StoreError(
            "The loss needs whole texts, and this store keeps some of their positions only. Use a "
            "store of all positions."
        )
    tokens["colour"] = last_colour(tokens)
    inside = (tokens["pos"] > 0).to_numpy()
    x = view.rows(inside, torch.float32)
    return Rows(x, tokens[inside].reset_index(drop=True), tokens)


def last_colour(tokens: pd.DataFrame) -> pd.Series:
    """Number of the colour that was last named in the sentence, up to each token; -1 for none."""
    sequence = tokens["sequence"]
    sentence = (tokens["token"].str.strip() == ".").groupby(sequence).cumsum()
    number = {colour: index for index, colour in enumerate(COLOURS)}
    named = tokens["token"].str.strip().map(number)
    return named.groupby([sequence, sentence]).ffill().fillna(-1).astype(np.int64)


def as_batch(rows: Rows, n: int) -> TokenBatch:
    """The first `n` sequences as the model was given them."""
    lists = [ids.tolist() for _, ids in rows.everything.groupby("sequence")["token_id"]][:n]
    longest = max(map(len, lists))
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in lists])
    lengths = torch.tensor([[len(ids)] for ids in lists])
    return TokenBatch(padded, torch.arange(longest) < lengths)
