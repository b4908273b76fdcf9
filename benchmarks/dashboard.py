"""The dashboard in a real browser: from a click to the finished picture.

Times are taken inside the page, from the click to the first frame in which the new numbers are
shown and the server has nothing left to send. Every click asks for something that was not asked
before, as long as there is any.
"""

import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright
from tokenizers import Tokenizer as Backend

import interp
from benchmarks.rows import Row

CHANGE_SECONDS, LARGE_SECONDS, FIRST_PAGE_SECONDS = 0.3, 1.0, 3.0
"""Goals: of a change with the embedded model, with GPT-2 small's shape, and of the first page."""
D_VOCAB = 50257
"""Of GPT-2."""
PATIENCE = 60_000
"""Milliseconds."""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]

CHANGE = """async ([act, figure, expected]) => {
  const settled = () => {
    const app = document.querySelector("[data-testid=stApp]");
    const part = document.querySelector(figure);
    return app.getAttribute("data-test-script-state") === "notRunning"
      && part && part.innerText.includes(expected);
  };
  const frame = () => new Promise(requestAnimationFrame);
  const begun = performance.now();
  eval(act);
  do { await frame(); } while (!settled() && performance.now() - begun < 20000);
  await frame();
  return (performance.now() - begun) / 1000;
}"""
"""Does something in the page, and waits until a part of it says what is expected."""
FIRST_PICTURE = ".st-key-figure_first_result :is(canvas, svg.marks)"
MAP = ".st-key-figure_head_map"
SHADOW = "[data-testid=stBidiComponentIsolated]"
"""What holds a canvas of ours."""
TOKEN = """document.querySelector(".st-key-token_strip [data-testid=stBidiComponentIsolated]")
  .shadowRoot.querySelectorAll("button")[{index}].click()"""


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """`interp dashboard`; its address as soon as it answers."""
    command = [sys.executable, "-m", "interp", "dashboard", "--port", "8760", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        url = next(word for word in process.stdout.readline().split() if word.startswith("http"))
        while True:
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=5)
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.01)
        yield url
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    assert executable is not None, "this benchmark needs Chromium (apt-get install chromium)"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield browser
        browser.close()


def settle(page: Page) -> None:
    """Until everything of a page is drawn."""
    page.wait_for_selector(".st-key-selection_bar", timeout=PATIENCE)
    page.wait_for_selector("[data-test-script-state=notRunning]", timeout=PATIENCE)
    page.wait_for_timeout(500)


def dashboard(repeats: int) -> Iterator[Row]:
    """First page, then changes of token, head and page; then the same at GPT-2 small's size."""
    with chromium() as browser:
        with served() as url:
            begun = time.perf_counter()
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            page.goto(url)
            page.wait_for_selector(FIRST_PICTURE, timeout=PATIENCE)
            page.wait_for_selector("[data-test-script-state=notRunning]", timeout=PATIENCE)
            first = time.perf_counter() - begun
            yield Row(
                "dashboard, first page after the server is up", "s", {"interp": first}, first,
                FIRST_PAGE_SECONDS, "a limit",
            )  # fmt: skip
            yield from changes(page, url, "embedded model", CHANGE_SECONDS)
            yield quantiles(
                "embedded model: change of page", page_changes(page, url, repeats), CHANGE_SECONDS
            )
        with tempfile.TemporaryDirectory() as folder, served("--model", large(folder)) as url:
            page = browser.new_page(viewport={"width": 1440, "height": 1000})
            yield from changes(page, url, "GPT-2 small's shape", LARGE_SECONDS)


def large(folder: str) -> str:
    """A random model of GPT-2 small's shape, with the embedded model's tokens and many others."""
    small = interp.load().tokenizer
    assert small is not None
    backend = Backend.from_str(small.backend.to_str())
    backend.add_tokens([f"<unused {i}>" for i in range(D_VOCAB - len(small))])
    cfg = interp.ModelConfig(
        n_layers=12, n_heads=12, d_model=768, d_mlp=3072, d_vocab=D_VOCAB, n_ctx=1024
    )
    path = Path(folder, "model")
    interp.save_huggingface(interp.HookedGPT2(cfg, interp.Tokenizer(backend)), path)
    return str(path)


def changes(page: Page, url: str, which: str, goal: float) -> Iterator[Row]:
    """Changes of token and of head in the attention explorer."""
    page.goto(f"{url}/attention")
    settle(page)
    yield quantiles(f"{which}: change of token", list(token_changes(page)), goal)
    yield quantiles(f"{which}: change of head", list(head_changes(page)), goal)


def token_changes(page: Page) -> Iterator[float]:
    """Seconds to show each token's row."""
    n_tokens = page.locator(".st-key-token_strip button").count()
    for index in [i for i in range(6, n_tokens) if i != 13]:
        act = TOKEN.format(index=index)
        yield page.evaluate(CHANGE, [act, MAP, f"{index} to"])


def head_changes(page: Page) -> Iterator[float]:
    """Seconds to show each head's pattern, by its cell of the map."""
    where = f"{MAP} canvas"
    box, at = page.locator(where).bounding_box(), page.locator(where).evaluate("c => c.dataset")
    assert box is not None
    for cell in range(16):
        layer, head = cell // 4, cell % 4
        x = box["x"] + float(at["left"]) + (head + 0.5) * float(at["cell"])
        y = box["y"] + float(at["top"]) + (layer + 0.5) * float(at["high"])
        act = (
            f'document.querySelector("{MAP} {SHADOW}")'
            '.shadowRoot.querySelector("canvas").dispatchEvent('
            f'new MouseEvent("click", {{clientX: {x}, clientY: {y}}}))'
        )
        expected = f"L{layer}H{head}:"
        if expected not in page.locator(".st-key-figure_pattern").inner_text():
            yield page.evaluate(CHANGE, [act, ".st-key-figure_pattern", expected])


def page_changes(page: Page, url: str, repeats: int) -> list[float]:
    """Seconds to show each page, from a click in the menu."""
    page.goto(url)
    settle(page)
    links = page.locator("[data-testid=stSidebarNavLink]")
    paths = links.evaluate_all("links => links.map((link) => [link.pathname, link.innerText])")
    seconds = []
    for _ in range(repeats):
        for path, title in [*paths[1:], paths[0]]:
            act = (
                '[...document.querySelectorAll("[data-testid=stSidebarNavLink]")]'
                f'.find((link) => link.pathname === "{path}").click()'
            )
            seconds.append(page.evaluate(CHANGE, [act, "h4", title]))
            page.wait_for_timeout(200)
    return seconds


def quantiles(what: str, seconds: list[float], goal: float) -> Row:
    """The 95th percentile against the goal."""
    median, p95 = np.quantile(seconds, [0.5, 0.95])
    numbers = {"median": float(median), "p95": float(p95), "largest": max(seconds)}
    return Row(f"dashboard, {what}", "s", numbers, float(p95), goal, "p95, a limit",
               f"{len(seconds)} changes")  # fmt: skip


GROUPS = {"dashboard": dashboard}
