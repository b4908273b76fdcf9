"""An S3 server in this process, and what object storage keeps on this machine."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock, Thread

import pytest

ACCESS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


class S3Server:
    """Answers one request at a time, as S3 decides on one name: the emulator alone does not."""

    def __init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._emulator = DomainDispatcherApplication(create_backend_app)
        self._lock = Lock()
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and If-None-Match of each."""
        self.ignores_conditions = False

    def __call__(self, environ: dict, start_response: Callable) -> Iterable[bytes]:
        condition = environ.get("HTTP_IF_NONE_MATCH")
        if self.ignores_conditions:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        with self._lock:
            self.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], condition))
            return self._emulator(environ, start_response)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A server with a bucket named `bucket`, which s3fs finds through the environment."""
    for package in ("s3fs", "moto", "flask"):
        pytest.importorskip(package, reason=f"{package} is not installed: no S3 emulator")
    import s3fs
    from werkzeug.serving import make_server

    server = S3Server()
    listener = make_server("127.0.0.1", 0, server, threaded=True)
    thread = Thread(target=listener.serve_forever, daemon=True)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in ACCESS.items():
                patch.setenv(name, value)
            patch.delenv("AWS_PROFILE", raising=False)
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{listener.port}")
            s3fs.S3FileSystem.clear_instance_cache()
            s3fs.S3FileSystem().makedirs("bucket", exist_ok=True)
            yield server
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        listener.shutdown()
        thread.join()
        listener.server_close()


def copies(cache: Path) -> list[Path]:
    """Files in the cache folder."""
    return [path for path in cache.rglob("*") if path.is_file()]
