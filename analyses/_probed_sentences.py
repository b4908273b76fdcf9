"""What the probe study reads: sentences, places and depths, and their stored activations."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp import prompts
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import block_name
from interp.prompts import PromptPairs
from interp.store.reader import ActivationStore

Features = Mapping[tuple[str, str], Float[Tensor, "example d_model"]]
"""Activations by depth and place."""


@dataclass(frozen=True)
class Sentences:
    """What is probed, and for what."""

    pairs: PromptPairs
    places: dict[str, Int[Tensor, " example"]]
    """Positions by name, in the order of the maps."""
    labels: list[str]
    """The colour that is asked for."""
    things: list[str]
    """The thing it belongs to."""

    @property
    def types(self) -> list[tuple[str, str]]:
        """What a probe could learn by heart: combinations of colour and thing."""
        return list(zip(self.labels, self.things, strict=True))

    def chosen(self, index: Int[Tensor, " chosen"]) -> "Sentences":
        """Some of the sentences."""
        numbers = index.tolist()
        return Sentences(
            PromptPairs(self.pairs.name, tuple(self.pairs.examples[number] for number in numbers)),
            {name: positions[index] for name, positions in self.places.items()},
            [self.labels[number] for number in numbers],
            [self.things[number] for number in numbers],
        )


def draw_sentences(model: HookedGPT2, n: int, seed: int) -> Sentences:
    """Two coloured things, in combinations that tell nothing by themselves."""
    pairs = prompts.colour_binding(model, n, seed=seed, n_pairs=2)
    pairs = prompts.words_redrawn(model, pairs, seed=seed)
    roles = pairs.roles
    places = {"before": roles["colour"] - 1, "colour": roles["colour"]}
    places |= {"after": roles["colour"] + 1}
    places |= {name: roles[name] for name in ("thing", "other_thing", "asked", "END")}
    things = [
        model.to_str_tokens(example.clean)[example.roles["thing"]].strip() for example in pairs
    ]
    return Sentences(pairs, places, [answer.strip() for answer in pairs.answers], things)


def depths(model: HookedGPT2) -> dict[str, str]:
    """The stream before each layer and after the last, by a short name."""
    n_layers = model.cfg.n_layers
    before = {f"L{layer}": block_name(layer, "hook_resid_pre") for layer in range(n_layers)}
    return before | {"end": block_name(n_layers - 1, "hook_resid_post")}


def at_places(
    activations: ActivationStore, sentences: Sentences, hooks: Mapping[str, str]
) -> Features:
    """The stored rows of each depth and place."""
    aligned = activations.align(list(hooks.values()))
    tokens = aligned.tokens()
    # Here a document is one sequence, so that the two name a row.
    names = pd.MultiIndex.from_frame(tokens[["document", "pos"]])
    row_of = pd.Series(np.arange(len(tokens)), index=names)
    features = {}
    for place, positions in sentences.places.items():
        rows = row_of.loc[list(enumerate(positions.tolist()))].to_numpy()
        read = aligned.rows(rows, torch.float32)
        features |= {(depth, place): read[hook] for depth, hook in hooks.items()}
    return {(depth, place): features[depth, place] for depth in hooks for place in sentences.places}
