"""Places in object storage: in memory, and on an S3 server in this process."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tests.store.object_servers import S3Server, s3_server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where copies are kept in this test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory(cache: Path) -> Iterator[str]:
    """An empty place in memory."""
    yield "memory://bucket/store"
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def s3_emulator() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture
def s3(cache: Path, s3_emulator: S3Server, request: pytest.FixtureRequest) -> str:
    """An empty place in an S3 bucket."""
    return f"s3://bucket/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture(params=["memory", "s3"])
def url(request: pytest.FixtureRequest) -> str:
    """An empty place in each kind of storage."""
    return request.getfixturevalue(request.param)
