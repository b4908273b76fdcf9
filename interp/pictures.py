"""Charts to files: PNG, SVG and HTML, without a browser and without a network."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import altair as alt
import jinja2
import vl_convert

from interp.errors import InterpError

Theme = Literal["light", "dark"]
"""Colours of background and text."""

LOOKS: dict[Theme, dict[str, Any]] = {
    # Cutting a long label can halve a character beyond 16 bits, which the renderer refuses.
    "light": {"background": "#ffffff", "view": {"stroke": None}, "axis": {"labelLimit": 0}},
    "dark": {
        "background": "#16181b",
        "view": {"stroke": None},
        "axis": {"labelLimit": 0, "gridColor": "#3a3f46"},
    },
}
"""Vega-Lite settings for both, with the backgrounds of the report's page."""


def save(
    chart: alt.TopLevelMixin, path: str | Path, *, scale: float = 2.0, theme: Theme = "light"
) -> Path:
    """Write a chart as .png, .svg or .html, whichever the name ends in; return the path.

    The HTML page needs nothing beside it, has tooltips, and follows its reader's colour scheme.

    Args:
        scale: Pixels of a PNG for each pixel of the chart.
        theme: For PNG and SVG.

    Raises:
        InterpError: the name ends otherwise, or its folder does not exist.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg", ".html"):
        raise InterpError(f"A chart is saved as .png, .svg or .html, not as {path.name!r}.")
    if not path.parent.is_dir():
        raise InterpError(
            f"There is no folder {path.parent} to save {path.name} in; make it first."
        )
    if path.suffix == ".png":
        content = png(chart, scale=scale, theme=theme)
    elif path.suffix == ".svg":
        content = svg(chart, theme=theme)
    else:
        page = environment().get_template("chart.html.jinja")
        content = page.render(title=path.stem, spec=chart.to_dict())
    write_whole(path, content)
    return path


def png(chart: alt.TopLevelMixin, *, scale: float = 2.0, theme: Theme = "light") -> bytes:
    """A chart as the content of a PNG file, `scale` pixels for each of the chart's."""
    return vl_convert.vegalite_to_png(
        chart.to_dict(), scale=scale, allowed_base_urls=[], **_look(theme)
    )


def svg(chart: alt.TopLevelMixin, *, theme: Theme = "light") -> str:
    """A chart as the content of an SVG file."""
    return vl_convert.vegalite_to_svg(chart.to_dict(), allowed_base_urls=[], **_look(theme))


def _look(theme: Theme) -> dict[str, Any]:
    return {"theme": "dark" if theme == "dark" else None, "config": LOOKS[theme]}


def environment() -> jinja2.Environment:
    """The templates of this package; `vega` is the script that draws charts."""
    loaded = jinja2.Environment(
        loader=jinja2.PackageLoader("interp"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    loaded.globals |= {"vega": _vega_bundle(), "looks": LOOKS}
    return loaded


@cache
def _vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, so that a page needs no network."""
    return vl_convert.javascript_bundle()  # pyright: ignore[reportCallIssue]


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that appears whole or not at all; text as UTF-8."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(path)
