import struct
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import pytest

from interp import charts, pictures
from interp.errors import InterpError

HOSTILE = "</script><script>document.title='taken'</script> $x$ &amp; \"' 😀" + "🤯" * 40


def chart(title: str = "Where it looks") -> alt.Chart:
    return charts.attention_row([0.25, 0.75], [" the", HOSTILE], title)


def size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG, from its header."""
    return struct.unpack(">II", png[16:24])


def texts(svg: str) -> list[str]:
    """Every text in an SVG, as a reader sees it."""
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter()]


def test_a_png_has_as_many_pixels_as_asked_for(tmp_path):
    path = pictures.save(chart(), tmp_path / "chart.png", scale=1)
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    width, height = size(path.read_bytes())
    assert size(pictures.save(chart(), path, scale=3).read_bytes()) == (3 * width, 3 * height)
    assert size(pictures.save(chart(), str(path)).read_bytes()) == (2 * width, 2 * height)


def test_an_svg_holds_title_and_labels_as_text(tmp_path):
    svg = pictures.save(chart(), tmp_path / "chart.svg").read_text(encoding="utf-8")
    assert "Where it looks" in texts(svg)
    assert "attention weight" in texts(svg)


def test_hostile_text_stays_text(tmp_path):
    svg = pictures.svg(chart(HOSTILE))
    assert HOSTILE in texts(svg)
    assert "<script" not in svg
    page = pictures.save(chart(HOSTILE), tmp_path / "chart.html").read_text(encoding="utf-8")
    assert "document.title='taken'" not in page


@pytest.mark.parametrize("start", ["", "w", "ww"])
def test_long_labels_of_wide_characters_are_drawn_whole(start):
    label = start + "w🤯" * 40
    bars = alt.Chart(alt.InlineData(values=[{"name": label, "value": 1.0}])).mark_bar()
    assert label in texts(pictures.svg(bars.encode(x="value:Q", y="name:N")))


@pytest.mark.parametrize(("theme", "colour"), [("light", "#ffffff"), ("dark", "#16181b")])
def test_the_theme_decides_background_and_text(theme, colour):
    svg = pictures.svg(chart(), theme=theme)
    assert ElementTree.fromstring(svg)[0].attrib["fill"] == colour
    assert ('fill="#fff"' in svg) == (theme == "dark")


def test_a_page_needs_nothing_beside_it(tmp_path):
    page = pictures.save(chart(), tmp_path / "chart.html").read_text(encoding="utf-8")
    assert "Where it looks" in page
    assert 'src="http' not in page
    assert "<link" not in page


def test_no_data_is_fetched():
    remote = alt.Chart("http://127.0.0.1:9/table.csv").mark_bar().encode(x="a:Q")
    for render in (pictures.png, pictures.svg):
        with pytest.raises(ValueError, match="not allowed"):
            render(remote)


@pytest.mark.parametrize("name", ["chart.jpg", "chart", "chart.PNG.gz"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(InterpError, match=rf"as \.png, \.svg or \.html, not as '{name}'"):
        pictures.save(chart(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InterpError, match=r"no folder .*absent to save chart\.png in"):
        pictures.save(chart(), tmp_path / "absent/chart.png")


def test_a_failed_picture_leaves_the_earlier_one(tmp_path):
    path: Path = pictures.save(chart(), tmp_path / "chart.svg")
    before = path.read_text()
    with pytest.raises(ValueError, match="not allowed"):
        pictures.save(alt.Chart("http://127.0.0.1:9/t.csv").mark_bar().encode(x="a:Q"), path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_draws_its_chart_in_a_browser(tmp_path, chromium_page, scheme):
    path = pictures.save(chart(HOSTILE), tmp_path / "chart.html")
    page = chromium_page(scheme)
    page.goto(path.as_uri())
    page.wait_for_selector(".chart canvas, .chart svg")
    assert page.title() == "chart"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(22, 24, 27)" if scheme == "dark" else "rgb(255, 255, 255)")
