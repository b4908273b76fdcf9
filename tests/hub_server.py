"""A small Hugging Face hub on 127.0.0.1: what `huggingface_hub` asks for, and the ways it fails.

It answers HEAD and GET of `/<repo>/resolve/<revision>/<file>` as the real one does: the commit and
an ETag in the headers, `X-Error-Code` for what does not exist.
"""

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Files = dict[str, bytes]


@dataclass
class Hub:
    """Repositories, by name and revision, and what goes wrong."""

    repos: dict[str, dict[str, Files]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    interrupted: set[str] = field(default_factory=set)
    """File names whose first download breaks off half way."""
    truncated: set[str] = field(default_factory=set)
    """File names of which the hub itself holds only the first half."""
    seconds_to_answer: float = 0.0
    requests: list[str] = field(default_factory=list)
    """`METHOD path` of every request."""
    endpoint: str = ""

    def add(self, repo: str, files: Files, revision: str = "main") -> str:
        """Publish a commit; returns its hash."""
        self.repos.setdefault(repo, {})[revision] = files
        commit = commit_of(files)
        self.repos[repo][commit] = files
        return commit


def commit_of(files: Files) -> str:
    """40 hexadecimal digits that stand for this content."""
    digest = hashlib.sha1(usedforsecurity=False)
    for name, content in sorted(files.items()):
        digest.update(name.encode() + content)
    return digest.hexdigest()


def handler_for(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def refuse(self, status: int, code: str, commit: str = "") -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            if commit:
                self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def answer(self, *, with_body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            time.sleep(hub.seconds_to_answer)
            repo, resolve, rest = self.path.strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            if not resolve:
                self.refuse(200, "")
            elif repo in hub.gated:
                self.refuse(403, "GatedRepo")
            elif repo not in hub.repos:
                self.refuse(401, "RepoNotFound")
            elif revision not in hub.repos[repo]:
                self.refuse(404, "RevisionNotFound")
            elif name not in hub.repos[repo][revision]:
                self.refuse(404, "EntryNotFound", commit_of(hub.repos[repo][revision]))
            else:
                self.send_file(hub.repos[repo][revision], name, with_body)

        def send_file(self, files: Files, name: str, with_body: bool) -> None:
            body = files[name]
            if name in hub.truncated and with_body:
                body = body[: len(body) // 2]
            start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if start else 200)
            self.send_header("X-Repo-Commit", commit_of(files))
            self.send_header("ETag", f'"{hashlib.sha256(files[name]).hexdigest()}"')
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            if with_body and name in hub.interrupted:
                hub.interrupted.remove(name)
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
            elif with_body:
                self.wfile.write(body[start:])

    return Handler


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """The hub at `hub.endpoint`, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
