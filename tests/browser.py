"""A real Chromium for the tests that look at pages."""

import os
import shutil
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture
def chromium_page() -> Iterator[Callable[[str], Page]]:
    """Open a page in a colour scheme; any error in it, and any request to a server, fails the test.

    Skipped where no Chromium is installed, unless INTERP_REQUIRE_CHROMIUM is set.
    """
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        reason = "no Chromium here (apt-get install chromium)"
        if os.environ.get("INTERP_REQUIRE_CHROMIUM"):
            pytest.fail(reason)
        pytest.skip(reason)
    problems: list[str] = []

    def note_request(request) -> None:
        if request.url.startswith("http"):
            problems.append(f"request to {request.url}")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)

        def open_page(scheme: str) -> Page:
            page = browser.new_page(color_scheme=scheme)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
            page.on("request", note_request)
            return page

        yield open_page
        browser.close()
    assert not problems
