"""`load`: a model from this package, a folder, a nanoGPT checkpoint or the Hugging Face hub.

Every shape and setting is checked, and what is not understood is refused; nothing is filled in.
Weights are mapped from the file and not processed, so activations equal Hugging Face's.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor

from interp.errors import CheckpointError, ConfigError
from interp.model import hub
from interp.model.bridged import BridgedModel
from interp.model.checkpoints import converted, read_weights
from interp.model.config import ModelConfig
from interp.model.gpt2 import HookedGPT2
from interp.model.huggingface import (
    config_from_huggingface,
    is_redundant,
    weights_from_huggingface,
)
from interp.model.nanogpt import read_nanogpt
from interp.model.safety import read_json
from interp.model.tokenizer_files import TokenizerSource, check_tokenizer, find_tokenizer

EMBEDDED = "tiny"
EMBEDDED_FOLDER = Path(__file__).resolve().parent.parent / "tiny" / "weights"
FAMILY = {
    "gpt2": ("openai-community/gpt2", 124_439_808),
    "gpt2-medium": ("openai-community/gpt2-medium", 354_823_168),
    "gpt2-large": ("openai-community/gpt2-large", 774_030_080),
    "gpt2-xl": ("openai-community/gpt2-xl", 1_557_611_200),
    "distilgpt2": ("distilbert/distilgpt2", 81_912_576),
}
"""Short names on the hub: full name and number of weights."""
NANOGPT_SUFFIXES = (".pt", ".pth", ".ckpt")
FILE_SUFFIXES = (*NANOGPT_SUFFIXES, ".safetensors", ".bin", ".json")
FLOAT_TYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@overload
def load(
    name: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: TokenizerSource = None,
    backend: None = None,
    allow_pickle: bool = False,
    allow_nonfinite: bool = False,
) -> HookedGPT2: ...


@overload
def load(
    name: str | Path,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: TokenizerSource = None,
    backend: Literal["transformer-lens"],
    allow_pickle: bool = False,
    allow_nonfinite: bool = False,
) -> BridgedModel: ...


def load(
    name: str | Path | None = None,
    *,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    tokenizer: TokenizerSource = None,
    backend: str | None = None,
    allow_pickle: bool = False,
    allow_nonfinite: bool = False,
) -> HookedGPT2 | BridgedModel:
    """Load a GPT-2, frozen and in evaluation mode.

    Args:
        name: `None` or "tiny" for the model inside this package; a Hugging Face folder; a nanoGPT
            checkpoint (`.pt`); or a name on the hub, such as "gpt2", from its cache if it is there.
        revision: Branch, tag or commit on the hub.
        device: Where the weights go; the CPU unless said.
        dtype: Type of the weights; those of a file in this type are not copied.
        tokenizer: A folder, or a fast tokenizer, instead of the model's own.
        backend: "transformer-lens" for architectures other than GPT-2.
        allow_pickle: Accept a folder that has only `pytorch_model.bin`; nothing but tensors is
            read from it.
        allow_nonfinite: Accept weights that are NaN or infinite.

    Raises:
        CheckpointError, UnsafeCheckpointError, ConfigError, TokenizerError: what was found cannot
            be used; the message says why and what to do.
        OfflineError: it is not on this machine, and the hub cannot be reached.
    """
    place = _checked_device(device)
    if dtype not in FLOAT_TYPES:
        known = ", ".join(str(known).removeprefix("torch.") for known in FLOAT_TYPES)
        raise ConfigError(f"dtype must be one of torch's {known}; got {dtype!r}.")
    if backend == "transformer-lens":
        from interp.model.bridge import load_bridge  # takes seconds to import, and few need it

        if allow_pickle or allow_nonfinite:
            raise ConfigError("The bridge reads finite weights from safetensors only.")
        model = load_bridge(
            _bridge_source(name), revision=revision, device=place, dtype=dtype, tokenizer=tokenizer
        )
        if name is None or name in (EMBEDDED, *FAMILY):
            model.cfg = replace(model.cfg, model_name=str(name or EMBEDDED))
        return model
    if backend is not None:
        raise ConfigError(f'backend must be None or "transformer-lens", got {backend!r}.')
    cfg, state, source = _find(name, revision, allow_pickle)
    needed = {theirs: x for theirs, x in state.items() if not is_redundant(theirs, cfg)}
    finite = converted(
        needed, str(source), device=place, dtype=dtype, allow_nonfinite=allow_nonfinite
    )
    weights = weights_from_huggingface(finite, cfg, str(source))
    found = find_tokenizer(tokenizer, source if source.is_dir() else None)
    if found is not None:
        check_tokenizer(found, cfg)
    return HookedGPT2.from_weights(cfg, weights, found)


def _bridge_source(name: str | Path | None) -> str | Path:
    """What the bridge is asked for: a folder, or a model of the hub."""
    if name is None or name == EMBEDDED:
        return EMBEDDED_FOLDER
    if Path(name).expanduser().is_dir():
        return name
    _refuse_mistaken_name(str(name), isinstance(name, Path))
    repo, _ = FAMILY.get(str(name), (str(name), 0))
    return repo


def _checked_device(device: str | torch.device | None) -> torch.device:
    try:
        place = torch.device("cpu" if device is None else device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as problem:
        reason = str(problem).splitlines()[0]
        raise ConfigError(f"Device {str(device)!r} cannot be used here: {reason}") from problem
    if place.type == "meta":
        raise ConfigError('Device "meta" holds no weights.')
    return place


def _find(
    name: str | Path | None, revision: str | None, allow_pickle: bool
) -> tuple[ModelConfig, Mapping[str, Tensor], Path]:
    """Configuration, weights under Hugging Face's names, and the file or folder of both."""
    if name is None or name == EMBEDDED:
        if revision is not None:
            raise ConfigError("The embedded model has no revisions.")
        if not EMBEDDED_FOLDER.is_dir():
            raise CheckpointError(
                f"This installation lacks the embedded model ({EMBEDDED_FOLDER}); install it again."
            )
        return _read_folder(EMBEDDED_FOLDER, EMBEDDED, allow_pickle)
    path = Path(name).expanduser()
    if revision is not None and path.exists():
        raise ConfigError(f"{path} is on this machine; a revision belongs to a model of the hub.")
    if path.is_dir():
        return _read_folder(path, path.resolve().name, allow_pickle)
    if path.is_file():
        if path.suffix not in NANOGPT_SUFFIXES:
            raise CheckpointError(
                f"{path} is a {path.suffix or 'plain'} file. Load the folder that holds it, or a "
                f"nanoGPT checkpoint ({', '.join(NANOGPT_SUFFIXES)})."
            )
        return *read_nanogpt(path), path
    _refuse_mistaken_name(str(name), isinstance(name, Path))
    folder = _hub_folder(str(name), revision, allow_pickle)
    return _read_folder(folder, str(name), allow_pickle)


