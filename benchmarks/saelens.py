"""SAELens' caching as a candidate. It needs TransformerLens 3, so it has an interpreter of its own.

That interpreter stays for all timings, so imports are not timed. Its model has our model's sizes,
and random weights of its own.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor
from transformers import GPT2Config

from benchmarks.sweeps import Runs

VARIABLE = "INTERP_SAELENS_PYTHON"
MISSING = (
    f"SAELens not measured: it needs transformer-lens < 4; set {VARIABLE} to the Python of an "
    "environment with `pip install sae-lens`"
)
# Its input: what is asked, as JSON; then lines `collect` or `forward`, each answered when done.
CHILD = """
import json
import shutil
import sys

import torch
from datasets import Dataset
from sae_lens import (
    CacheActivationsRunner,
    CacheActivationsRunnerConfig,
    cache_activations_runner,
)
from transformer_lens import HookedTransformer, HookedTransformerConfig

asked = json.loads(sys.stdin.readline())
torch.set_num_threads(asked["threads"])
torch.manual_seed(0)
sizes = asked["model"] | {"act_fn": "gelu_new", "default_prepend_bos": False}
config = HookedTransformerConfig(**sizes)
model = HookedTransformer(config).eval()
# It loads models by name only; weights do not matter to time.
cache_activations_runner.load_model = lambda **_: model
batches = torch.tensor(asked["tokens"])
n_batches, n_sequences, ctx = batches.shape
options = CacheActivationsRunnerConfig(
    dataset_path="random",
    model_name="random",
    model_batch_size=n_sequences,
    hook_name=asked["hook"],
    d_in=config.d_model,
    training_tokens=batches.numel(),
    context_size=ctx,
    new_cached_activations_path=asked["folder"],
    shuffle=False,
    dtype="float16",
    device="cpu",
    # One buffer that holds all.
    buffer_size_gb=(batches.numel() * config.d_model * 2 + 1) / 1e9,
    prepend_bos=False,
    streaming=False,
)
texts = Dataset.from_dict({"tokens": batches.flatten(0, 1).tolist()})


def collect() -> None:
    shutil.rmtree(asked["folder"], ignore_errors=True)
    CacheActivationsRunner(options, override_dataset=texts).run()


@torch.no_grad()
def forward() -> None:
    stop = int(asked["hook"].split(".")[1]) + 1
    for batch in batches:
        model(batch, return_type=None, stop_at_layer=stop)


print("done", flush=True)
for line in sys.stdin:
    {"collect": collect, "forward": forward}[line.strip()]()
    print("done", flush=True)
"""


class SAELens:
    """Two runs, `SAELens` and its forward alone; none where there is no interpreter for it.

    Args:
        tokens: Batches, all of one shape.
        folder: Where it writes.
    """

    def __init__(
        self, config: GPT2Config, hook: str, tokens: Sequence[Tensor], folder: Path
    ) -> None:
        self.python = os.environ.get(VARIABLE)
        self._asked = {
            "model": {
                "n_layers": config.n_layer,
                "d_model": config.n_embd,
                "n_ctx": config.n_positions,
                "n_heads": config.n_head,
                "d_head": config.n_embd // config.n_head,
                "d_vocab": config.vocab_size,
            },
            "hook": hook,
            "tokens": torch.stack(list(tokens)).tolist(),
            "folder": str(folder),
            "threads": torch.get_num_threads(),
        }
        self.runs: Runs = {}
        self.note = MISSING

    def __enter__(self) -> "SAELens":
        if self.python is None:
            return self
        self._log = tempfile.TemporaryFile("w+")  # closed on leaving
        self._child = subprocess.Popen(
            [self.python, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._ask(json.dumps(self._asked))
        self.note = "SAELens runs TransformerLens 3 in an interpreter of its own"
        self.runs = {
            "SAELens": lambda: self._ask("collect"),
            "SAELens' forward alone": lambda: self._ask("forward"),
        }
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.python is not None:
            self._child.kill()
            self._child.communicate()
            self._log.close()

    def _ask(self, line: str) -> None:
        """Send a line and wait for its answer."""
        assert self._child.stdin
        assert self._child.stdout
        with suppress(BrokenPipeError):  # no answer will come, either
            self._child.stdin.write(f"{line}\n")
            self._child.stdin.flush()
        if "done\n" not in self._child.stdout:
            self._log.seek(0)
            raise RuntimeError(f"SAELens in {self.python} ended: {self._log.read()[-500:]}")
