"""A study as something to read and to trace: one HTML file that works offline, CSV, run.json."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from interp import pictures

PACKAGES = ("interp", "torch", "transformers", "transformer-lens", "numpy", "pandas", "xarray")
"""Packages whose versions a run records."""


@dataclass(frozen=True)
class Section:
    """One step of a study: a heading, what the numbers say in plain words, and the numbers."""

    title: str
    reading: tuple[str, ...]
    """Paragraphs composed from the numbers."""
    table: pd.DataFrame | None = None
    charts: tuple[alt.Chart | alt.LayerChart, ...] = ()
    n_shown: int | None = None
    """Rows of the table to show, if not all; the CSV has every row."""

    @property
    def shown(self) -> pd.DataFrame | None:
        """The rows of the table to show."""
        return self.table if self.table is None else self.table[: self.n_shown]

    @property
    def slug(self) -> str:
        """The title as a file name."""
        return re.sub(r"[^a-z0-9]+", "_", self.title.lower()).strip("_")


@dataclass(frozen=True)
class Report:
    """A study's question, its steps, and everything needed to repeat it."""

    title: str
    question: str
    sections: tuple[Section, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments, seed, model name and model hash."""

    def write(self, folder: Path, *, command: str, picture_files: bool = False) -> Path:
        """Write `report.html`, one CSV per table and `run.json`; return the HTML's path.

        Args:
            command: The command line or call that made the study.
            picture_files: Also write each chart as PNG and SVG.

        Each file appears whole or not at all.
        """
        run = self._run_record(command)
        contents: dict[str, str | bytes] = {
            "report.html": self._html(run),
            "run.json": json.dumps(run, indent=2, ensure_ascii=False) + "\n",
        }
        for section in self.sections:
            if section.table is not None:
                contents[f"{section.slug}.csv"] = section.table.to_csv(index=False)
            for number, chart in enumerate(section.charts if picture_files else (), start=1):
                contents[f"{section.slug}_{number}.png"] = pictures.png(chart)
                contents[f"{section.slug}_{number}.svg"] = pictures.svg(chart)
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            pictures.write_whole(folder / name, content)
        return folder / "report.html"

    def html(self, *, command: str) -> str:
        """The report as one page that works offline.

        Args:
            command: The command line or call that made the study.
        """
        return self._html(self._run_record(command))

    def _run_record(self, command: str) -> dict[str, Any]:
        return {
            "title": self.title,
            "command": command,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": dict(self.settings),
            "versions": {package: version(package) for package in PACKAGES},
        }

    def _html(self, run: Mapping[str, Any]) -> str:
        templates = pictures.environment()
        templates.filters["number"] = format_cell
        page = templates.get_template("report.html.jinja")
        specs = [[chart.to_dict() for chart in section.charts] for section in self.sections]
        return page.render(report=self, specs=specs, run=run)


def format_cell(value: object) -> str:
    """A table cell for reading: four significant digits for numbers, text as it is."""
    if isinstance(value, float):
        return "–" if value != value else f"{value:.4g}"
    return str(value)
