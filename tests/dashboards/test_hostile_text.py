"""Whatever a token holds, every page shows it as text, in a real browser."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from playwright.sync_api import Page, expect

from dashboards.pages import SECTIONS
from interp.model.tokens import visible
from tests.browser import OpenPage
from tests.dashboards.hostile import TOKENS, model_folder
from tests.dashboards.served import dashboard

pytestmark = pytest.mark.browser
PATIENCE = 20_000
"""Milliseconds for something to appear on a busy machine."""

INTERPRETED = """() => {
    const marked = "strong, em, del, a, h1, h2, h3, h4, h5, h6, table, .katex, img, script, iframe,"
        + " [style*=color], [data-testid=stIconMaterial], .stMarkdownColoredText";
    const found = [];
    const main = document.querySelector("[data-testid=stMain]");
    for (const element of main.querySelectorAll(marked)) {
        if (element.src && element.src.includes("canary")) found.push(element.outerHTML);
        if (element.closest("[data-testid=stDataFrame], [data-testid=stJson]")) continue;
        const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const node = walker.currentNode;
            const plain = node.parentElement.closest("code, pre, textarea, input, script");
            if (node.textContent.includes("canary") && !plain) found.push(element.outerHTML);
        }
    }
    return found;
}"""
"""Elements of the page that markup in a token made."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = model_folder(tmp_path_factory.mktemp("hostile") / "model")
    with dashboard("--port", "8740", "--model", str(folder)) as (url, _):
        yield url


def opened(chromium_page: OpenPage, server: str, view: str, text: str) -> Page:
    """A page of a prompt."""
    page = chromium_page(server=server)
    page.set_default_timeout(PATIENCE)
    name = "" if view == "start" else view
    page.goto(f"{server}/{name}?{urlencode({'text': text, 'query': '3', 'key': '2'})}")
    expect(page.locator(".st-key-selection_bar")).to_be_visible(timeout=PATIENCE)
    expect(page.locator("[data-testid=stStatusWidget]")).to_have_count(0, timeout=PATIENCE)
    return page


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
def test_a_token_is_shown_as_its_text(chromium_page: OpenPage, served: str, token: str) -> None:
    page = opened(chromium_page, served, "attention", f"a{token} b")
    strip = page.locator(".st-key-token_strip .text")
    shown = visible(token)
    expect(strip.nth(2)).to_have_text(shown)
    expect(page.locator(".st-key-key input")).to_have_value(f"2 {shown}")
    in_reading = page.locator(".st-key-figure_head_map code").first
    expect(in_reading).to_be_visible()
    spans = page.locator(".st-key-figure_head_map code").all_text_contents()
    assert shown in spans or f"{shown[:39]}…" in spans or shown in "".join(spans)
    assert page.evaluate(INTERPRETED) == []


@pytest.mark.parametrize("view", [entry.name for section in SECTIONS.values() for entry in section])
def test_no_page_reads_a_token_as_markup(chromium_page: OpenPage, served: str, view: str) -> None:
    page = opened(chromium_page, served, view, f"a{''.join(TOKENS.values())} b")
    assert page.evaluate(INTERPRETED) == []
    expect(page.locator("[data-testid=stException]")).to_have_count(0)
    expect(page.get_by_text("in the dashboard itself")).to_have_count(0)
