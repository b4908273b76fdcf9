"""The rows of the table: each a question, the candidates' numbers, and the goal."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import interp
from benchmarks import candidates
from benchmarks.measure import interleaved, interleaved_children


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    unit: str
    numbers: dict[str, float]
    ratio: float
    """Ours to the reference; the goal bounds it from above."""
    goal: float
    against: str
    note: str = ""

    @property
    def reached(self) -> bool:
        """Whether the ratio is within the goal."""
        return self.ratio <= self.goal


def equal_rows(what: str, own: Tensor, other: Tensor) -> Row:
    """Whether two tensors agree to the bit."""
    assert own.shape == other.shape
    n_different = int((own != other).flatten(1).any(dim=1).sum())
    numbers = {"differ": float(n_different)}
    return Row(f"{what}: equal", "rows", numbers, n_different, 0, f"of {len(own)} rows")


IMPORT = """
import importlib, json, sys, time
start = time.perf_counter()
for module in sys.argv[1:]:
    importlib.import_module(module)
print(json.dumps({"s": time.perf_counter() - start}))
"""


def imports(repeats: int) -> Iterator[Row]:
    """Seconds to import in a fresh interpreter; the goal is on what comes on top of torch."""
    scripts = {
        "torch": (IMPORT, "torch"),
        "torch and interp": (IMPORT, "torch", "interp"),
        "transformer-lens": (IMPORT, "transformer_lens"),
    }
    measured = interleaved_children(scripts, repeats)
    seconds = {name: numbers["s"] for name, numbers in measured.items()}
    added = seconds["torch and interp"] - seconds["torch"]
    yield Row("import", "s", seconds, added, 0.2, "seconds added to import torch")


LOAD = """
import json, sys, time
from benchmarks import candidates
from benchmarks.measure import added_memory
import torch
from interp.model.loading import load as interp_load
from transformers import GPT2LMHeadModel
from transformer_lens.model_bridge import TransformerBridge
folder = sys.argv[2]
load = {
    "interp": lambda: interp_load(folder),
    "transformers": lambda: GPT2LMHeadModel.from_pretrained(folder),
    "transformer-lens": lambda: TransformerBridge.boot_transformers(folder, device="cpu"),
}[sys.argv[1]]
tokens = candidates.tokens(1, 8)
start = time.perf_counter()
with torch.no_grad():
    added = added_memory(lambda: load()(tokens))
print(json.dumps({"s": time.perf_counter() - start, "MiB": added}))
"""


def loading(repeats: int) -> Iterator[Row]:
    """From a local folder of GPT-2 small's shape to the first logits, of 8 tokens.

    The first forward counts, because it is what brings lazily mapped weights into memory.
    """
    names = ("interp", "transformers", "transformer-lens")
    with tempfile.TemporaryDirectory() as folder:
        model = candidates.ours()
        model.tokenizer = candidates.tokenizer()
        interp.save_huggingface(model, Path(folder))
        del model
        measured = interleaved_children({name: (LOAD, name, folder) for name in names}, repeats)
    for unit, against in (("s", "transformers' time"), ("MiB", "transformers' peak memory")):
        numbers = {name: measured[name][unit] for name in names}
        ratio = numbers["interp"] / numbers["transformers"]
        yield Row("load a folder, first logits", unit, numbers, ratio, 1.0, against)


@torch.no_grad()
def forward(repeats: int) -> Iterator[Row]:
    """Whole forward passes and the last position's logits only, 4 x 128."""
    ours, theirs, bridge = (
        candidates.ours(),
        candidates.huggingface(),
        candidates.transformer_lens(),
    )
    tokens = candidates.tokens(4, 128)
    numbers = interleaved(
        {
            "interp": lambda: ours(tokens),
            "interp, last position": lambda: ours(tokens, positions=-1),
            "interp, cache": lambda: ours.run_with_cache(tokens),
            "transformers": lambda: theirs(tokens, use_cache=False),
            "transformer-lens": lambda: bridge(tokens),
            "transformer-lens, cache": lambda: bridge.run_with_cache(tokens),
        },
        repeats,
    )
    base = numbers["transformers"]
    yield Row("forward 4x128", "s", numbers, numbers["interp"] / base, 1.0, "transformers")
    last = numbers["interp, last position"] / base
    yield Row("last position's logits 4x128", "s", {}, last, 0.75, "transformers' forward")
    cached = numbers["interp, cache"] / numbers["interp"]
    yield Row("cache of all names 4x128", "s", {}, cached, 1.15, "our forward")


@torch.no_grad()
def long_cache(repeats: int) -> Iterator[Row]:
    """A cache of all names of one long prompt, 1 x 1024: time and memory."""
    ours, bridge = candidates.ours(), candidates.transformer_lens()
    tokens = candidates.tokens(1, 1024)
    numbers = interleaved(
        {
            "interp": lambda: ours.run_with_cache(tokens),
            "transformer-lens": lambda: bridge.run_with_cache(tokens),
        },
        repeats,
    )
    ratio = numbers["interp"] / numbers["transformer-lens"]
    yield Row("cache of all names 1x1024", "s", numbers, ratio, 0.5, "transformer-lens")
    children = interleaved_children({name: (CACHE_MEMORY, name) for name in numbers}, 1)
    memory = {name: measured["MiB"] for name, measured in children.items()}
    ratio = memory["interp"] / memory["transformer-lens"]
    yield Row("cache of all names 1x1024", "MiB", memory, ratio, 0.5, "transformer-lens")


CACHE_MEMORY = """
import json, sys
import torch
from benchmarks import candidates
from benchmarks.measure import added_memory
model = {"interp": candidates.ours, "transformer-lens": candidates.transformer_lens}[sys.argv[1]]()
tokens = candidates.tokens(1, 1024)
with torch.no_grad():
    model(tokens[:, :8])
    print(json.dumps({"MiB": added_memory(lambda: model.run_with_cache(tokens))}))
"""

GROUPS: dict[str, Callable[[int], Iterator[Row]]] = {
    "imports": imports,
    "loading": loading,
    "forward": forward,
    "long_cache": long_cache,
}
