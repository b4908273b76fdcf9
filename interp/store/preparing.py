"""Before anything is run: plan a store, or check that an existing one is the same.

The corpus is read once, by the plan; from then on the store holds its tokens. New hooks are
announced as a group of their own, over the same tokens.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, TypedDict

from xxhash import xxh3_128_hexdigest

from interp.errors import StoreError
from interp.model.gpt2 import HookedGPT2
from interp.model.hooks import NamesFilter, select_names
from interp.model.tokens import Tokenizer
from interp.model.weights import model_hash
from interp.store.files import StoreFiles
from interp.store.naming import STORE, is_of_an_attempt
from interp.store.plan import Plan, WatchTexts, write_plan, write_vocabulary
from interp.store.planned import PlannedStore
from interp.store.preflight import (
    Preflight,
    automatic_dtype,
    preflight,
    warm_up,
    warm_up_batches,
)
from interp.store.recording import row_layout
from interp.store.sequences import Packing, fingerprint
from interp.store.spec import Group, Spec, StoreRecord, read_store, write_group, write_store

DTYPE_NAMES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
DtypeChoice = Literal["auto", "fp16", "bf16", "fp32"]

SHARD_BYTES = 128 * 2**20
"""Size that the largest hook's file of a unit aims at."""
MAX_UNIT_TOKENS = 2**18
"""Small models have small rows; a unit stays small enough to lose to a kill."""
DEFAULT_CTX = 256
BATCH_TOKENS = 4096


class Settings(TypedDict, total=False):
    """How texts become rows. Left out, or None: as the store has it; in a new one, the default."""

    ctx: int | None
    """Longest sequence, in tokens; default 256, or what the model takes if that is less."""
    packing: Packing | None
    """`documents` (default): each by itself; `packed`: joined and cut into sequences of `ctx`."""
    prepend_bos: bool | None
    """Begin every sequence with the end-of-text token; default as the model's."""
    positions: str | None
    """Which rows are stored: `all` (default), `last`, or numbers as in `0,1,-1`."""
    subsample: str | None
    """`0.1` of the rows, `documents:0.1`, `per-token:100` rows of each token, or all (default)."""
    seed: int | None
    """Of the subsample; default 0."""
    max_tokens: int | None
    """Read no more of the texts than this; default all."""
    unit_tokens: int | None
    """Tokens of a unit, which is computed and committed as one; default so that the files have
    about 128 MiB."""
    batch_tokens: int | None
    """Tokens of a forward pass, padding included; default 4096."""


def filled(settings: Settings, otherwise: Mapping[str, Any]) -> dict[str, Any]:
    """All settings by name, those that are left out taken from elsewhere."""
    unknown = settings.keys() - Settings.__annotations__.keys()
    if unknown:
        known = ", ".join(Settings.__annotations__)
        raise TypeError(f"There is no setting {min(unknown)!r}; there are: {known}.")
    given = {name: value for name, value in settings.items() if value is not None}
    return {name: given.get(name, otherwise[name]) for name in Settings.__annotations__}


@dataclass(frozen=True)
class Ready:
    """A planned store, and what is about to be done to it."""

    store: PlannedStore
    costs: Preflight


def prepare(
    model: HookedGPT2,
    texts: Iterable[str] | None,
    files: StoreFiles,
    hooks: NamesFilter,
    dtype: DtypeChoice,
    settings: Settings,
    watch_texts: WatchTexts | None = None,
) -> Ready:
    """Plan a store, or check that an existing one is the same; announce hooks that are new.

    Raises:
        StoreError: another store is there (names what differs), or there is nothing to read.
        ResourceError: the disk is too small.
    """
    names = storable_hooks(hooks, model)
    record = read_store(files)
    if record is not None:
        _check_same(record, model, texts, settings)
    elif texts is not None:
        _check_empty(files)
        _plan(files, model, texts, names, settings, watch_texts)
    else:
        raise StoreError(f"There is no store at {files} yet, so texts are needed (--texts FILE).")
    seconds_per_token = _announce(PlannedStore.read(files), model, names, dtype)
    store = PlannedStore.read(files)
    costs = preflight(store, seconds_per_token)
    costs.check_space()
    return Ready(store, costs)


def storable_hooks(hooks: NamesFilter, model: HookedGPT2) -> list[str]:
    """The names that a filter asks for.

    Raises:
        StoreError: attention scores, which are minus infinite where masked.
    """
    names = select_names(hooks, model.cfg.n_layers)
    masked = [name for name in names if name.endswith("attn.hook_attn_scores")]
    if masked:
        raise StoreError(
            f"{masked[0]!r} holds minus infinity at masked keys, which is not stored. Store "
            "hook_q and hook_k, from which scores follow, or hook_pattern."
        )
    return names


def _check_empty(files: StoreFiles) -> None:
    """Refuse a folder that holds something else; another process may plan here meanwhile."""
    foreign = [n for n in files.names("") if n != STORE and not is_of_an_attempt(n)]
    if foreign:
        raise StoreError(f"{files} holds other files, such as {foreign[0]!r}. Choose a new folder.")


