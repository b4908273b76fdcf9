"""A real Chromium for the tests that look at pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class OpenPage(Protocol):
    """Opens a page; see `chromium_page`."""

    def __call__(
        self, scheme: Literal["light", "dark"] = "light", *, server: str = "", width: int = 1280
    ) -> Page:
        """A page in a colour scheme that may ask one server."""
        ...


@contextmanager
def launched_chromium() -> Iterator[Browser]:
    """A Chromium; the test is skipped where none is installed, unless INTERP_REQUIRE_CHROMIUM is
    set.
    """
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        reason = "no Chromium here (apt-get install chromium)"
        if os.environ.get("INTERP_REQUIRE_CHROMIUM"):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One Chromium for the tests of a file."""
    with launched_chromium() as browser:
        yield browser


@pytest.fixture
def chromium_page(chromium: Browser) -> Iterator[OpenPage]:
    """Open a page in a colour scheme; any error in it, and any request to a server, fails the test.

    `server` is the address of the one server that may be asked.
    """
    problems: list[str] = []
    pages: list[Page] = []

    def open_page(
        scheme: Literal["light", "dark"] = "light", *, server: str = "", width: int = 1280
    ) -> Page:
        def note_request(request) -> None:
            own = server and request.url.startswith(f"{server}/")
            if request.url.startswith("http") and not own:
                problems.append(f"request to {request.url}")

        page = chromium.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
        page.on("request", note_request)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not problems
