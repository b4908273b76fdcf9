"""Activations of a corpus on disk: collect them, and look after them."""

import json
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table

if TYPE_CHECKING:
    from interp.store.planned import PlannedStore
    from interp.store.preparing import Ready
    from interp.store.status import Status
    from interp.store.writer import Tally

INCOMPLETE = 5
"""Exit code of a store that is sound, but not complete."""
DAMAGED = 4
"""Exit code of a store that holds a damaged file."""
INTERRUPTED = 130
"""Exit code after Ctrl-C, as of a shell."""
SAMPLE_TOKENS = 100_000
"""Read of the embedded model's own language where no texts are given."""
MAX_REASONS = 10
"""Reasons of failures that are printed."""

app = typer.Typer(help=__doc__, no_args_is_help=True)

StoreFolder = Annotated[str, typer.Argument(metavar="STORE", help="Folder or URL of the store.")]
ModelName = Annotated[str | None, typer.Option(help="Name, folder or checkpoint; default: tiny.")]


Texts = Annotated[
    list[Path] | None,
    typer.Option(
        help="Text, JSONL or Parquet files (also .gz, .zst), folders of them, or a Hugging Face "
        "dataset folder. None: go on with what is planned; in a new store, a sample of the "
        "embedded model's own language."
    ),
]
MoreTexts = Annotated[list[Path] | None, typer.Argument(metavar="[FILE]...", hidden=True)]
Hooks = Annotated[str, typer.Option(help="Names, separated by commas; * stands for anything.")]
Dtype = Annotated[Literal["auto", "fp16", "bf16", "fp32"], typer.Option(help="Stored as.")]
Context = Annotated[int | None, typer.Option(help="Longest sequence in tokens [256].")]
Packing = Annotated[
    Literal["documents", "packed"] | None,
    typer.Option(help="Each document by itself, or joined and cut [documents]."),
]
Bos = Annotated[bool | None, typer.Option(help="Begin with the end-of-text token [yes].")]
Positions = Annotated[
    str | None, typer.Option(help="Rows to store: all, last, or numbers as in 0,1,-1 [all].")
]
Subsample = Annotated[
    str | None, typer.Option(help="Rows to store: 0.1 of them, documents:0.1, per-token:100 [all].")
]
Seed = Annotated[int | None, typer.Option(help="Of the subsample [0].")]
MaxTokens = Annotated[int | None, typer.Option(help="Read no more of the texts [all].")]
UnitTokens = Annotated[int | None, typer.Option(help="Committed as one [for files of 128 MiB].")]
BatchTokens = Annotated[int | None, typer.Option(help="Of a forward pass [4096].")]
ColumnName = Annotated[str, typer.Option(help="Of JSONL, Parquet and datasets.")]
TextDocument = Annotated[Literal["line", "file"], typer.Option(help="A document of a text file.")]
Runner = Annotated[Literal["local", "slurm", "ray"], typer.Option(help="What runs the workers.")]
Workers = Annotated[int, typer.Option(help="Processes, tasks of an array, or actors.")]
RetryFailed = Annotated[bool, typer.Option(help="Try units again that were given up.")]
DryRun = Annotated[bool, typer.Option(help="Plan, print the costs, and stop.")]


@app.command()
def collect(
    out: Annotated[str, typer.Option(metavar="STORE", help="Folder or URL of the store.")],
    model: ModelName = None,
    texts: Texts = None,
    more: MoreTexts = None,
    hooks: Hooks = "blocks.*.hook_resid_post",
    dtype: Dtype = "auto",
    ctx: Context = None,
    packing: Packing = None,
    prepend_bos: Bos = None,
    positions: Positions = None,
    subsample: Subsample = None,
    seed: Seed = None,
    max_tokens: MaxTokens = None,
    unit_tokens: UnitTokens = None,
    batch_tokens: BatchTokens = None,
    column: ColumnName = "text",
    document: TextDocument = "line",
    runner: Runner = "local",
    workers: Workers = 1,
    retry_failed: RetryFailed = False,
    dry_run: DryRun = False,
) -> None:
    """Collect activations; the same command goes on where the last one stopped."""
    from interp.store.collecting import collect as collect_activations

    files = [*(texts or []), *(more or [])]
    sample = not files and not is_planned(out)
    settings = {"ctx": ctx, "packing": packing, "prepend_bos": prepend_bos, "positions": positions}
    settings |= {"subsample": subsample, "seed": seed}
    settings |= {"unit_tokens": unit_tokens, "batch_tokens": batch_tokens}
    settings |= {"max_tokens": max_tokens or (SAMPLE_TOKENS if sample else None)}
    with Bars() as bars, told_how_to_go_on(out):
        status = collect_activations(
            model,
            own_language() if sample else files or None,
            path=out,
            hooks=hooks.split(","),
            dtype=dtype,
            column=column,
            document=document,
            runner=runner,
            workers=workers,
            retry_failed=retry_failed,
            approve=partial(show_costs, bars=bars, dry_run=dry_run),
            watch_texts=bars.show_texts,
            watch=bars.show_tally,
            **settings,
        )
    if runner == "slurm":
        console.print(f"Submit it: sbatch {shlex.quote(slurm_script(out))}", soft_wrap=True)
        return
    finish(status)


