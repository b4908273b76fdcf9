"""Pages of the dashboard without a browser: open one, and hold its figures to what they promise."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.testing import assert_frame_equal
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Block

import dashboards

APP = Path(dashboards.__path__[0]) / "app.py"
SECONDS = 60
"""For one run of a page, on a busy machine."""


def opened(view: str, **query: str) -> AppTest:
    """A page, drawn; `query` is its URL, with `__` for the dot of a page's own options."""
    page = AppTest.from_file(str(APP), default_timeout=SECONDS)
    for name, value in query.items():
        page.query_params[name.replace("__", ".")] = value
    page.run()
    if view != "start":
        page.switch_page(f"views/{view}.py").run()
    assert problems(page) == []
    return page


def problems(page: AppTest) -> list[str]:
    """Everything that a page shows as an error."""
    return [error.value for error in (*page.error, *page.exception)]


def texts(page: AppTest) -> str:
    """All prose of a page."""
    return "\n".join(element.value for element in (*page.markdown, *page.caption))


def figures(page: AppTest) -> list[str]:
    """Names of the figures on a page."""
    controls = page.button_group
    return [c.key.removeprefix("side_") for c in controls if str(c.key).startswith("side_")]


def grid(page: AppTest, key: str) -> dict[str, Any]:
    """What a canvas of the page was given; its values as an array."""
    data = json.loads(page.get_by_key(key).proto.json)
    if "values" in data:
        flat = np.frombuffer(base64.b64decode(data["values"]), dtype="<f4")
        data["values"] = flat.reshape(len(data["rows"]), len(data["columns"]))
    return data


def shown(page: AppTest, figure: str) -> Block:
    """The part of a page that holds a figure."""
    return page.get_by_key(f"figure_{figure}")


def side(page: AppTest, figure: str, name: str) -> AppTest:
    """The page with another side of a figure turned up."""
    return page.button_group(key=f"side_{figure}").set_value(name).run()


def check_figures(
    page: AppTest, *, tolerance: float = 1e-5, only: Sequence[str] | None = None
) -> list[str]:
    """Run every figure's Python and compare with its table; return the names of the figures.

    Args:
        only: Check these alone.
    """
    names = [name for name in figures(page) if only is None or name in only]
    for name in names:
        table = shown(side(page, name, "Table"), name).dataframe[0].value
        code = shown(side(page, name, "Python"), name).code[0].value
        variables: dict[str, object] = {}
        exec(compile(code, f"<{name}>", "exec"), variables)
        made = variables["table"]
        assert isinstance(made, pd.DataFrame), name
        assert_frame_equal(
            made.reset_index(drop=True), table.reset_index(drop=True),
            check_dtype=False, rtol=tolerance, atol=tolerance,
        )  # fmt: skip
        side(page, name, "Picture")
    return names
