"""Whole stores in object storage hold what a folder holds, and go on as one does."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import interp
from interp.errors import DamagedStoreError, ResourceError, StoreError, UnknownOutcomeError
from interp.model.gpt2 import HookedGPT2
from interp.store.attempts import failures, open_work
from interp.store.object_files import ObjectFiles
from interp.store.planned import PlannedStore
from interp.store.reader import ActivationStore
from interp.store.upkeep import garbage, verify
from interp.store.writer import Tally
from tests.store.object_servers import copies
from tests.store.processes import in_child
from tests.store.small_store import TEXTS

HOOKS = ["blocks.0.hook_resid_post", "blocks.2.attn.hook_z"]
SETTINGS: dict[str, Any] = {"hooks": HOOKS, "ctx": 12, "unit_tokens": 40}


def rows(store: ActivationStore) -> dict[str, torch.Tensor]:
    return {hook: store.view(hook)[:] for hook in store.hooks}


def test_a_store_holds_what_a_folder_holds(
    random_gpt2: HookedGPT2, url: str, tmp_path: Path
) -> None:
    status = interp.store.collect(random_gpt2, TEXTS, path=url, **SETTINGS)
    assert status.is_complete
    assert status.n_planned > 2
    interp.store.collect(random_gpt2, TEXTS, path=tmp_path / "folder", **SETTINGS)
    ours = interp.store.open(url, verify="full")
    folder = interp.store.open(tmp_path / "folder")
    assert ours.is_complete
    assert ours.spec == folder.spec
    for hook, x in rows(folder).items():
        assert torch.equal(ours.view(hook)[:], x)
        assert ours.view(hook).tokens().equals(folder.view(hook).tokens())
    assert repr(ours).startswith(f"ActivationStore at {url}: ")


def test_a_stopped_run_goes_on(random_gpt2: HookedGPT2, url: str) -> None:
    class StopError(Exception):
        pass

    def stop(tally: Tally) -> None:
        if tally.n_committed:
            raise StopError

    settings = SETTINGS | {"unit_tokens": 20}
    with pytest.raises(StopError):
        interp.store.collect(random_gpt2, TEXTS, path=url, watch=stop, **settings)
    begun = interp.store.open(url)
    assert 0 < begun.n_rows < begun._store.record.plan.n_rows
    commits = ObjectFiles(url).names("commits")
    assert interp.store.collect(random_gpt2, None, path=url).is_complete
    store = interp.store.open(url)
    assert store.is_complete
    assert set(commits) < set(ObjectFiles(url).names("commits"))
    planned = PlannedStore.read(ObjectFiles(url))
    assert verify(planned, full=True) == []
    assert garbage(planned, grace_seconds=-1) == []
    assert open_work(planned.files, planned.work).taken == []


def test_another_store_is_refused(random_gpt2: HookedGPT2, memory: str) -> None:
    interp.store.collect(random_gpt2, TEXTS, path=memory, **SETTINGS)
    with pytest.raises(StoreError, match="The folder holds another store"):
        interp.store.collect(random_gpt2, TEXTS, path=memory, **SETTINGS | {"ctx": 11})


def test_memory_has_no_other_workers(random_gpt2: HookedGPT2, memory: str) -> None:
    with pytest.raises(StoreError, match="memory:// exists in one process only"):
        interp.store.collect(random_gpt2, TEXTS, path=memory, workers=2, **SETTINGS)


def test_a_damaged_copy_is_noticed(random_gpt2: HookedGPT2, memory: str, cache: Path) -> None:
    interp.store.collect(random_gpt2, TEXTS, path=memory, **SETTINGS)
    rows(interp.store.open(memory))
    damaged = copies(cache)[0]
    damaged.write_bytes(bytes(damaged.stat().st_size))
    with pytest.raises(DamagedStoreError, match=re.escape(str(damaged))):
        rows(interp.store.open(memory))
    damaged.unlink()
    rows(interp.store.open(memory))


def test_a_forked_process_reads(random_gpt2: HookedGPT2, url: str) -> None:
    interp.store.collect(random_gpt2, TEXTS, path=url, **SETTINGS)
    store = interp.store.open(url)

    def read() -> None:
        is_whole = False
        try:
            is_whole = len(rows(store)) == len(HOOKS)
        finally:
            os._exit(0 if is_whole else 1)

    _, status = os.waitpid(in_child(read), 0)
    assert status == 0


def test_there_is_no_store_yet(url: str) -> None:
    with pytest.raises(StoreError, match=f"There is no activation store at {url}"):
        interp.store.open(url)


def test_a_commit_that_lands_after_its_answer_was_lost_is_whole(
    random_gpt2: HookedGPT2, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    late: list[tuple[ObjectFiles, str, bytes]] = []
    write_once = ObjectFiles.write_once

    def lose_the_answer(self: ObjectFiles, path: str, data: bytes) -> bool:
        if path.startswith("commits/") and not late:
            late.append((self, path, data))
            raise UnknownOutcomeError("no answer")
        return write_once(self, path, data)

    monkeypatch.setattr(ObjectFiles, "write_once", lose_the_answer)
    with pytest.raises(UnknownOutcomeError, match="no answer"):
        interp.store.collect(random_gpt2, TEXTS, path=memory, **SETTINGS)
    write_once(*late[0])
    store = PlannedStore.read(ObjectFiles(memory))
    assert verify(store, full=True) == []
    assert interp.store.collect(random_gpt2, path=memory, hooks=HOOKS).is_complete
    assert verify(store, full=True) == []


def test_storage_that_cannot_be_reached_is_no_fault_of_a_unit(
    random_gpt2: HookedGPT2, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    interp.store.collect(random_gpt2, TEXTS, path=memory, **SETTINGS | {"hooks": "hook_embed"})
    tokens, seen = PlannedStore.tokens, []

    def unreachable(self: PlannedStore, unit: int) -> object:
        seen.append(unit)
        if len(seen) > 1:  # the warm-up reads the first unit's
            raise ResourceError("no connection")
        return tokens(self, unit)

    monkeypatch.setattr(PlannedStore, "tokens", unreachable)
    with pytest.raises(ResourceError, match="no connection"):
        interp.store.collect(random_gpt2, path=memory, hooks=HOOKS)
    assert len(seen) == 2
    monkeypatch.undo()
    store = PlannedStore.read(ObjectFiles(memory))
    assert failures(store.files) == {}
    assert interp.store.collect(random_gpt2, path=memory, hooks=HOOKS).is_complete
