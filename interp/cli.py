"""The command line: each command parses, calls one function and prints.

Nothing heavy is imported before a command needs it, so that `interp --help` answers at once.
"""

import ast
import importlib
import inspect
import pkgutil
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import track
from rich.table import Table

import analyses
from interp import cache_commands
from interp.errors import InterpError
from interp.progress import StoppableProgress

if TYPE_CHECKING:
    import pandas as pd

    from interp.report import Report, Section

MAX_ROWS = 40
"""Rows of a table shown in the terminal; the CSV has them all."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell."""

app = typer.Typer(
    help="A microscope for GPT-2: look at heads, and test whether what they do matters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cache_commands.app, name="cache")


def main() -> None:
    """Entry point: errors that the user can mend are one message, not a traceback."""
    try:
        app()
    except InterpError as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)


def questions() -> dict[str, str]:
    """Each analysis and the question it asks, read without importing it."""
    folder = Path(next(iter(analyses.__path__)))
    return {
        name: (
            ast.get_docstring(ast.parse((folder / f"{name}.py").read_text())) or ""
        ).splitlines()[0]
        for _, name, _ in pkgutil.iter_modules(analyses.__path__)
        if not name.startswith("_")
    }


@app.command(
    "run",
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "help_option_names": [],
    },
)
def run_analysis(ctx: typer.Context, name: Annotated[str, typer.Argument()] = "") -> None:
    """Run a study; `interp run` lists them, `interp run NAME --help` shows one's options."""
    known = questions()
    if name in ("", "--help"):
        table = Table("interp run ...", "question")
        for known_name, question in known.items():
            table.add_row(known_name, escape(question))
        Console().print(table)
        return
    if name not in known:
        raise InterpError(f"There is no study {name!r}. There are: {', '.join(known)}.")
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    run = importlib.import_module(f"analyses.{name}").run
    single.command()(analysis_command(name, run))
    single(args=ctx.args, prog_name=f"interp run {name}")


def analysis_command(name: str, run: Callable[..., "Report"]) -> Callable[..., None]:
    """A command with the options of an analysis' `run`, which shows and writes its report."""

    def command(out: Path, pictures: bool, **options: Any) -> None:
        if not stoppable:
            present(run(**options, progress=progress), out, picture_files=pictures)
            return
        with Interruptible() as bars:
            report = run(**options, progress=bars)
        present(report, out, picture_files=pictures)
        if bars.stopped:
            raise typer.Exit(INTERRUPTED)

    signature = inspect.signature(run)
    stoppable = signature.parameters["progress"].annotation == StoppableProgress
    parameters = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in signature.parameters.values()
        if parameter.name != "progress"
    ]
    where = Annotated[Path, typer.Option(help="Folder for the report, tables and run.json.")]
    files = Annotated[bool, typer.Option("--pictures", help="Also write PNG and SVG files.")]
    parameters += [
        inspect.Parameter(
            "out", inspect.Parameter.KEYWORD_ONLY, default=Path("reports", name), annotation=where
        ),
        inspect.Parameter(
            "pictures", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=files
        ),
    ]
    command.__doc__ = inspect.getdoc(run)
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("reports/demo"),
) -> None:
    """Does “cat” attend to “black” in the embedded model, and does it matter?"""
    from analyses.black_cat import run

    present(run(progress=progress), out)


@app.command()
def dashboard(
    model: Annotated[str, typer.Option(help="What `interp.load` takes.")] = "tiny",
    port: Annotated[int, typer.Option(help="Or the next free one.")] = 8501,
    store: Annotated[
        Path | None, typer.Option(help="Folder under which activation stores are kept.")
    ] = None,
) -> None:
    """Look at heads and ask causal questions in the browser, without writing code."""
    from dashboards.launch import launch

    def said(url: str) -> None:
        Console().print(f"The dashboard is at [bold]{url}[/] (Ctrl-C ends it)")

    launch(model, port=port, store=store, said=said)


@app.command()
def models() -> None:
    """What can be loaded, and what is already on this machine."""
    from interp.model.loading import available_models

    table = Table("name", "parameters", "on this machine", "how to load")
    for row in available_models():
        table.add_row(row.name, row.parameters, "yes" if row.present else "no", row.how)
    Console().print(table)


@app.command()
def doctor() -> None:
    """Check this machine: versions, memory, where models are looked for, network, browser."""
    from interp.doctor import diagnose

    table = Table("", "what", "found", "what to do")
    for check in diagnose():
        mark = "[green]✓[/]" if check.ok else "[yellow]![/]"
        table.add_row(mark, escape(check.name), escape(check.value), escape(check.advice))
    Console().print(table)


def progress(steps: Sequence[Any], description: str) -> Iterable[Any]:
    """A progress bar that goes away when it is done."""
    return track(steps, description=description, transient=True)


class Interruptible:
    """Progress bars that Ctrl-C stops after the step under way; again, and it ends the program."""

    def __init__(self) -> None:
        self.stopped = False

    def __enter__(self) -> "Interruptible":
        self.before = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def __call__(self, steps: Sequence[Any], description: str) -> Iterable[Any]:
        """Give out steps until Ctrl-C."""
        for step in progress(steps, description):
            if self.stopped:
                return
            yield step

    def _stop(self, *_: object) -> None:
        self.stopped = True
        signal.signal(signal.SIGINT, self.before)
        Console(stderr=True).print("Stopping after this step; Ctrl-C again ends it at once.")


def present(report: "Report", out: Path, *, picture_files: bool = False) -> None:
    """Print a report and write it."""
    console = Console()
    console.print(Panel(escape(report.question), title=escape(report.title), expand=False))
    for section in report.sections:
        _print_section(console, section)
    try:
        command = shlex.join(["interp", *sys.argv[1:]])
        page = report.write(out, command=command, picture_files=picture_files)
    except OSError as error:
        raise InterpError(f"The report cannot be written to {out}: {error}. Use --out.") from error
    console.print(
        f"\nReport with pictures: [bold]{escape(str(page))}[/] (tables and run.json beside it)"
    )


def _print_section(console: Console, section: "Section") -> None:
    console.rule(f"[bold]{escape(section.title)}")
    if section.table is not None:
        console.print(_rich_table(section.table, section.n_shown or MAX_ROWS))
    for paragraph in section.reading:
        console.print(
            escape(paragraph), style="dim" if section.table is None else "", highlight=False
        )


def _rich_table(frame: "pd.DataFrame", n_rows: int) -> Table:
    from interp.report import format_cell

    table = Table(*map(str, frame.columns), header_style="bold")
    for row in frame.head(n_rows).itertuples(index=False):
        table.add_row(*(escape(format_cell(cell)) for cell in row))
    if len(frame) > n_rows:
        table.caption = f"{n_rows} of {len(frame)} rows; all are in the CSV"
    return table
