"""The tests themselves stay on this machine."""

import os
import socket

import pytest


def test_a_connection_to_another_machine_is_refused() -> None:
    with pytest.raises(OSError, match="tests use no network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)  # an address for documentation


def test_a_connection_to_this_machine_is_allowed() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()[:2], timeout=5) as client,
        server.accept()[0] as connection,
    ):
        connection.sendall(b"x")
        assert client.recv(1) == b"x"


def test_the_hub_is_switched_off() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
