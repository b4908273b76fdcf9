"""Small files and pickles that may be damaged or hostile, read without running anything.

A pickle is opened with PyTorch's `weights_only` reader and by nothing else, whatever the
environment says, and never a second time in another way.
"""

import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interp.errors import CheckpointError, InterpError, UnsafeCheckpointError

TENSOR_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,255}")
ZIP_MAGIC, PICKLE_MARK = b"PK\x03\x04", b"\x80"
MAX_UNPACKED = 1.01
"""Largest sum of a zip's declared sizes, relative to the file: PyTorch stores, never compresses."""


def read_json(
    path: Path, error: type[InterpError], *, max_bytes: int = 2**20, needed: str = ""
) -> dict[str, Any]:
    """The JSON object in a file; anything else is an `error` that says what is there."""
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise error(f"{path} has {size:,} bytes; at most {max_bytes:,} are read.")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise error(f"{path} does not exist.{needed}") from None
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror}.") from problem
    except (ValueError, RecursionError) as problem:
        cause = likely_cause(path) or f"it is not valid JSON ({problem})"
        raise error(f"{path} cannot be read: {cause}.") from None
    if not isinstance(content, dict):
        raise error(f"{path} holds a JSON {type(content).__name__}; expected an object.")
    return content


def likely_cause(path: Path) -> str | None:
    """What a file that should hold a checkpoint is instead, if its beginning tells."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "it is empty (0 bytes)"
    if start.startswith(b"version https://git-lfs"):
        return "it is a git-lfs pointer, not the file itself; run `git lfs pull`"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "it is an HTML page; download the file itself"
    return None


def read_pickle(path: Path) -> object:
    """What a PyTorch file holds, read by the restricted reader, which only builds tensors.

    Raises:
        UnsafeCheckpointError: it asks for anything else, or unpacks to more than it is.
        CheckpointError: it is damaged.
    """
    with path.open("rb") as file:
        is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    if is_zip:
        _refuse_packed(path)
    try:
        with warnings.catch_warnings():
            # A pickle of another kind than PyTorch's: asks to report that to PyTorch.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as problem:  # a damaged pickle raises almost anything
        # PyTorch's own message advises to switch the protection off, so it is not shown.
        raise _refusal(path, str(problem)) from None


def _refusal(path: Path, problem: str) -> CheckpointError:
    cause = likely_cause(path)
    wanted = re.search(r"unsupported (?:global:? )?GLOBAL (\S+)", problem, re.IGNORECASE)
    with path.open("rb") as file:
        is_pickle = file.read(1) == PICKLE_MARK
    if wanted or (is_pickle and "Unsupported operand" in problem):
        what = f" ({wanted[1]})" if wanted else ""
        return UnsafeCheckpointError(
            f"{path} is refused: it asks for more than tensors{what} and could run code. "
            "Save only the state dict where it was made, best as safetensors."
        )
    cause = cause or "PyTorch's restricted reader cannot read it"
    return CheckpointError(f"{path} is damaged, or no PyTorch file: {cause}.")


def _refuse_packed(path: Path) -> None:
    """A zip that unpacks to more than itself could fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as problem:
        size = path.stat().st_size
        raise CheckpointError(f"{path} is damaged after {size:,} bytes: {problem}.") from problem
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(m.file_size for m in members) > MAX_UNPACKED * path.stat().st_size:
        raise UnsafeCheckpointError(
            f"{path} is refused: it is compressed, or unpacks to more than its own size, as "
            "PyTorch's own files never do."
        )


def as_state_dict(content: object, source: Path) -> dict[str, Tensor]:
    """Check that a pickle's content is names and plain tensors."""
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{source} holds a {type(content).__name__}, not a state dict.")
    for name, value in content.items():
        if not isinstance(name, str) or not TENSOR_NAME.fullmatch(name):
            raise CheckpointError(f"{source} has a tensor with an unusable name: {name!r:.80}.")
        plain = isinstance(value, Tensor) and value.layout == torch.strided
        if not plain or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(f"{source}: {name} is not a plain tensor.")
    return {str(name): value.detach() for name, value in content.items()}
