"""Files of a model on the Hugging Face hub: from its cache, or downloaded into it.

What is in the cache is used without any network call, so a revision that moves (`main`) stays where
it was when it was downloaded. The hub is asked once whether it can be reached before anything is
downloaded, because its library takes 23 seconds to find out that it cannot.
"""

import threading
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import get_session, validate_repo_id

from interp.errors import CheckpointError, OfflineError
from interp.model.checkpoints import INDEX, PICKLED, SINGLE, read_index

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
VOCABULARY_AND_MERGES = ("vocab.json", "merges.txt")
TOKENIZER_CONFIG = "tokenizer_config.json"
PROBE_SECONDS = 3.0


def model_folder(repo: str, revision: str | None = None, *, allow_pickle: bool = False) -> Path:
    """Folder with a model's configuration, weights and tokenizer; downloaded if it is not cached.

    Args:
        repo: `owner/name`.
        revision: Branch, tag or commit; `None` is `main`.
        allow_pickle: Take `pytorch_model.bin` where there is nothing better.

    Raises:
        CheckpointError: no such model, revision or file, or the download failed.
        OfflineError: it is not cached, and the hub cannot be reached or may not be.
    """
    try:
        validate_repo_id(repo)
    except HFValidationError as problem:
        raise CheckpointError(f"{repo!r} is no model of the hub: {problem}") from None
    folder = cached_folder(repo, revision, allow_pickle=allow_pickle)
    if folder is None:
        _require_hub(repo)
        folder = _download(repo, revision, allow_pickle)
    return folder


def cached_folder(
    repo: str, revision: str | None = None, *, allow_pickle: bool = False
) -> Path | None:
    """The folder in the hub's cache, if everything that `load` needs is there."""
    config = try_to_load_from_cache(repo, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    has_weights = (folder / SINGLE).is_file() or (allow_pickle and (folder / PICKLED).is_file())
    if not has_weights and (folder / INDEX).is_file():
        shards = set(read_index(folder / INDEX).values())
        has_weights = all((folder / shard).is_file() for shard in shards)
    has_tokenizer = (folder / TOKENIZER).is_file() or all(
        # Either the file, or a note in the cache that the model has none.
        try_to_load_from_cache(repo, name, revision=revision) is not None
        for name in VOCABULARY_AND_MERGES
    )
    return folder if has_weights and has_tokenizer else None


def _require_hub(repo: str) -> None:
    """Find out quickly whether the hub answers at all."""
    where = f"{repo!r} is not complete in the cache ({constants.HF_HUB_CACHE})"
    remedy = (
        "Load a local folder instead, the embedded model with interp.load(), or run "
        f'interp.load("{repo}") once on a connected machine and copy that cache folder.'
    )
    if constants.HF_HUB_OFFLINE:
        raise OfflineError(f"{where}, and HF_HUB_OFFLINE forbids the network. {remedy}")
    answered = threading.Event()
    problems = []

    def probe() -> None:
        try:
            get_session().head(constants.ENDPOINT, timeout=PROBE_SECONDS)
            answered.set()
        except Exception as problem:  # whatever the HTTP library raises: no answer
            problems.append(f"{type(problem).__name__}: {problem}")

    # In a thread, because looking up a host name knows no time limit.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if not answered.is_set():
        problem = problems[0] if problems else f"no answer in {PROBE_SECONDS:g} seconds"
        raise OfflineError(
            f"{where}, and {constants.ENDPOINT} is not reached ({problem}). {remedy}"
        )


def _download(repo: str, revision: str | None, allow_pickle: bool) -> Path:
    config = _fetch(repo, CONFIG, revision)
    if config is None:
        raise CheckpointError(f"{repo!r} on the hub has no {CONFIG}, so it is no model folder.")
    folder, commit = config.parent, config.parent.name  # all files from one commit
    if _fetch(repo, SINGLE, commit) is None:
        _download_shards(repo, commit, allow_pickle)
    if _fetch(repo, TOKENIZER, commit) is None:
        for name in VOCABULARY_AND_MERGES:
            _fetch(repo, name, commit)
    _fetch(repo, TOKENIZER_CONFIG, commit)
    return folder


def _download_shards(repo: str, commit: str, allow_pickle: bool) -> None:
    index = _fetch(repo, INDEX, commit)
    if index is None:
        if not allow_pickle:
            raise CheckpointError(
                f"{repo!r} on the hub has no {SINGLE}. If it has a {PICKLED} and you trust it, "
                "pass allow_pickle=True."
            )
        if _fetch(repo, PICKLED, commit) is None:
            raise CheckpointError(f"{repo!r} on the hub has neither {SINGLE} nor {PICKLED}.")
        return
    for shard in sorted(set(read_index(index).values())):
        if _fetch(repo, shard, commit) is None:
            raise CheckpointError(f"{repo!r} on the hub has no {shard}, which its {INDEX} names.")


def _fetch(repo: str, name: str, revision: str | None) -> Path | None:
    """One file's place in the cache, or `None` if the model has no such file."""
    at = f"{repo!r} at {constants.ENDPOINT}"
    try:
        return Path(hf_hub_download(repo, name, revision=revision))
    except GatedRepoError:
        raise CheckpointError(
            f"{at} needs permission: ask for it on the model's page, then run `hf auth login`."
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(
            f"{at} does not exist, or is private. Check the spelling; for a private model run "
            "`hf auth login`."
        ) from None
    except RevisionNotFoundError:
        raise CheckpointError(
            f"{at} has no revision {revision or 'main'!r}: no such branch, tag or commit."
        ) from None
    except LocalEntryNotFoundError as problem:
        cause = problem.__cause__ or problem
        raise OfflineError(
            f"{name} of {at} could not be had: {cause} Try again later."
        ) from problem
    except EntryNotFoundError:
        return None
    except Exception as problem:  # HTTP library, disk, or a size that does not agree
        raise CheckpointError(
            f"{name} of {at} could not be downloaded: {type(problem).__name__}: {problem} "
            "Nothing damaged was kept; try again."
        ) from problem
