"""Sweeps of a patching study: what is planned, and what was measured."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
import xarray as xr

from interp import effects, maps
from interp.sites import STREAM_SITES

SIZEABLE = 0.1
"""Effects from this share of the mean gap on are counted."""
Row = Mapping[Hashable, Any]
"""Of a table of cells."""


@dataclass(frozen=True)
class Plan:
    """What one sweep patches."""

    site: str
    direction: str
    per_position: bool
    """Of heads; everything else is patched by position in any case."""

    @property
    def axes(self) -> tuple[str, ...]:
        """What a cell is."""
        if self.site in STREAM_SITES:
            return ("layer", "position")
        return ("layer", "head", "position") if self.per_position else ("layer", "head")

    @property
    def title(self) -> str:
        """As "z by layer and head, denoising"."""
        *first, last = self.axes
        return f"{self.site} by {', '.join(first)} and {last}, {self.direction}"


@dataclass(frozen=True)
class Sweep:
    """A patching dataset with its table."""

    plan: Plan
    ds: xr.Dataset
    seed: int

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The measured cells, largest effect first."""
        return effects.table(self.ds, seed=self.seed)

    @property
    def strongest(self) -> dict[Hashable, Any]:
        """Coordinates of the first cell."""
        axes = self.cells.columns[: len(self.plan.axes)]
        return self.cells[axes].iloc[:1].to_dict("records")[0]

    @cached_property
    def table(self) -> pd.DataFrame:
        """The cells with positions as the map labels them."""
        table = self.cells.copy()
        if "pos" in table:
            labels = dict(zip(self.ds["pos"].values, maps.position_labels(self.ds), strict=True))
            table["pos"] = table["pos"].map(labels)
        return table

    @property
    def first(self) -> Row:
        """The first row of the table."""
        return rows_of(self.table[:1])[0]

    @property
    def says_something(self) -> bool:
        """Whether anything was measured; unpatched cells of a stopped sweep are no news."""
        return len(self.cells) > 0 and (not self.ds.partial or bool(self.cells["effect"].any()))

    @property
    def gap(self) -> float:
        """Mean of clean minus corrupted."""
        return float((self.ds.clean - self.ds.corrupted).mean())

    @property
    def large(self) -> pd.DataFrame:
        """Cells whose effect is a sizeable share of the gap."""
        return self.table[self.table["effect"].abs() >= SIZEABLE * abs(self.gap)]

    @property
    def has_fraction(self) -> bool:
        """Whether effects can be compared with the gap."""
        return "recovered_fraction" in self.table

    @property
    def n_done(self) -> str:
        """As "12 of 80 cells"."""
        done = self.ds.patched.notnull().any("example")
        return f"{int(done.sum())} of {done.size} cells"


def rows_of(table: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Each row with the types of its columns."""
    return table.to_dict("records")
