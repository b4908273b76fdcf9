"""The same patching sweep in the peers and, plainly, in our own model: a forward pass per cell.

A cell is (layer, position), at z (layer, position, head). Values of the clean run are put into the
corrupted run of all pairs at once, and each pair's logit difference is kept.
"""

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GPT2Config

from benchmarks import candidates
from interp import metrics
from interp.metrics import Metric
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import Hook, full_name

Cells = Sequence[tuple[int, ...]]
Loop = Callable[[Cells], Float[Tensor, "cell pair"]]
NNSIGHT = "pip install 'nnsight==0.8.*'"


@dataclass(frozen=True)
class Pairs:
    """Random pairs of one length, and their answers."""

    clean: Int[Tensor, "pair pos"]
    corrupted: Int[Tensor, "pair pos"]
    answers: Int[Tensor, " pair"]
    wrong: Int[Tensor, " pair"]

    @classmethod
    def of(
        cls, n_tokens: int, first_difference: int, *, n_pairs: int = 4, n_positions: int = 15
    ) -> "Pairs":
        """They differ in every token from `first_difference` on."""
        generator = torch.Generator().manual_seed(0)
        # Distinct within a column, so that a pair differs, and its answers too.
        drawn = [
            torch.randperm(n_tokens, generator=generator)[: 2 * n_pairs]
            for _ in range(n_positions + 1)
        ]
        tokens = torch.stack(drawn, dim=1)
        clean, corrupted = tokens[:n_pairs], tokens[n_pairs:].clone()
        corrupted[:, :first_difference] = clean[:, :first_difference]
        return cls(clean[:, :-1], corrupted[:, :-1], clean[:, -1], corrupted[:, -1])

    @property
    def metric(self) -> Metric:
        """Ours."""
        return metrics.logit_diff(self.answers, self.wrong)

    def logit_diff(self, logits: Float[Tensor, "pair pos d_vocab"]) -> Float[Tensor, " pair"]:
        """The same for the peers, from the last position's logits."""
        rows = torch.arange(len(logits))
        return logits[rows, -1, self.answers] - logits[rows, -1, self.wrong]


def plain(model: HookedGPT2, pairs: Pairs, site: str) -> Loop:
    """Our model with one hook per cell, and the last position's logits."""
    _, clean = model.run_with_cache(pairs.clean)

    def patch(value: Tensor, hook: Hook, where: tuple[int, ...]) -> None:
        value[:, *where] = clean[hook.name][:, *where]

    def loop(cells: Cells) -> Tensor:
        patched = []
        for layer, *where in cells:
            hook = (full_name(site, layer), partial(patch, where=tuple(where)))
            logits = model.run_with_hooks(pairs.corrupted, [hook], positions=-1)
            assert isinstance(logits, Tensor)
            patched.append(pairs.logit_diff(logits))
        return torch.stack(patched)

    return loop


def transformer_lens(bridge, pairs: Pairs, site: str) -> Loop:
    """`transformer_lens.patching`, of chosen cells."""
    from transformer_lens import patching

    _, clean = bridge.run_with_cache(pairs.clean)
    at_head = site == "z"
    setter = (
        patching.layer_pos_head_vector_patch_setter if at_head else patching.layer_pos_patch_setter
    )
    columns = ["layer", "pos", "head_index"][: 3 if at_head else 2]

    def loop(cells: Cells) -> Tensor:
        index = pd.DataFrame(cells, columns=columns)
        result = patching.generic_activation_patch(
            bridge, pairs.corrupted, clean, pairs.logit_diff, setter, site,
            index_df=index, reduce="none",
        )  # fmt: skip
        return result.values

    return loop


def nnsight_is_installed() -> bool:
    """Whether the extra `bench` is."""
    return importlib.util.find_spec("nnsight") is not None


# Which value of a Hugging Face block is which site.
NNSIGHT_SITES: dict[str, Callable] = {
    "resid_pre": lambda block: block.input,
    "attn_out": lambda block: block.attn.output[0],
    "mlp_out": lambda block: block.mlp.output,
    "z": lambda block: block.attn.c_proj.input,
}


def nnsight(config: GPT2Config, pairs: Pairs, site: str) -> Loop:
    """A trace per cell of transformers' model, of the last position's logits, without a KV cache.

    Their own batching (several cells as invokes of one trace) is not used.
    """
    from nnsight import NNsight, save  # pyright: ignore[reportMissingImports]

    model = NNsight(candidates.huggingface(config))
    options = {"use_cache": False, "logits_to_keep": 1}
    value_of = NNSIGHT_SITES[site]

    def by_head(value: Tensor) -> Tensor:
        return value.unflatten(-1, (config.n_head, -1)) if site == "z" else value

    with model.trace(pairs.clean, **options):
        clean = save([])
        for block in model.transformer.h:
            clean.append(by_head(value_of(block)))

    def loop(cells: Cells) -> Tensor:
        patched = []
        for layer, *where in cells:
            here = (slice(None), *where)
            with model.trace(pairs.corrupted, **options):
                by_head(value_of(model.transformer.h[layer]))[here] = clean[layer][here]
                measured = save(pairs.logit_diff(model.output.logits))
            patched.append(measured)
        return torch.stack(patched)

    return loop
