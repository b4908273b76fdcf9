"""Weights from files, memory-mapped and checked, and back to files.

Nothing is read before it is used. Of a safetensors file the sizes and names are checked here, and
everything else by the library; of a shard index, that it stays in its folder. Files are written
beside their place and renamed, so that a failure leaves the old ones.
"""

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from interp.errors import CheckpointError, UnsafeCheckpointError
from interp.model.safety import (
    TENSOR_NAME,
    as_state_dict,
    likely_cause,
    read_json,
    read_pickle,
)

MAX_HEADER_BYTES = 10 * 2**20
MAX_TENSORS = 20_000
MAX_DIMENSION = 2**31

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
READ_ERRORS = (SafetensorError, OSError, RuntimeError, ValueError, TypeError, LookupError)
"""What safetensors raises for a file that it cannot read, or whose types torch does not have."""


def read_weights(folder: Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """All tensors of a Hugging Face folder, single or sharded, memory-mapped.

    Raises:
        CheckpointError: no weights, or damaged ones.
        UnsafeCheckpointError: only pickles, or a shard index that points out of the folder.
    """
    if (folder / SINGLE).exists():
        return read_safetensors(folder / SINGLE)
    if (folder / INDEX).exists():
        return _read_shards(folder, read_index(folder / INDEX))
    pickles = [name for name in (PICKLED, PICKLED_INDEX) if (folder / name).exists()]
    if not pickles:
        raise CheckpointError(f"{folder} holds no weights: neither {SINGLE} nor {INDEX}.")
    if not allow_pickle:
        raise UnsafeCheckpointError(
            f"{folder} holds its weights only as a pickle ({pickles[0]}), a format that can run "
            f"code. If you trust its source, load it with allow_pickle=True (tensors are still "
            f"the only thing read) and convert it once with interp.save_huggingface(model, folder)."
        )
    if pickles[0] == PICKLED_INDEX:
        raise CheckpointError(f"{folder} holds a sharded pickle, which is not read. Convert it.")
    return as_state_dict(read_pickle(folder / PICKLED), folder / PICKLED)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, as views of the mapped file.

    Raises:
        CheckpointError: the file is damaged; the message names the likely cause.
    """
    _check_header(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in list(file.keys())}
    except READ_ERRORS as problem:
        raise CheckpointError(f"{path} is damaged: {problem}.") from problem


def _check_header(path: Path) -> None:
    """Check sizes and names before the library reads them."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            n_header = int.from_bytes(file.read(8), "little")
            cause = likely_cause(path)
            if cause is None and size < 8 + n_header and (size < 8 or n_header < MAX_HEADER_BYTES):
                cause = f"it is cut off at {size:,} of at least {8 + n_header:,} bytes"
            if cause is None and n_header > MAX_HEADER_BYTES:
                cause = (
                    f"its header would have {n_header:,} bytes; the limit is {MAX_HEADER_BYTES:,}"
                )
            if cause is not None:
                raise CheckpointError(f"{path} is no safetensors file: {cause}.")
            entries = json.loads(file.read(n_header))
        entries.pop("__metadata__", None)
        _check_entries(path, entries)
        n_bytes = 8 + n_header + max((e["data_offsets"][1] for e in entries.values()), default=0)
    except OSError as problem:
        raise CheckpointError(f"{path} cannot be read: {problem.strerror}.") from problem
    except CheckpointError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as problem:
        raise CheckpointError(f"{path} is damaged: its header is not valid.") from problem
    if size < n_bytes:
        raise CheckpointError(f"{path} is cut off at {size:,} of {n_bytes:,} bytes. Get it again.")


def _check_entries(path: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    if len(entries) > MAX_TENSORS:
        raise CheckpointError(f"{path} names {len(entries):,} tensors; at most {MAX_TENSORS:,}.")
    for name, entry in entries.items():
        if not TENSOR_NAME.fullmatch(name):
            raise CheckpointError(f"{path} has a tensor with an unusable name: {name[:80]!r}.")
        if any(dimension > MAX_DIMENSION for dimension in entry["shape"]):
            raise CheckpointError(f"{path}: {name} has an impossible shape {entry['shape']}.")


def read_index(path: Path) -> dict[str, str]:
    """Tensor name -> shard file of a sharded checkpoint; every file name is checked.

    Raises:
        UnsafeCheckpointError: a name leaves the folder, or is not a safetensors file.
    """
    weight_map = read_json(path, CheckpointError, max_bytes=MAX_HEADER_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{path} has no weight_map that names the shards.")
    for name in set(map(str, weight_map.values())):
        # Windows' rules are the stricter ones, and an index is the same file everywhere.
        parts = PureWindowsPath(name)
        if parts.drive or parts.root or ".." in parts.parts or "\0" in name:
            raise UnsafeCheckpointError(f"{path} names a file outside its folder: {name!r}.")
        if parts.suffix != ".safetensors":
            raise UnsafeCheckpointError(f"{path} names a shard that is not safetensors: {name!r}.")
    return {str(name): str(shard) for name, shard in weight_map.items()}


def _read_shards(folder: Path, weight_map: Mapping[str, str]) -> dict[str, Tensor]:
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(shards)} shards are missing: "
            f"{', '.join(missing[:5])}. Get them again."
        )
    found = {shard: read_safetensors(folder / shard) for shard in shards}
    absent = [name for name, shard in weight_map.items() if name not in found[shard]]
    if absent:
        raise CheckpointError(
            f"{folder / weight_map[absent[0]]} does not hold {absent[0]!r}, which {INDEX} says "
            "it does. The shards belong to different checkpoints."
        )
    return {name: found[shard][name] for name, shard in weight_map.items()}


def converted(
    state: Mapping[str, Tensor],
    source: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    allow_nonfinite: bool,
) -> dict[str, Tensor]:
    """The tensors on a device and in a type (the same tensors if they are already), checked.

    Raises:
        CheckpointError: whole numbers where weights belong, or NaN or infinite values.
    """
    whole = [name for name, x in state.items() if not x.is_floating_point()]
    if whole:
        raise CheckpointError(
            f"{source}: {whole[0]} holds {state[whole[0]].dtype}, not floating-point weights."
        )
    moved = {name: x.to(device=device, dtype=dtype) for name, x in state.items()}
    bad = {} if allow_nonfinite else {n: x for n, x in moved.items() if not _is_finite(x)}
    if bad:
        counts = [f"{name} ({int((~x.isfinite()).sum())})" for name, x in list(bad.items())[:5]]
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        raise CheckpointError(
            f"{source}: {len(bad)} tensors hold NaN or infinite values as {dtype}: "
            f"{', '.join(counts)}{more}. Pass allow_nonfinite=True to load them anyway."
        )
    return moved


def _is_finite(x: Tensor) -> bool:
    """Without a mask of the tensor's size: least and greatest carry any NaN."""
    return x.numel() == 0 or all(bool(bound.isfinite()) for bound in x.aminmax())


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A folder to write in: its files move into `folder` if the block ends well, else vanish."""
    try:
        with TemporaryDirectory(prefix=".partial-", dir=folder) as staging:
            yield Path(staging)
            probe = Path(staging, "probe")
            probe.touch()  # safetensors makes files only their owner can read; the umask says
            mode = stat.S_IMODE(probe.stat().st_mode)
            probe.unlink()
            files = sorted(Path(staging).iterdir())
            for file in files:
                file.chmod(mode)
                _flush(file)
            for file in files:
                file.replace(folder / file.name)
            _flush(folder)
    except (OSError, SafetensorError) as problem:
        raise CheckpointError(
            f"Writing into {folder} failed and changed nothing: {problem}."
        ) from problem


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_safetensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write one file, whole or not at all, readable by whom the umask allows."""
    with staged(path.parent) as folder:
        save_tensors(tensors, folder / path.name, metadata)


def save_tensors(
    tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors of any layout and device; for use inside `staged`."""
    plain = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"} | dict(metadata or {}))
