"""`python -m benchmarks [GROUP ...]`: print the table, and write it as Markdown."""

import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import dashboard, engine, reading, store, sweeps
from benchmarks import rows as models
from benchmarks.rows import Row

GROUPS = models.GROUPS | sweeps.GROUPS | engine.GROUPS | store.GROUPS | reading.GROUPS
GROUPS |= dashboard.GROUPS


def main(
    groups: Annotated[list[str] | None, typer.Argument(help="Which; default: all.")] = None,
    repeats: Annotated[int, typer.Option(help="Timings of each candidate.")] = 5,
    out: Annotated[Path, typer.Option(help="Markdown file.")] = Path("reports/benchmarks.md"),
) -> None:
    """Time and memory side by side with transformers, TransformerLens and nnsight."""
    unknown = set(groups or ()) - GROUPS.keys()
    if unknown:
        raise typer.BadParameter(f"no {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    rows: list[Row] = []
    for group in track(groups or list(GROUPS), "Measuring"):
        rows += GROUPS[group](repeats)
    headings = ("what", "unit", "measured (medians)", "ratio", "goal", "against", "reached", "note")
    cells = [_cells(row) for row in rows]
    table = Table()
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in cells:
        table.add_row(*row)
    Console().print(table)
    lines = [headings, tuple("---" for _ in headings), *cells]
    markdown = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(f"{_machine()}\n\n{markdown}\n", encoding="utf-8")
    Console().print(f"Written to {out}")


def _cells(row: Row) -> tuple[str, ...]:
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in row.numbers.items())
    reached = "yes" if row.reached else "no"
    return (
        row.what,
        row.unit,
        numbers,
        f"{row.ratio:.3g}",
        f"{row.goal:.3g}",
        row.against,
        reached,
        row.note,
    )


def _machine() -> str:
    processor = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {processor}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, GPT-2 small's shape with random weights, float32."
    )


if __name__ == "__main__":
    typer.run(main)
