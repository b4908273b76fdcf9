"""Small JSON files that know when they have been altered.

A sealed file is canonical JSON (sorted keys, no spaces) with one more field, `checksum`: xxh3_128
of the canonical JSON of the others.
"""

import json
from collections.abc import Mapping
from typing import Any

import xxhash

from interp.errors import DamagedStoreError

MAX_BYTES = 64 * 2**20
"""Larger files are taken for damaged before they are parsed."""


def canonical(content: Mapping[str, Any]) -> bytes:
    """The one JSON text of a content."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode()


def digest(content: Mapping[str, Any]) -> str:
    """32 hexadecimal digits that stand for a content."""
    return xxhash.xxh3_128(canonical(content)).hexdigest()


def seal(content: Mapping[str, Any]) -> bytes:
    """The content as a file with its checksum."""
    return canonical({**content, "checksum": digest(content)})


def unseal(data: bytes, path: str) -> dict[str, Any]:
    """The content of a sealed file.

    Raises:
        DamagedStoreError: it is not such a file, or was altered; names `path`.
    """
    if len(data) > MAX_BYTES:
        raise DamagedStoreError(f"{path} has {len(data)} bytes; such files stay below {MAX_BYTES}.")
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedStoreError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise DamagedStoreError(f"{path} holds {type(content).__name__}; expected an object.")
    content.pop("checksum", None)
    try:
        expected = seal(content)
    except ValueError as error:  # NaN, which canonical JSON does not have
        raise DamagedStoreError(f"{path} holds a number that is none: {error}.") from error
    if data != expected:
        raise DamagedStoreError(f"{path} was altered: its checksum is not that of its content.")
    return content
