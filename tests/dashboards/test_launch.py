"""The dashboard as a process: where it listens, whom it answers, how it starts and ends."""

import http.client
import signal
import socket
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from dashboards import launch
from interp.cli import app
from interp.errors import ConfigError, InterpError
from tests.dashboards.served import dashboard


def handshake(url: str, host: str, origin: str) -> int:
    """Status of the answer to somebody who wants to talk to a page's session."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    headers = {
        "Host": host,
        "Origin": origin,
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    connection.request("GET", "/_stcore/stream", headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_it_serves_this_machine_only_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    with dashboard("--port", "8700", folder=tmp_path) as (url, process):
        listening = [
            found.laddr.ip
            for found in psutil.Process(process.pid).net_connections()
            if found.status == psutil.CONN_LISTEN
        ]
        assert listening == ["127.0.0.1"]
        own = url.removeprefix("http://")
        assert handshake(url, own, url) == 101
        assert handshake(url, "evil.example", "http://evil.example") == 400
        assert handshake(url, "evil.example", url) == 400
        assert handshake(url, own, "http://evil.example") == 403
        assert handshake(url, own, "http://127.0.0.1.evil.example") == 403
        assert handshake(url, own, "null") == 403
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        rest = process.stdout.read()
    # The server notes each stranger whom it turned away, and asks nobody about them.
    assert set(rest.splitlines()) == {"ASGI callable returned without completing handshake."}
    assert list(tmp_path.iterdir()) == []


def test_a_busy_port_gives_the_next_free_one() -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert port < launch.free_port(port) <= port + launch.N_PORTS


def test_a_free_port_is_taken_as_it_is() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert launch.free_port(port) == port


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(ConfigError, match=f"from 1 to 65535, not {port}"):
        launch.free_port(port)


def test_a_model_that_cannot_be_loaded_is_said_before_anything_is_served() -> None:
    said: list[str] = []
    with pytest.raises(InterpError, match="no-such-folder"):
        launch.launch("./no-such-folder", said=said.append)
    assert said == []


def test_a_store_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterpError, match="make it first"):
        launch.launch("tiny", store=tmp_path / "none", said=lambda url: None)


def test_the_command_names_its_options() -> None:
    shown = CliRunner().invoke(app, ["dashboard", "--help"], env={"COLUMNS": "200"}).output
    for option in ("--model", "--port", "--store"):
        assert option in shown