@app.command()
def work(store: StoreFolder, model: ModelName = None, workers: int = 1) -> None:
    """Collect what is planned and missing, beside other workers of the same store."""
    from interp.model.loading import load
    from interp.store.preparing import check_model
    from interp.store.status import status
    from interp.store.workers import run_processes

    planned, loaded = read_planned(store), load(model)
    check_model(planned, loaded)
    with Bars() as bars, told_how_to_go_on(store):
        bars.begin_units(status(planned))
        run_processes(planned, loaded, workers, bars.show_tally, patient=False)
    finish(status(planned))


@app.command("status")
def show_status(
    store: StoreFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for a script.")] = False,
) -> None:
    """How far a store is; exit code 0 if it is complete, 5 if not."""
    from interp.store.status import status

    found = status(read_planned(store))
    if as_json:
        content = asdict(found) | {"is_complete": found.is_complete, "n_missing": found.n_missing}
        content["failed"] = {f"{unit}+{group}": why for (unit, group), why in found.failed.items()}
        typer.echo(json.dumps(content))
        raise typer.Exit(0 if found.is_complete else INCOMPLETE)
    finish(found)


@app.command()
def verify(
    store: StoreFolder,
    full: Annotated[bool, typer.Option(help="Read every byte and compare checksums.")] = False,
) -> None:
    """Check what is committed; exit code 0 if it is sound, 4 if a file is damaged."""
    from interp.store.upkeep import verify as problems_of

    planned = read_planned(store)
    with Progress(console=progress_console, transient=True) as progress:
        task = progress.add_task("Checking units")
        problems = problems_of(
            planned,
            full=full,
            watch=lambda done, total: progress.update(task, completed=done, total=total),
        )
    for problem in problems:
        console.print(escape(problem), style="red", soft_wrap=True)
    if problems:
        raise typer.Exit(DAMAGED)
    what = "every byte is" if full else "sizes, headers, tokens and records are"
    console.print(f"Sound: {what} as written.")


@app.command()
def info(store: StoreFolder) -> None:
    """What a store holds: settings, hooks and their statistics."""
    from interp.store.reader import open as open_store

    opened = open_store(store)
    settings = Table("setting", "value")
    for name, value in asdict(opened.spec).items():
        settings.add_row(name, escape(str(value)))
    console.print(settings)
    hooks = Table(
        Column("hook", no_wrap=True),
        "rows",
        "shape of a row",
        "type",
        "bytes",
        "mean norm",
        "largest value",
    )
    for name in opened.hooks:
        view = opened.view(name)
        found = view.statistics()
        kind = str(view.dtype).removeprefix("torch.")
        n_bytes = decimal(len(view) * prod(view.feature) * view.dtype.itemsize)
        shape = " x ".join(map(str, view.feature))
        numbers = (f"{found.norm_mean:.4g}", f"{found.absmax:.4g}")
        hooks.add_row(escape(name), f"{len(view):,}", shape, kind, n_bytes, *numbers)
    console.print(hooks)


@app.command()
def gc(
    store: StoreFolder,
    delete: Annotated[bool, typer.Option(help="Remove them; else they are only listed.")] = False,
    hours: Annotated[float, typer.Option(help="Only what is older.", min=0)] = 24.0,
) -> None:
    """Files that stopped attempts left behind: list them, or remove them."""
    from interp.store.upkeep import garbage, remove

    planned = read_planned(store)
    found = garbage(planned, grace_seconds=hours * 3600)
    for file in found:
        console.print(f"{escape(file.path)}  {decimal(file.n_bytes)}", soft_wrap=True)
    total = decimal(sum(file.n_bytes for file in found))
    if delete:
        remove(planned, found)
    console.print(
        f"{len(found)} files, {total}{': removed' if delete else ' (--delete removes them)'}."
    )


console = Console()
progress_console = Console(stderr=True)


