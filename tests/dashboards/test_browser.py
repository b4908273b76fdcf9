"""The dashboard in a real browser: clicks, keys, links, downloads, colours, long prompts."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Locator, Page, expect

import interp
from dashboards.state import SEED_TEXT
from tests.browser import OpenPage
from tests.dashboards.served import dashboard

pytestmark = pytest.mark.browser
PATIENCE = 20_000
"""Milliseconds for something to appear on a busy machine."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard of the embedded model."""
    with dashboard("--port", "8720", folder=tmp_path_factory.mktemp("served")) as (url, _):
        yield url


@pytest.fixture
def open_url(chromium_page: OpenPage, server: str):
    """Open an address of the dashboard, and wait for its picture."""

    def opened(address: str = "/attention", scheme="light", width: int = 1280) -> Page:
        page = chromium_page(scheme, server=server, width=width)
        page.set_default_timeout(PATIENCE)
        page.goto(f"{server}{address}")
        expect(page.locator(".st-key-selection_bar")).to_be_visible(timeout=PATIENCE)
        return page

    return opened


def picture(page: Page, figure: str) -> Locator:
    """The canvas of a figure."""
    return page.locator(f".st-key-figure_{figure} canvas")


def point_at(page: Page, figure: str, row: int, column: int) -> tuple[float, float]:
    """Move over a cell of a heat map; the place in the window."""
    canvas = picture(page, figure)
    canvas.scroll_into_view_if_needed()
    expect(canvas).to_have_attribute("data-cell", re.compile("[0-9]"))
    box, at = canvas.bounding_box(), canvas.evaluate("canvas => ({...canvas.dataset})")
    assert box is not None
    x = box["x"] + float(at["left"]) + (column + 0.5) * float(at["cell"])
    y = box["y"] + float(at["top"]) + (row + 0.5) * float(at["high"])
    page.mouse.move(x, y)
    return x, y


def tip(page: Page, figure: str) -> Locator:
    """What a picture says about the cell under the pointer."""
    return page.locator(f".st-key-figure_{figure} .tip")


def chosen(page: Page, label: str) -> Locator:
    """The box that shows a part of the selection."""
    return page.locator(f".st-key-{label}")


def test_a_click_on_the_map_chooses_the_head_everywhere(open_url) -> None:
    page = open_url()
    page.mouse.click(*point_at(page, "head_map", 3, 1))
    expect(chosen(page, "figure_pattern")).to_contain_text("L3H1: where each query looks")
    expect(page).to_have_url(re.compile(r"layer=3&head=1$"))


def test_the_link_brings_everything_back(open_url, server: str) -> None:
    page = open_url("/attention?text=The+dog+is+black&query=3&layer=2&attention.measure=entropy")
    expect(chosen(page, "query").locator("input")).to_have_value("3 ·is")
    expect(chosen(page, "figure_head_map")).to_contain_text("Entropy, by head")
    address = page.evaluate("window.location.href")
    other = open_url(address.removeprefix(server))
    expect(other.locator("textarea")).to_have_value("The dog is black")
    expect(chosen(other, "figure_head_map")).to_contain_text("Entropy, by head")


def test_the_selection_follows_to_another_page(open_url) -> None:
    page = open_url("/attention?layer=3&head=0")
    page.get_by_role("link", name="Help").click()
    expect(page.get_by_text("What it cannot tell")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/help\?layer=3&head=0$"))


def test_hovering_shows_a_number_and_the_numbers_are_right(open_url) -> None:
    page = open_url()
    point_at(page, "pattern", 13, 5)
    model = interp.load()
    _, cache = model.run_with_cache(model.to_tokens(SEED_TEXT))
    weight = float(cache["pattern", 1][0, 2, 13, 5])
    place = "query (looks) 13 ·cat, key (is looked at) 5 ·black"
    expect(tip(page, "pattern")).to_have_text(f"{place}: {weight:.4g}")


def test_keys_walk_through_the_picture_and_choose(open_url) -> None:
    page = open_url("/attention?layer=1&head=1")
    canvas = picture(page, "head_map")
    canvas.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    spoken = page.locator(".st-key-figure_head_map .spoken")
    expect(spoken).to_contain_text("layer 2, head 2")
    page.keyboard.press("Enter")
    expect(chosen(page, "figure_pattern")).to_contain_text("L2H2")
    page.keyboard.press("Escape")
    expect(page.locator(".st-key-figure_head_map .tip")).to_be_hidden()


def test_tokens_choose_query_and_key(open_url) -> None:
    page = open_url()
    tokens = page.locator(".st-key-token_strip button")
    tokens.nth(9).click()
    expect(chosen(page, "query").locator("input")).to_have_value("9 ·someday")
    tokens.nth(4).click(modifiers=["Shift"])
    expect(chosen(page, "key").locator("input")).to_have_value("4 ·color")
    tokens.nth(9).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(chosen(page, "query").locator("input")).to_have_value("10 ·to")
    tokens.nth(2).focus()
    page.keyboard.press("k")
    expect(chosen(page, "key").locator("input")).to_have_value("2 ·love")


def test_the_mosaic_enlarges_what_is_hovered_and_keeps_what_is_clicked(open_url) -> None:
    page = open_url("/attention?attention.below=all")
    canvas = picture(page, "all_heads")
    canvas.scroll_into_view_if_needed()
    before = canvas.screenshot()
    box = canvas.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 40, box["y"] + 40)
    assert canvas.screenshot() != before
    page.mouse.click(box["x"] + 40, box["y"] + 40)
    expect(chosen(page, "figure_pattern")).to_contain_text("L0H0")


