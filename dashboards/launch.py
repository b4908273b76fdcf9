"""Start the dashboard's server with safe settings, from any directory."""

import errno
import gc
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from dashboards import service
from dashboards.doorkeeper import OwnOriginOnly
from dashboards.pages import SECTIONS
from dashboards.settings import HOST, OWN_HOSTS, SETTINGS
from interp.errors import ConfigError, InterpError

FIRST_PORT = 8501
N_PORTS = 100
"""Tried one after the other when a port is busy."""


def free_port(first: int = FIRST_PORT) -> int:
    """The first port that nobody listens on.

    Raises:
        ConfigError: none of the next hundred, or no such port.
    """
    if not 1 <= first <= 65535:
        raise ConfigError(f"A port is a number from 1 to 65535, not {first}.")
    for port in range(first, min(first + N_PORTS, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise
                continue
            return port
    raise ConfigError(f"Ports {first} to {first + N_PORTS - 1} are all busy; choose another one.")


def launch(
    model: str,
    *,
    port: int = FIRST_PORT,
    store: Path | None = None,
    said: Callable[[str], object],
) -> None:
    """Serve the dashboard until Ctrl-C.

    Args:
        model: What `interp.load` takes.
        port: Or the next free one.
        store: The only folder under which activation stores are opened and made.
        said: Told the address, before the server begins.

    Raises:
        InterpError: the model cannot be loaded, or no port is free.
    """
    if store is not None and not store.is_dir():
        raise InterpError(f"There is no folder {store} for activation stores; make it first.")
    service.begin(model, store.resolve() if store else None)
    load_pages()
    chosen = free_port(port)
    said(f"http://{HOST}:{chosen}")
    doors = [Middleware(TrustedHostMiddleware, OWN_HOSTS), Middleware(OwnOriginOnly)]
    app = st.App(Path(__file__).with_name("app.py"), middleware=doors)
    try:
        app.run(config=SETTINGS | {"server.port": chosen})
    finally:
        gc.unfreeze()


def load_pages() -> None:
    """Import what the pages need now, and spare the collector the work of looking at it again.

    Streamlit collects garbage after each run of a page. With all that PyTorch and others bring,
    that took longer than the page itself; what is frozen is not looked at.
    """
    for section in SECTIONS.values():
        for page in section:
            import_module(f"dashboards.views.{page.name}")
    gc.collect()
    gc.freeze()
