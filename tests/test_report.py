import json

import altair as alt
import pandas as pd
import pytest

from interp import charts
from interp.report import Report, Section, format_cell

HOSTILE = "</script><script>document.title='taken'</script> <b onclick=alert(1)>&amp; 😀"


def make_report(table: pd.DataFrame | None = None, title: str = "A title") -> Report:
    table = (
        pd.DataFrame({"token": ["a", HOSTILE], "weight": [0.25, 1 / 3]}) if table is None else table
    )
    picture = charts.attention_row(list(table["weight"]), list(table["token"]), HOSTILE)
    section = Section("Which heads, and why?", (f"Read {HOSTILE}",), table, (picture,))
    return Report(title, HOSTILE, (section,), {"seed": 3, "text": HOSTILE})


def test_numbers_are_written_in_full_as_csv(tmp_path):
    make_report().write(tmp_path, command="interp run x")
    table = pd.read_csv(tmp_path / "which_heads_and_why.csv")
    assert table["weight"].to_list() == [0.25, 1 / 3]
    assert table["token"].to_list() == ["a", HOSTILE]


def test_a_long_table_shows_its_first_rows_and_the_csv_has_them_all(tmp_path):
    table = pd.DataFrame({"row": [f"row {i}" for i in range(30)]})
    Report("t", "q", (Section("Rows", (), table, n_shown=4),)).write(tmp_path, command="x")
    page = (tmp_path / "report.html").read_text()
    assert "row 3<" in page
    assert "row 4<" not in page
    assert "4 of 30 rows; all are in rows.csv" in page
    assert len(pd.read_csv(tmp_path / "rows.csv")) == 30
    Report("t", "q", (Section("Rows", (), table),)).write(tmp_path, command="x")
    page = (tmp_path / "report.html").read_text()
    assert "row 29<" in page
    assert "all are in" not in page


def test_a_long_text_in_a_table_wraps_and_a_token_keeps_its_spaces(tmp_path):
    table = pd.DataFrame({"text": ["a word " * 10, " black"], "number": [1.0, 2.0]})
    Report("t", "q", (Section("Texts", (), table),)).write(tmp_path, command="x")
    page = (tmp_path / "report.html").read_text()
    assert '<td class="text long">a word a word' in page
    assert '<td class="text"> black</td>' in page


def test_each_chart_is_a_file_only_on_request(tmp_path):
    make_report().write(tmp_path, command="x")
    assert not list(tmp_path.glob("*.png"))
    make_report().write(tmp_path, command="x", picture_files=True)
    assert (tmp_path / "which_heads_and_why_1.png").read_bytes().startswith(b"\x89PNG")
    assert "attention weight" in (tmp_path / "which_heads_and_why_1.svg").read_text()


def test_the_run_can_be_traced(tmp_path):
    make_report().write(tmp_path, command="interp run x --seed 3")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["command"] == "interp run x --seed 3"
    assert run["settings"] == {"seed": 3, "text": HOSTILE}
    assert {"interp", "torch", "transformers"} <= run["versions"].keys()


def test_the_page_holds_everything_and_escapes_every_text(tmp_path):
    page = make_report().write(tmp_path, command="x").read_text()
    assert HOSTILE not in page
    assert 'src="http' not in page
    assert "<link" not in page
    assert "0.3333" in page


def test_a_failed_write_leaves_the_earlier_report(tmp_path):
    make_report(title="first").write(tmp_path, command="first")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    without_data = alt.Chart().mark_bar().encode(x="a field of no known type")
    broken = Report("second", "q", (Section("s", (), None, (without_data,)),))
    with pytest.raises(ValueError, match="without a type"):
        broken.write(tmp_path, command="second")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("value", "shown"), [(0.123456, "0.1235"), (float("nan"), "–"), (7, "7"), (1e-9, "1e-09")]
)
def test_cells_are_readable(value, shown):
    assert format_cell(value) == shown


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_appear_in_a_browser_without_any_network(tmp_path, chromium_page, scheme):
    page_file = make_report().write(tmp_path, command="x")
    page = chromium_page(scheme)
    page.goto(page_file.as_uri())
    page.wait_for_selector(".chart canvas, .chart svg")
    assert page.title() == "A title"
    assert page.locator("[onclick]").count() == 0
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(22, 24, 27)" if scheme == "dark" else "rgb(255, 255, 255)")