def _plan(
    files: StoreFiles,
    model: HookedGPT2,
    texts: Iterable[str],
    names: Sequence[str],
    settings: Settings,
    watch: WatchTexts | None,
) -> None:
    """Tokenize the corpus into the store; `store.json`, the last file, makes it one."""
    chosen = filled(settings, _defaults(model, names))
    if not 1 <= chosen["ctx"] <= model.cfg.n_ctx:
        raise StoreError(f"ctx is {chosen['ctx']}; the model takes 1 to {model.cfg.n_ctx} tokens.")
    tokenizer = model.require_tokenizer()
    if len(tokenizer) > model.cfg.d_vocab:
        raise StoreError(
            f"The tokenizer has {len(tokenizer)} tokens, and the model's vocabulary "
            f"{model.cfg.d_vocab}: it belongs to another model."
        )
    options = {name: value for name, value in chosen.items() if name != "batch_tokens"}
    plan = write_plan(files, texts, tokenizer, **options, watch=watch)
    spec = _spec(model, plan.fingerprint, chosen)
    vocabulary = write_vocabulary(files, tokenizer)
    if write_store(files, StoreRecord(spec, plan, vocabulary)):
        return
    # Another process was faster; it has to have planned the same.
    ours = [unit.tokens_path for unit in Plan.read(files, plan).units]
    for path in (*ours, plan.file.path, vocabulary.path):
        files.remove(path)
    record = read_store(files)
    assert record is not None
    _check_spec(record.spec, spec)


def _defaults(model: HookedGPT2, names: Sequence[str]) -> dict[str, Any]:
    ctx = min(DEFAULT_CTX, model.cfg.n_ctx)
    # Patterns have rows without measure, whose files may grow past the target.
    largest = max(row_layout(name, model.cfg, 1, "float16").row_bytes for name in names)
    return {
        "ctx": ctx,
        "packing": "documents",
        "prepend_bos": model.cfg.default_prepend_bos,
        "positions": "all",
        "subsample": "",
        "seed": 0,
        "max_tokens": None,
        "unit_tokens": min(MAX_UNIT_TOKENS, max(ctx, SHARD_BYTES // largest)),
        "batch_tokens": BATCH_TOKENS,
    }


def _spec(model: HookedGPT2, fingerprint: str, chosen: Mapping[str, Any]) -> Spec:
    tokenizer = model.require_tokenizer()
    return Spec(
        model=model.cfg.model_name,
        model_hash=model_hash(model),
        tokenizer_hash=tokenizer_hash(tokenizer),
        texts=fingerprint,
        compute_dtype=str(model.cfg.dtype).removeprefix("torch."),
        versions={name: version(name) for name in ("interp", "torch")},
        **chosen,
    )


def tokenizer_hash(tokenizer: Tokenizer) -> str:
    """32 hexadecimal digits that stand for how a tokenizer cuts texts."""
    return xxh3_128_hexdigest(tokenizer.backend.to_str().encode())


def _check_same(
    record: StoreRecord, model: HookedGPT2, texts: Iterable[str] | None, settings: Settings
) -> None:
    """Refuse to go on with another model, other settings or other texts."""
    wanted = _spec(model, record.spec.texts, filled(settings, vars(record.spec)))
    _check_spec(record.spec, wanted)
    if texts is None:
        return
    n_read = None if record.spec.max_tokens is None else record.plan.n_documents
    if fingerprint(texts, n_read) != record.spec.texts:
        raise StoreError(
            f"The texts differ from the {record.plan.n_documents:,} documents of this store. "
            "Choose another folder, or leave --texts out to go on with the tokens that are stored."
        )


def check_model(store: PlannedStore, model: HookedGPT2) -> None:
    """Refuse a model, or a version of what computes, that this store was not planned for.

    Raises:
        StoreError: names what differs.
    """
    _check_spec(store.spec, _spec(model, store.spec.texts, filled({}, vars(store.spec))))


def _check_spec(stored: Spec, wanted: Spec) -> None:
    differences = stored.differences(wanted)
    if differences:
        lines = [
            f"  {name}: {ours!r} is stored, {theirs!r} was asked for"
            for name, (ours, theirs) in differences.items()
        ]
        raise StoreError(
            "The folder holds another store:\n"
            + "\n".join(lines)
            + "\nChoose another folder, or the same settings."
        )


def _announce(
    store: PlannedStore, model: HookedGPT2, names: Sequence[str], dtype: DtypeChoice
) -> float:
    """Add the hooks that are new as a group; returns the measured seconds per token."""
    wanted = DTYPE_NAMES.get(dtype)
    for name in names:
        if wanted and name in store.hooks and store.hooks[name][1].dtype != wanted:
            raise StoreError(
                f"{name} is stored as {store.hooks[name][1].dtype}, and {wanted} was asked for. "
                "Choose another folder, or the same type."
            )
    new = [name for name in names if name not in store.hooks]
    every = [row_layout(n, model.cfg, store.spec.ctx, "float32") for n in (*store.hooks, *new)]
    measured = warm_up(model, warm_up_batches(store), every)
    layouts = [
        row_layout(
            name, model.cfg, store.spec.ctx, wanted or automatic_dtype(measured.absmax[name])
        )
        for name in new
    ]
    if layouts:
        write_group(store.files, Group(tuple(layouts)))
    return measured.seconds_per_token
