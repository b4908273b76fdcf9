"""Collect activations over a corpus: prepare, show the costs, run what is missing.

Running the same command again goes on where the last one stopped, and more hooks can be collected
over the same tokens at any time, without the corpus.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, Unpack

from interp.errors import StoreError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import NamesFilter
from interp.model.loading import load
from interp.store.attempts import forget_failures
from interp.store.durable import disk_errors
from interp.store.files import store_files
from interp.store.plan import WatchTexts
from interp.store.planned import PlannedStore
from interp.store.preflight import Preflight
from interp.store.preparing import DtypeChoice, Ready, Settings, prepare
from interp.store.slurm_runner import write_script
from interp.store.status import Status, status
from interp.store.texts import open_texts
from interp.store.workers import pull, run_processes
from interp.store.writer import Watch, no_watch, run_units

Runner = Literal["local", "slurm", "ray"]
RESIDUAL_STREAM = "blocks.*.hook_resid_post"

Texts = str | Path | Sequence[Path] | Iterable[str]
"""Files, folders of files, or documents; see `open_texts`."""


def collect(
    model: HookedGPT2 | str | Path | None,
    texts: Texts | None = None,
    *,
    path: str | Path,
    hooks: NamesFilter = RESIDUAL_STREAM,
    dtype: DtypeChoice = "auto",
    column: str = "text",
    document: Literal["line", "file"] = "line",
    runner: Runner = "local",
    workers: int = 1,
    retry_failed: bool = False,
    approve: Callable[[Ready], object] | None = None,
    watch_texts: WatchTexts | None = None,
    watch: Watch = no_watch,
    **settings: Unpack[Settings],
) -> Status:
    """Put activations of a corpus on disk; go on with it if it was begun.

    Args:
        model: A loaded model, or what `interp.load` takes.
        texts: Files or folders, as `open_texts` takes, or any iterable of texts, which is read
            once. None: go on with what is planned.
        path: Folder of the store, or its URL in object storage.
        hooks: Names with `*`, or a list. Those that the store does not have are added to it.
        dtype: `auto` takes float16 where it holds eight times the largest value of a warm-up, else
            bfloat16.
        column: Of JSONL, Parquet and datasets.
        document: Whether a line of a text file is a document, or all of it.
        runner: `local` processes, a `ray` cluster, or `slurm`, which only writes the script.
        workers: Processes, actors or tasks of an array; one local worker is this process.
        retry_failed: Try units again that were given up.
        approve: Told what is about to be done, before it is; what it raises ends the call.
        watch_texts: Told how many documents and tokens have been read, while planning.
        watch: Told how far the run is, after every batch.
        settings: How texts become rows; see `Settings`.

    Returns:
        What the commit records say; `is_complete` is False where units were given up.

    Raises:
        StoreError: the folder holds another store (names what differs); texts cannot be read.
        ResourceError: the disk is too small, full or broken.
    """
    source = None if isinstance(model, HookedGPT2) else str(model or "tiny")
    model = model if isinstance(model, HookedGPT2) else load(model)
    files = store_files(path)
    documents = None if texts is None else open_texts(texts, column=column, document=document)
    if retry_failed:
        forget_failures(files)
    ready = prepare(model, documents, files, hooks, dtype, settings, watch_texts)
    if approve:
        approve(ready)
    run(ready.store, model, source, runner=runner, workers=workers, watch=watch)
    return status(ready.store)


def estimate(
    model: HookedGPT2,
    texts: Texts,
    *,
    root: Path,
    hooks: NamesFilter = RESIDUAL_STREAM,
    dtype: DtypeChoice = "auto",
    watch_texts: WatchTexts | None = None,
    **settings: Unpack[Settings],
) -> Preflight:
    """What `collect` would take for a new store in a folder, to the last byte; nothing is kept.

    The tokens are written for the time of the call, and the model runs a few batches.

    Args:
        root: On the disk that the store is for.
        texts, hooks, dtype, watch_texts, settings: As of `collect`.

    Raises:
        StoreError, ResourceError: what `collect` would refuse.
    """
    with disk_errors(root), TemporaryDirectory(prefix=".estimate-", dir=root) as place:
        files = store_files(place)
        return prepare(model, open_texts(texts), files, hooks, dtype, settings, watch_texts).costs


def run(
    store: PlannedStore,
    model: HookedGPT2,
    source: str | None,
    *,
    runner: Runner,
    workers: int,
    watch: Watch = no_watch,
) -> None:
    """Collect what is planned and missing.

    Args:
        source: What `interp.load` takes to get this model; the tasks of an array load it.
    """
    if workers < 1:
        raise StoreError(f"workers is {workers}; at least 1 is needed.")
    if runner == "slurm":
        if source is None:
            raise StoreError("For slurm give the model by name or folder: each task loads it.")
        write_script(store, source, workers, Path.cwd())
    elif runner == "ray":
        from interp.store import ray_runner  # an extra

        ray_runner.run(store, model, workers, watch)
    elif workers > 1:
        run_processes(store, model, workers, watch)
    else:
        run_units(pull(store), store, model, watch)
