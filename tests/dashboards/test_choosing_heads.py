"""Clicks and keys of the head page and the ablation lab, in a real browser."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.browser import OpenPage
from tests.dashboards.served import dashboard

pytestmark = pytest.mark.browser
PATIENCE = 20_000
"""Milliseconds for something to appear on a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard of the embedded model."""
    with dashboard("--port", "8724", folder=tmp_path_factory.mktemp("served")) as (url, _):
        yield url


def opened(chromium_page: OpenPage, server: str, address: str) -> Page:
    """A page of the dashboard with its pictures."""
    page = chromium_page(server=server)
    page.set_default_timeout(PATIENCE)
    page.goto(f"{server}{address}")
    expect(page.locator(".st-key-selection_bar")).to_be_visible(timeout=PATIENCE)
    return page


def test_a_row_of_the_highest_heads_chooses_its_head(chromium_page: OpenPage, server: str) -> None:
    page = opened(chromium_page, server, "/head?layer=0&head=0")
    table = page.locator(".st-key-figure_highest [data-testid=stDataFrame]")
    table.scroll_into_view_if_needed()
    expect(table.locator("canvas").first).to_be_visible()
    page.wait_for_timeout(500)
    row = 35
    table.click(position={"x": 18, "y": row + row / 2})
    expect(page.locator(".st-key-figure_passport")).to_contain_text("L2H3 looks like an induction")
    expect(page).to_have_url(re.compile("layer=2&head=3"))


def test_a_cell_of_the_map_chooses_its_head(chromium_page: OpenPage, server: str) -> None:
    page = opened(chromium_page, server, "/head?layer=1&head=1")
    page.locator(".st-key-figure_finder canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".st-key-figure_head_pattern")).to_contain_text("L1H2: where each")


def test_a_cell_is_taken_out_and_put_back(chromium_page: OpenPage, server: str) -> None:
    page = opened(chromium_page, server, "/ablation?ablation.chosen=L1H2")
    canvas = page.locator(".st-key-figure_singles canvas")
    canvas.focus()
    spoken = page.locator(".st-key-figure_singles .spoken")
    page.keyboard.press("ArrowRight")
    while "head MLP" not in (spoken.text_content() or ""):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("chosen=L0MLP(,|%2C)L1H2"))
    expect(page.locator(".st-key-figure_next_tokens")).to_contain_text("Without L0MLP, L1H2")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("chosen=L1H2"))
    expect(page.locator(".st-key-figure_next_tokens")).to_contain_text("Without L1H2")


def test_the_head_page_leads_to_the_lab_with_its_head(chromium_page: OpenPage, server: str) -> None:
    page = opened(chromium_page, server, "/head?layer=3&head=1&head.below=without")
    page.get_by_role("link", name="Take out more").click()
    expect(page.locator(".st-key-figure_next_tokens")).to_contain_text("Without L3H1")