def read_planned(path: str) -> "PlannedStore":
    """The plan of a store, or an error that says there is none."""
    from interp.store.files import store_files
    from interp.store.planned import PlannedStore

    return PlannedStore.read(store_files(path))


def is_planned(path: str) -> bool:
    """Whether there is a store."""
    from interp.store.files import store_files
    from interp.store.spec import read_store

    return read_store(store_files(path)) is not None


def slurm_script(path: str) -> str:
    """The script that was just written."""
    from interp.store.slurm_runner import script_path

    return str(script_path(read_planned(path), Path.cwd()))


def own_language() -> Iterator[str]:
    """Documents of the embedded model's language, without end."""
    from interp.tiny.language import training_documents

    return (document.text for document in training_documents("activation store"))


def show_costs(ready: "Ready", *, bars: "Bars", dry_run: bool) -> None:
    """Print what is about to be done."""
    from interp.store.status import status

    costs = ready.costs
    table = Table(show_header=False)
    table.add_row("texts", f"{costs.n_documents:,} documents, {costs.n_tokens:,} tokens")
    table.add_row(
        "stored", f"{costs.n_rows:,} rows of {len(costs.hooks)} hooks, {costs.n_units} units"
    )
    for kind in sorted({hook.dtype for hook in costs.hooks}):
        names = [hook.name for hook in costs.hooks if hook.dtype == kind]
        table.add_row(kind, escape(", ".join(names)))
    table.add_row("disk", f"{costs.n_bytes:,} bytes, {costs.n_bytes_left:,} of them to be written")
    if costs.free_bytes is not None:
        table.add_row("free", f"{costs.free_bytes:,} bytes")
    model, disk = (
        str(timedelta(seconds=round(x))) for x in (costs.seconds_of_model, costs.seconds_of_disk)
    )
    table.add_row("time", f"about {model} for the model on one worker, {disk} for the disk")
    console.print(table)
    if costs.large_hooks:
        console.print(
            f"[yellow]More than 64 KiB a token: {escape(', '.join(costs.large_hooks[:3]))}. "
            "Patterns follow from hook_q and hook_k, which are far smaller.[/]"
        )
    if dry_run:
        raise typer.Exit
    bars.begin_units(status(ready.store))


@contextmanager
def told_how_to_go_on(path: str) -> Iterator[None]:
    """After Ctrl-C, say what is safe and how to go on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        console.print("Stopped. What is committed is safe; the same command goes on from there.")
        if is_planned(path):
            console.print(f"How far it is: interp cache status {shlex.quote(path)}")
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGINT, before)


def finish(status: "Status") -> None:
    """Print how far a store is; leave with its exit code."""
    console.print(
        f"{status.n_committed} of {status.n_planned} units committed, "
        f"{status.n_under_way} under way, {status.n_missing} missing, "
        f"{len(status.failed)} given up.",
        highlight=False,
    )
    for (unit, group), reasons in list(status.failed.items())[:MAX_REASONS]:
        console.print(
            f"unit {unit} of group {group}: {escape('; '.join(reasons))}",
            style="red",
            soft_wrap=True,
        )
    if status.failed:
        console.print("When the cause is mended: collect with --retry-failed.")
    if not status.is_complete:
        raise typer.Exit(INCOMPLETE)


class Bars:
    """Progress of reading texts, then of collecting, with the rate and who waits for whom."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"))
        self.progress = Progress(
            *columns, TimeRemainingColumn(), console=progress_console, transient=True
        )
        self.task = self.progress.add_task("Reading texts", total=None, rate="")
        self.n_before = 0

    def __enter__(self) -> "Bars":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show_texts(self, n_documents: int, n_tokens: int) -> None:
        """While the corpus is tokenized."""
        self.progress.update(self.task, rate=f"{n_documents:,} documents, {n_tokens:,} tokens")

    def begin_units(self, status: "Status") -> None:
        """When the model begins to run."""
        self.progress.remove_task(self.task)
        self.n_before = status.n_tokens_committed
        self.started = time.monotonic()
        self.task = self.progress.add_task(
            "Collecting", total=status.n_tokens, completed=self.n_before, rate=""
        )

    def show_tally(self, tally: "Tally") -> None:
        """After every batch."""
        seconds = time.monotonic() - self.started
        model, disk = tally.seconds_of_model, tally.seconds_waiting_for_disk
        self.progress.update(
            self.task,
            completed=self.n_before + tally.n_tokens,
            rate=f"{tally.n_tokens / max(seconds, 1e-9):,.0f} tokens/s, "
            f"model {model:.0f} s, waits for disk {disk:.0f} s",
        )