def _hub_folder(name: str, revision: str | None, allow_pickle: bool) -> Path:
    """Where the hub's cache has the model; `gpt2` may also be there under its short name."""
    repo, _ = FAMILY.get(name, (name, 0))
    cached = hub.cached_folder(name, revision) if name in FAMILY else None
    return cached or hub.model_folder(repo, revision, allow_pickle=allow_pickle)


def _read_folder(
    folder: Path, model_name: str, allow_pickle: bool
) -> tuple[ModelConfig, Mapping[str, Tensor], Path]:
    needed = " A Hugging Face folder holds config.json beside its weights."
    config = read_json(folder / "config.json", ConfigError, needed=needed)
    cfg = config_from_huggingface(config, model_name)
    return cfg, read_weights(folder, allow_pickle=allow_pickle), folder


def _refuse_mistaken_name(name: str, is_path: bool) -> None:
    """A path that does not exist, or a slip in a well-known name, is not asked of the hub."""
    looks_like_path = (
        name.startswith((".", "/", "~")) or "\\" in name or name.endswith(("/", *FILE_SUFFIXES))
    )
    if is_path or looks_like_path or name.count("/") > 1:
        raise CheckpointError(f"{name!r} does not exist: there is no such file or folder.")
    known = [EMBEDDED, *FAMILY]
    near = {"gpt2-small": "gpt2", **{name: name for name in known}}
    close = difflib.get_close_matches(name.lower(), near, n=1, cutoff=0.7)
    if name not in known and close:
        raise CheckpointError(
            f"There is no model {name!r}. Did you mean {near[close[0]]!r}? Known names: "
            f"{', '.join(known)}; or a folder, or owner/name on the hub."
        )


@dataclass(frozen=True)
class AvailableModel:
    """One row of `interp models`."""

    name: str
    parameters: str
    """Number of weights, rounded."""
    present: bool
    """Whether it is on this machine."""
    how: str
    """The call that loads it."""


def available_models() -> list[AvailableModel]:
    """The embedded model and the GPT-2s of the hub, without asking the network."""
    embedded = EMBEDDED_FOLDER / "config.json"
    rows = []
    if embedded.is_file():
        cfg = config_from_huggingface(read_json(embedded, ConfigError), EMBEDDED)
        rows.append(AvailableModel(EMBEDDED, _millions(cfg.n_params), True, "interp.load()"))
    for name, (repo, n_params) in FAMILY.items():
        present = any(hub.cached_folder(cached) for cached in (name, repo))
        rows.append(AvailableModel(name, _millions(n_params), present, f'interp.load("{name}")'))
    return rows


def _millions(n_params: int) -> str:
    return f"{n_params / 1e6:,.1f} M" if n_params < 1e7 else f"{n_params / 1e6:,.0f} M"
