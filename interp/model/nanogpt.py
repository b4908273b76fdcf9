"""nanoGPT's checkpoints (github.com/karpathy/nanoGPT): names and layouts translated to ours.

A `ckpt.pt` holds `model` (a state dict) and `model_args`. Linear weights are stored output first,
so they are read as transposed views; a model without biases gets zeros. The activation is the
exact GELU. A checkpoint has no tokenizer, and the `meta.pkl` beside it is not read.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from interp.errors import CheckpointError, ConfigError
from interp.model.config import ModelConfig
from interp.model.huggingface import config_from_huggingface, weight_table
from interp.model.safety import as_state_dict, read_pickle

ARGUMENTS = {
    "n_layer": "n_layer",
    "n_head": "n_head",
    "n_embd": "n_embd",
    "block_size": "n_positions",
    "vocab_size": "vocab_size",
}
HARMLESS_ARGUMENTS = ("bias", "dropout")
TRANSPOSED = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def read_nanogpt(path: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Configuration, and weights under Hugging Face's names, as views of the mapped file.

    Raises:
        UnsafeCheckpointError, CheckpointError: see `safety.read_pickle`; or no nanoGPT checkpoint.
        ConfigError: arguments that we do not understand.
    """
    content = read_pickle(path)
    if not isinstance(content, Mapping) or not {"model", "model_args"} <= content.keys():
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else ""
        raise CheckpointError(
            f"{path} is no nanoGPT checkpoint: it holds a {type(content).__name__} ({keys}), "
            "expected a dictionary with 'model' and 'model_args'."
        )
    state = {
        name.removeprefix("_orig_mod.").removeprefix("transformer."): x
        for name, x in as_state_dict(content["model"], path).items()
    }
    head, embedding = state.get("lm_head.weight"), state.get("wte.weight")
    tied = head is None or (embedding is not None and torch.equal(head, embedding))
    arguments = content["model_args"]
    cfg = _config(arguments, path, tied)
    if not arguments.get("bias", True):
        state = _zero_biases(state, cfg) | state
    return cfg, {name: x.T if name.endswith(TRANSPOSED) else x for name, x in state.items()}


def _config(arguments: object, path: Path, tied: bool) -> ModelConfig:
    if not isinstance(arguments, Mapping):
        raise ConfigError(f"{path}: model_args is a {type(arguments).__name__}, not a dictionary.")
    unknown = sorted(map(str, set(arguments) - set(ARGUMENTS) - set(HARMLESS_ARGUMENTS)))
    missing = sorted(set(ARGUMENTS) - set(arguments))
    if unknown or missing:
        raise ConfigError(
            f"{path}: model_args are not nanoGPT's: unknown {unknown[:5]}, missing {missing}."
        )
    config = {theirs: arguments[ours] for ours, theirs in ARGUMENTS.items()}
    config |= {"activation_function": "gelu", "tie_word_embeddings": tied}
    return config_from_huggingface(config, path.stem)


def _zero_biases(state: Mapping[str, Tensor], cfg: ModelConfig) -> dict[str, Tensor]:
    """A zero bias beside each weight that ends in one."""
    names = [theirs.removeprefix("transformer.") for theirs, _, _ in weight_table(cfg)]
    biases = [name for name in names if name.endswith(".bias")]
    weights = {name: state.get(name.replace(".bias", ".weight")) for name in biases}
    # A missing weight is reported, with all others, when the names are checked.
    return {name: w.new_zeros(len(w)) for name, w in weights.items() if w is not None}
