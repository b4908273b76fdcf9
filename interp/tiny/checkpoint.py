"""A training state on disk: weights, optimizers' tensors and the step, in one safetensors file.

The file is replaced whole or not at all, so a killed run leaves the previous checkpoint. Settings
travel as JSON in the file's header.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from interp.model.checkpoints import write_safetensors

Settings = Mapping[str, int | float]


def save_checkpoint(
    path: Path,
    step: int,
    settings: Settings,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
) -> None:
    """Replace the checkpoint at `path` by the state after `step` steps."""
    tensors = {f"model/{name}": value.detach() for name, value in model.named_parameters()}
    for index, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer/{index}/{parameter}/{key}": value for key, value in state.items()
            }
    header = {"step": str(step), "settings": json.dumps(dict(settings))}
    write_safetensors(tensors, path, header)


def load_checkpoint(
    path: Path, settings: Settings, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> int:
    """Put the saved state into model and optimizers; returns the number of steps done.

    Raises:
        ValueError: the checkpoint was made with other settings.
    """
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        saved = json.loads(header["settings"])
        if saved != dict(settings):
            different = sorted(
                key for key in saved.keys() | settings.keys() if saved.get(key) != settings.get(key)
            )
            raise ValueError(
                f"{path} was trained with other {', '.join(different)}. Resume with the same "
                "settings, or choose another folder."
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
    for index, optimizer in enumerate(optimizers):
        _load_optimizer(optimizer, f"optimizer/{index}/", tensors)
    return int(header["step"])


def _load_optimizer(
    optimizer: torch.optim.Optimizer, prefix: str, tensors: Mapping[str, Tensor]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            parameter, key = name.removeprefix(prefix).split("/")
            state.setdefault(int(parameter), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
