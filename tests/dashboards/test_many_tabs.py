"""Many people at once: everybody gets the numbers that they would get alone."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlencode

import psutil
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

import interp
from dashboards.service import Service
from interp import HookedGPT2
from interp.ablation import zero_heads
from tests.browser import launched_chromium
from tests.dashboards.served import dashboard

N_TABS = 10
PATIENCE = 60_000
"""Milliseconds for something to appear on a machine on which ten pages compute."""
MEGA = 2**20


@dataclass(frozen=True)
class Tab:
    """What one person looks at: a prompt of their own, with a head of their own taken out."""

    text: str
    chosen: str
    kind: str

    @property
    def address(self) -> str:
        """Of the ablation lab."""
        query = {"text": self.text, "ablation.chosen": self.chosen, "ablation.kind": self.kind}
        return f"/ablation?{urlencode(query)}"


WORDS = ("black", "white", "red", "green", "blue", "brown", "pink", "gray", "yellow", "purple")
TABS = [
    Tab(
        f"I love the color {word}, I hope someday to have a cat like that. The cat is",
        f"L{number % 4}H{(number * 7) % 4}",
        "zero",
    )
    for number, word in enumerate(WORDS)
]


def without_head(model: HookedGPT2, text: str, layer: int, head: int) -> float:
    """A question: the highest logit without one head."""
    logits = model.run_with_hooks(text, zero_heads([(layer, head)]), positions="last")
    return float(logits.max())


def as_it_is(model: HookedGPT2, text: str) -> float:
    """A question: the highest logit of the whole model."""
    return float(model(text, positions="last").max())


def test_interventions_of_one_never_reach_another() -> None:
    model = interp.load()
    alone = {
        tab: (without_head(model, tab.text, number % 4, number % 3), as_it_is(model, tab.text))
        for number, tab in enumerate(TABS)
    }
    assert len(set(alone.values())) == N_TABS
    wrong: list[object] = []

    def person(number: int, tab: Tab) -> None:
        for _ in range(8):
            service = services[number % len(services)]
            loaded = service.loaded("tiny")
            cut = service.answer(loaded, without_head, tab.text, number % 4, number % 3)
            whole = service.answer(loaded, as_it_is, tab.text)
            if (cut, whole) != alone[tab]:
                wrong.append((tab, cut, whole))

    # Several services: the same questions run at the same time, not only one after the other.
    services = [Service() for _ in range(4)]
    threads = [threading.Thread(target=person, args=each) for each in enumerate(TABS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.fixture
def browser() -> Iterator[Browser]:
    with launched_chromium() as chromium:
        yield chromium


def settled(page: Page) -> None:
    """Until the server has sent everything."""
    expect(page.locator("[data-testid=stApp]")).to_have_attribute(
        "data-test-script-state", "notRunning", timeout=PATIENCE
    )


def opened(browser: Browser, address: str) -> Page:
    page = browser.new_context().new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    expect(page.locator(".st-key-figure_next_tokens p").last).to_be_visible(timeout=PATIENCE)
    settled(page)
    return page


def readings(page: Page) -> Locator:
    """What the page says of the answer with and without the head."""
    return page.locator(".st-key-figure_next_tokens [data-testid=stMarkdown] p")


def numbers(page: Page) -> list[str]:
    """The same as text, once everything is there."""
    settled(page)
    return readings(page).all_text_contents()


def switch_beginning(page: Page) -> None:
    """Ask for the same without, or with, the token that begins the text."""
    page.locator(".st-key-bos label").first.click()


@pytest.mark.browser
@pytest.mark.parametrize(
    ("n_tabs", "seconds"),
    [
        (4, 3),
        pytest.param(N_TABS, 120, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_each_tab_shows_what_it_would_show_alone(
    browser: Browser, n_tabs: int, seconds: int
) -> None:
    with dashboard("--port", "8780") as (url, process):
        alone: dict[Tab, list[list[str]]] = {}
        for tab in TABS[:n_tabs]:
            page = opened(browser, url + tab.address)
            alone[tab] = [numbers(page)]
            switch_beginning(page)
            expect(page.locator(".st-key-token_strip button")).to_have_count(19)
            alone[tab].append(numbers(page))
            page.context.close()
        # Rounded as they are, the sentences still tell the tabs apart.
        assert len({tuple(map(tuple, both)) for both in alone.values()}) == n_tabs
        pages = {tab: opened(browser, url + tab.address) for tab in alone}
        server = psutil.Process(process.pid)
        begun, step, memory = time.monotonic(), 0, []
        while time.monotonic() - begun < seconds or step < 2:
            step += 1
            for page in pages.values():
                switch_beginning(page)
            for tab, page in pages.items():
                n_tokens = 19 if step % 2 else 20
                expect(page.locator(".st-key-token_strip button")).to_have_count(n_tokens)
                expect(readings(page)).to_have_text(alone[tab][step % 2], timeout=PATIENCE)
            memory.append(server.memory_info().rss)
        half = memory[len(memory) // 2 :]
        assert half[-1] - half[0] < 50 * MEGA, memory
