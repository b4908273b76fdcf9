"""A store whose numbers are known without a model: each value says where it stands."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from interp.model.tokens import Tokenizer
from interp.store.commits import Commit, HookCommit, write_commit
from interp.store.durable import LocalFiles
from interp.store.moments import Moments
from interp.store.naming import new_attempt, shard_path
from interp.store.plan import write_plan, write_vocabulary
from interp.store.planned import PlannedStore
from interp.store.shards import ShardWriter
from interp.store.spec import DTYPES, Group, HookLayout, Spec, StoreRecord, write_group, write_store

TEXTS = [
    "I love the color black.",
    "",
    "I hope someday to have a cat like that. The cat is black, and the color is black 🎉",
    "When Mary",
    "a",
    "Mary and John went to the store, John gave a drink to Mary. " * 3,
    "the cat",
]
RESID = HookLayout("blocks.0.hook_resid_post", ("d_model",), (4,), "float32")
Z = HookLayout("blocks.1.attn.hook_z", ("head", "d_head"), (2, 3), "float16")
MLP = HookLayout("blocks.2.hook_mlp_out", ("d_model",), (5,), "bfloat16")


@dataclass
class Setting:
    """How the store is planned."""

    ctx: int = 12
    packing: str = "documents"
    prepend_bos: bool = True
    positions: str = "all"
    subsample: str = ""
    unit_tokens: int = 40
    groups: Sequence[Group] = field(default_factory=lambda: (Group((RESID, Z)), Group((MLP,))))


def values(hook: HookLayout, tokens: pa.Table) -> Tensor:
    """What a hook's rows are: [token id, position, sequence, document position, ...] in turn."""
    columns = [tokens[name].fill_null(-1).to_numpy() for name in ("token_id", "pos", "sequence")]
    x = np.stack([*columns, tokens["document"].to_numpy()], axis=1)
    n_features = int(np.prod(hook.feature))
    filled = np.tile(x, 2)[:, :n_features].astype(np.float32)
    return torch.from_numpy(filled).reshape(-1, *hook.feature)


def plan_store(
    path: Path, tokenizer: Tokenizer, texts: Sequence[str] = TEXTS, setting: Setting | None = None
) -> PlannedStore:
    """A store without any unit."""
    setting = setting or Setting()
    files = LocalFiles(path)
    options = {name: vars(setting)[name] for name in ("ctx", "packing", "prepend_bos", "positions")}
    options |= {"subsample": setting.subsample, "unit_tokens": setting.unit_tokens, "seed": 0}
    plan = write_plan(files, texts, tokenizer, **options)
    spec = Spec(
        model="none",
        model_hash="0",
        tokenizer_hash="0",
        texts=plan.fingerprint,
        max_tokens=None,
        batch_tokens=100,
        compute_dtype="float32",
        versions={},
        **options,
    )
    write_store(files, StoreRecord(spec, plan, write_vocabulary(files, tokenizer)))
    for group in setting.groups:
        write_group(files, group)
    return PlannedStore.read(files)


def write_units(store: PlannedStore, group: Group, units: Sequence[int] | None = None) -> None:
    """Collect units of a group; all by default."""
    for unit in range(len(store.plan.units)) if units is None else units:
        tokens = store.tokens(unit)
        tokens = tokens.filter(tokens["row"].is_valid())
        attempt, hooks = new_attempt(), {}
        for hook in group.hooks:
            x = values(hook, tokens)
            moments = Moments(hook.feature)
            moments.add(x)
            writer = ShardWriter(
                store.files.begin(shard_path(hook.name, unit, attempt)),
                hook=hook.name,
                unit=unit,
                n_rows=len(x),
                feature=hook.feature,
                dtype=DTYPES[hook.dtype],
                metadata={},
            )
            writer.append(x.to(DTYPES[hook.dtype]))
            hooks[hook.name] = HookCommit.of(writer.finish(moments), moments, 0.0)
        planned = store.plan.units[unit]
        commit = Commit(
            store.spec.sha,
            unit,
            group.name,
            planned.n_rows,
            planned.tokens_xxh3,
            hooks,
            attempt,
            {},
        )
        assert write_commit(store.files, commit)


def write_small_store(
    path: Path, tokenizer: Tokenizer, texts: Sequence[str] = TEXTS, setting: Setting | None = None
) -> PlannedStore:
    """A complete store."""
    store = plan_store(path, tokenizer, texts, setting)
    for group in store.groups.values():
        write_units(store, group)
    return store