def saved(page: Page, figure: str, kind: str, folder: Path) -> Path:
    """A file of a figure."""
    part = page.locator(f".st-key-figure_{figure}")
    part.get_by_role("radio", name="Save").click()
    with page.expect_download() as waiting:
        part.get_by_role("button", name=kind, exact=True).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path


def test_files_hold_the_numbers_and_where_they_come_from(
    open_url, chromium_page: OpenPage, tmp_path: Path
) -> None:
    page = open_url("/attention?attention.hide_first=1")
    model = interp.load()
    answers = [model.to_single_token(word) for word in (" black", " white")]
    ds = interp.attention.edge_effects(model, SEED_TEXT, 13, 5, interp.metrics.logit_diff(*answers))
    table = pd.read_csv(saved(page, "head_map", "CSV", tmp_path))
    assert table["weight"].to_numpy() == pytest.approx(ds["weight"].values.ravel(), abs=1e-5)
    record = json.loads(saved(page, "head_map", "JSON", tmp_path).read_text())
    assert record["settings"]["model_hash"] == interp.model_hash(model)
    assert record["settings"]["text"] == SEED_TEXT
    assert record["settings"]["options"] == {"attention.hide_first": "1"}
    assert len(record["table"]) == 16
    assert saved(page, "head_map", "PNG", tmp_path).read_bytes().startswith(b"\x89PNG")
    svg = ET.parse(saved(page, "head_map", "SVG", tmp_path)).getroot()
    assert svg.tag.endswith("svg")
    html = saved(page, "head_map", "HTML", tmp_path)
    offline = chromium_page("light")
    offline.goto(html.as_uri())
    expect(offline.locator("canvas, svg").first).to_be_visible(timeout=PATIENCE)
    expect(offline.get_by_text("L1H2 looks hardest").first).to_be_visible()


def luminance(colour: str) -> float:
    """Relative luminance of a computed CSS colour (WCAG 2.2)."""
    numbers = colour[colour.index("(") + 1 : colour.index(")")].split(",")[:3]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in (float(number) / 255 for number in numbers)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_colour_schemes(open_url, scheme: str) -> None:
    page = open_url("/attention", scheme=scheme)
    style = (
        "element => { const s = getComputedStyle(element); return [s.color, s.backgroundColor] }"
    )
    _, behind = page.locator("[data-testid=stApp]").evaluate(style)
    assert (luminance(behind) < 0.2) == (scheme == "dark")
    ink, own = page.locator(".st-key-token_strip .text").nth(1).evaluate(style)
    for text, background in ((ink, own if own.startswith("rgb(") else behind),):
        light, dark = sorted((luminance(text), luminance(background)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_a_prompt_of_two_hundred_tokens_is_shown_and_followed(open_url) -> None:
    page = open_url("/attention?attention.below=all")
    text = " ".join([SEED_TEXT, *["I love the color black."] * 29])
    page.locator("textarea").fill(text)
    page.keyboard.press("Control+Enter")
    tokens = page.locator(".st-key-token_strip button")
    expect(tokens.nth(190)).to_be_attached(timeout=PATIENCE)
    assert tokens.count() >= 190
    tokens.nth(100).click()
    expect(chosen(page, "figure_head_map")).to_contain_text("100 to")
    expect(picture(page, "pattern")).to_be_visible()
    widths = page.evaluate(
        "() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert widths[0] <= widths[1]


def test_a_prompt_that_cannot_be_read_is_said_beside_the_box(open_url) -> None:
    page = open_url()
    page.locator("textarea").fill("")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("The text is empty")).to_be_visible()
    expect(chosen(page, "figure_pattern")).to_contain_text("L1H2")


def test_the_link_is_copied(open_url) -> None:
    page = open_url("/attention?layer=2&head=1")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.url
    assert "layer=2" in copied


@pytest.mark.parametrize("width", [1440, 900])
def test_nothing_is_wider_than_the_window(open_url, width: int) -> None:
    page = open_url("/attention", width=width)
    expect(picture(page, "pattern")).to_be_visible()
    inner = page.locator("[data-testid=stMain]").evaluate("e => [e.scrollWidth, e.clientWidth]")
    assert inner[0] <= inner[1]


def test_a_template_below_the_prompt_also_changes_the_prompt(open_url):
    page = open_url("/patching")
    expect(picture(page, "patching")).to_be_visible()
    page.get_by_role("button", name="Indirect object", exact=True).click()
    expect(page.locator("textarea").first).to_have_value(re.compile(" to$"))
    expect(chosen(page, "figure_cell")).to_contain_text("This cell: resid_pre")
    x, y = point_at(page, "patching", 1, 2)
    page.mouse.click(x, y)
    expect(page).to_have_url(re.compile(r"patching\.cell=1\.-\.2"))
    expect(chosen(page, "figure_cell")).to_contain_text("This cell: resid_pre at L1, position 2")
