"""Reading a store: whatever is asked for comes back as it was written, or not at all."""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.errors import DamagedStoreError, StoreError
from interp.model.tokens import Tokenizer
from interp.store import collected as collected_module
from interp.store.commits import read_commit
from interp.store.planned import PlannedStore
from interp.store.reader import open as open_store
from interp.store.sealed import seal, unseal
from interp.store.spec import Group
from interp.store.views import View
from tests.comparison import assert_close
from tests.store.small_store import (
    MLP,
    RESID,
    TEXTS,
    Setting,
    Z,
    plan_store,
    values,
    write_small_store,
    write_units,
)
from tests.test_checkpoints import run_child

STORED_AS = {RESID.name: torch.float32, Z.name: torch.float16, MLP.name: torch.bfloat16}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> PlannedStore:
    """Complete; tests do not change it."""
    return write_small_store(tmp_path_factory.mktemp("small") / "store", tokenizer)


@pytest.fixture
def own_store(tmp_path: Path, store: PlannedStore) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(str(store.files), tmp_path / "own"))


def expected(store: PlannedStore, hook=RESID) -> torch.Tensor:
    """All rows in their order, from the token tables."""
    tables = [store.tokens(unit.unit) for unit in store.plan.units]
    kept = [table.filter(table["row"].is_valid()) for table in tables]
    return torch.cat([values(hook, table) for table in kept]).to(STORED_AS[hook.name])


def opened(store: PlannedStore, **options):
    return open_store(str(store.files), **options)


def flip(path: Path, place: int) -> None:
    """Change one byte of a file."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def shard_file(root: Path, hook=RESID, unit: int = 1) -> Path:
    (path,) = (root / "data" / hook.name).glob(f"u{unit:06d}-*")
    return path


@pytest.mark.parametrize("hook", [RESID, Z, MLP], ids=lambda hook: hook.dtype)
def test_all_rows_come_back_bit_for_bit_in_their_own_type(store, hook):
    view = opened(store).view(hook.name)
    assert len(store.plan.units) > 2
    assert view.shape == (store.record.plan.n_rows, *hook.feature)
    assert view.dtype == view[:].dtype == STORED_AS[hook.name]
    assert torch.equal(view[:], expected(store, hook))
    assert torch.equal(view.rows(slice(None), torch.float64), expected(store, hook).double())


@pytest.mark.parametrize(
    "index",
    [
        slice(3, 60),
        slice(None, None, 7),
        slice(None, None, -1),
        [50, 3, 90, 3, 0],
        np.array([], dtype=int),
        [-1, -96],
        range(38, 45),
        np.arange(96) % 5 == 0,
        torch.arange(96).flip(0)[:70],
    ],
    ids=str,
)
def test_rows_come_in_the_order_asked_for(store, index):
    view = opened(store).view(Z.name)
    numbers = np.arange(96)[index]
    assert torch.equal(view.rows(index), expected(store, Z)[numbers.tolist()])
    assert torch.equal(view[index], view.rows(index))


def test_a_single_number_gives_one_row(store):
    view = opened(store).view(Z.name)
    for number in (41, np.int64(41), torch.tensor(41), -55):
        assert torch.equal(view[number], expected(store, Z)[41])
    assert torch.equal(view.slice(40, 43), expected(store, Z)[40:43])


def test_what_is_given_out_is_the_callers_own(store):
    view = opened(store).view(RESID.name)
    view.slice(0, 5).zero_()
    view.rows([0, 2]).zero_()
    assert torch.equal(view[:], expected(store))


def test_a_row_or_hook_that_is_not_there_is_refused(store):
    st = opened(store)
    with pytest.raises(StoreError, match="Row 96 of 96: rows are 0 to 95"):
        st.view(RESID.name)[96]
    with pytest.raises(StoreError, match=r"Did you mean 'blocks.0.hook_resid_post'\? It has"):
        st.view("blocks.0.hook_resid_pots")
    with pytest.raises(StoreError, match="There is no unit 99; units are 0 to"):
        st.view(RESID.name, units=[0, 99])
    with pytest.raises(StoreError, match="Give a list of hooks"):
        st.align([])


def test_tokens_say_what_stands_at_each_row(store):
    view = opened(store).view(RESID.name)
    frame = view.tokens()
    assert frame["row"].tolist() == list(range(96))
    assert frame["token_id"].tolist() == view[:,][:, 0].tolist() if False else True
    assert torch.equal(torch.tensor(frame["token_id"]).float(), view[:][:, 0])
    assert torch.equal(torch.tensor(frame["pos"]).float(), view[:][:, 1])
    assert (frame["bos"] == frame["first"]).all()
    own = frame[~frame["bos"]]
    for document, text in enumerate(TEXTS):
        pieces = own[own["document"] == document].sort_values("document_pos")
        assert pieces["document_pos"].tolist() == list(range(len(pieces)))
        if "🎉" not in text:  # its bytes are several tokens
            assert "".join(pieces["token"]) == text
    assert frame["document_pos"].isna().sum() == frame["bos"].sum()
    shuffled = [70, 3, 3, 95]
    assert view.tokens(shuffled)["row"].tolist() == shuffled
    assert view.tokens([]).columns.tolist() == frame.columns.tolist()


@pytest.mark.parametrize(
    "where",
    ["pos > 0 and not bos", "token = ' black'", "unit = 1 and pos < 3", "row % 5 = 0", "false"],
)
def test_a_condition_keeps_the_rows_that_satisfy_it(store, where):
    st = opened(store)
    view = st.view(Z.name, where=where)
    table = st.view(Z.name).tokens()
    rows = {
        "pos > 0 and not bos": table[(table.pos > 0) & ~table.bos],
        "token = ' black'": table[table.token == " black"],
        "unit = 1 and pos < 3": table[(table.unit == 1) & (table.pos < 3)],
        "row % 5 = 0": table[table.row % 5 == 0],
        "false": table[:0],
    }[where]["row"].tolist()
    assert view.tokens()["row"].tolist() == rows
    assert torch.equal(view[:], expected(store, Z)[rows])
    assert torch.equal(view[::-2], expected(store, Z)[rows[::-2]])


def test_units_can_be_chosen(store):
    view = opened(store).view(RESID.name, units=[2, 0], where="pos = 1")
    frame = view.tokens()
    assert sorted(set(frame["unit"])) == [0, 2]
    assert set(frame["pos"]) == {1}


def test_documents_come_in_the_order_of_their_text_also_when_cut(store):
    st = opened(store)
    view, everything = st.view(RESID.name), st.view(RESID.name).tokens()
    rows_of_5 = view.document_rows(5)
    assert not (np.diff(rows_of_5) > 0).all()  # its pieces lie apart and not in order
    assert len(set(view.tokens(rows_of_5)["unit"])) > 1
    for document in range(len(TEXTS)):
        own = everything[(everything.document == document) & ~everything.bos]
        rows = own.sort_values("document_pos")["row"].tolist()
        assert view.document_rows(document).tolist() == rows
        assert torch.equal(view.document(document), expected(store)[rows])
    black = st.align([RESID.name, Z.name], where="token = ' black'")
    assert set(black.tokens(black.document_rows(2))["token"]) == {" black"}
    assert torch.equal(black.document(2)[Z.name], black[Z.name].document(2))
    assert len(black.document_rows(1)) == 0
    with pytest.raises(StoreError, match="Document 7: documents are 0 to 6"):
        view.document(7)


@pytest.mark.parametrize("setting", [Setting(packing="packed"), Setting(prepend_bos=False, ctx=7)])
def test_documents_are_found_in_any_packing(tmp_path, tokenizer, setting):
    write_small_store(tmp_path / "store", tokenizer, setting=setting)
    view = open_store(tmp_path / "store").view(MLP.name)
    for document, text in enumerate(TEXTS):
        tokens = view.tokens(view.document_rows(document))
        assert tokens["document_pos"].tolist() == list(range(len(tokens)))
        assert tokens["token_id"].tolist() == tokenizer.encode(text)


@pytest.mark.parametrize("setting", [Setting(positions="0,-1"), Setting(subsample="0.3")])
def test_rows_that_were_not_stored_are_not_there(tmp_path, tokenizer, setting):
    store = write_small_store(tmp_path / "store", tokenizer, setting=setting)
    st = open_store(tmp_path / "store")
    assert len(st.view(Z.name)) == st.n_rows == store.record.plan.n_rows < 96
    assert torch.equal(st.view(Z.name)[:], expected(store, Z))
    found = torch.cat([st.view(Z.name).document(document) for document in range(7)])
    assert len(found) == len(st.view(Z.name, where="document_pos is not null"))


def test_an_unfinished_store_has_the_rows_of_its_units(tmp_path, tokenizer):
    store = plan_store(tmp_path / "store", tokenizer)
    first, second = (
        next(g for g in store.groups.values() if hook in g.hooks) for hook in (RESID, MLP)
    )
    nothing = open_store(tmp_path / "store")
    assert len(nothing.view(RESID.name)) == nothing.n_rows == 0
    assert nothing.view(RESID.name).rows([]).shape == (0, 4)
    assert nothing.view(RESID.name).tokens().empty
    assert list(nothing.view(RESID.name).shuffled()) == []
    write_units(store, first, [0, 2])
    write_units(store, second, [1, 2])
    st = open_store(tmp_path / "store")
    assert not st.is_complete
    units = store.plan.units
    assert len(st.view(RESID.name)) == units[0].n_rows + units[2].n_rows
    assert sorted(set(st.view(MLP.name).tokens()["unit"])) == [1, 2]
    both = st.align([RESID.name, MLP.name])
    assert len(both) == st.n_rows == units[2].n_rows
    assert set(both.tokens()["unit"]) == {2}
    rows = both.rows(slice(None))
    last = slice(units[2].first_row, units[2].first_row + units[2].n_rows)
    assert torch.equal(rows[RESID.name], expected(store)[last])
    assert torch.equal(rows[MLP.name], expected(store, MLP)[last])
    with pytest.raises(StoreError, match="Document 5 is in unit 1, which is not collected yet"):
        st.view(RESID.name).document(5)
    assert len(st.view(RESID.name).document(4)) == 1
    write_units(store, first, [1])
    assert len(st.view(RESID.name)) < len(open_store(tmp_path / "store").view(RESID.name))


def test_statistics_are_those_of_all_rows(store):
    st = opened(store)
    for hook in (RESID, Z, MLP):
        found = st.view(hook.name).statistics()
        before_rounding = torch.cat(
            [values(hook, store.tokens(unit.unit)) for unit in store.plan.units]
        ).double()
        check_statistics(found, before_rounding)
    chosen = st.view(Z.name, where="pos > 2")
    check_statistics(chosen.statistics(), chosen[:].double())
    assert st.view(Z.name, where="false").statistics().count == 0
    part = st.view(RESID.name, units=[1]).statistics()
    assert part.count == store.plan.units[1].n_rows


def check_statistics(found, x: torch.Tensor) -> None:
    norms = x.flatten(start_dim=1).norm(dim=1)
    assert found.count == len(x)
    assert_close(found.mean, x.mean(dim=0))
    assert_close(found.variance, x.var(dim=0, correction=0))
    assert found.absmax == float(x.abs().max())
    expected = [float(norms.min()), float(norms.mean()), float(norms.max())]
    assert [found.norm_min, found.norm_mean, found.norm_max] == pytest.approx(expected, rel=1e-6)


# Damage


def read_all(view: View) -> object:
    return view[:]


def read_shuffled(view: View) -> object:
    return list(view.shuffled())


def read_document(view: View) -> object:
    return [view.document(document) for document in range(len(TEXTS))]


def read_scan(view: View) -> object:
    return view.statistics()


@pytest.mark.parametrize("read", [read_all, read_shuffled, read_document, read_scan])
def test_an_altered_row_is_never_given_out(own_store, read: Callable[[View], object]):
    path = shard_file(own_store)
    flip(path, 4096 + 5 * 16)
    view = open_store(own_store).view(RESID.name, where="true" if read is read_scan else None)
    with pytest.raises(DamagedStoreError, match=path.name):
        read(view)
    assert len(open_store(own_store).view(Z.name)[:]) == 96  # the other hook is not concerned


@pytest.mark.parametrize("verify", ["size", "none"])
def test_whoever_asks_not_to_check_gets_the_rows_as_they_are(own_store, store, verify):
    flip(shard_file(own_store), 4096)
    view = open_store(own_store, verify=verify).view(RESID.name)
    assert int((view[:] != expected(store)).sum()) == 1


def test_a_full_check_reads_everything_at_once(own_store):
    assert open_store(own_store, verify="full").is_complete
    path = shard_file(own_store, MLP)
    flip(path, 4096)
    with pytest.raises(DamagedStoreError, match=path.name):
        open_store(own_store, verify="full")


def test_a_missing_or_cut_shard_is_named(own_store):
    path = shard_file(own_store)
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(DamagedStoreError, match=path.name):
        open_store(own_store).view(RESID.name)[:]
    path.unlink()
    with pytest.raises(DamagedStoreError, match=rf"{path.name} is damaged: it is missing"):
        open_store(own_store).view(RESID.name)[:]


def test_swapped_shards_are_noticed(own_store):
    one, other = shard_file(own_store, unit=0), shard_file(own_store, unit=1)
    data = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(data)
    with pytest.raises(DamagedStoreError, match=one.name):
        open_store(own_store).view(RESID.name)[0]


def rewrite_commit(root: Path, group: Group, change: Callable[[dict], None]) -> Path:
    path = root / "commits" / f"u000001+{group.name}.json"
    content = unseal(path.read_bytes(), path.name)
    change(content)
    path.write_bytes(seal(content))
    return path


def other_spec(content: dict) -> None:
    content["spec_sha"] = "0" * 32


def other_tokens(content: dict) -> None:
    content["tokens_xxh3"] = "0" * 32


def other_type(content: dict) -> None:
    content["hooks"][RESID.name]["shard"]["dtype"] = "float16"


def other_shape(content: dict) -> None:
    content["hooks"][RESID.name]["shard"]["shape"][1] = 2


def fewer_hooks(content: dict) -> None:
    del content["hooks"][RESID.name]


def path_outside(content: dict) -> None:
    content["hooks"][RESID.name]["shard"]["path"] = "../../etc/passwd"


@pytest.mark.parametrize(
    "change", [other_spec, other_tokens, other_type, other_shape, fewer_hooks, path_outside]
)
def test_a_commit_that_does_not_fit_the_plan_is_not_believed(own_store, store, change):
    group = store.groups[store.hooks[RESID.name][0]]
    path = rewrite_commit(own_store, group, change)
    with pytest.raises(
        DamagedStoreError, match=f"{path.stem}|Not a path inside".replace("+", r"\+")
    ):
        open_store(own_store).view(RESID.name)[:]


def test_altered_tokens_are_named(own_store, store):
    path = own_store / store.plan.units[1].tokens_path
    flip(path, 100)
    view = open_store(own_store).view(RESID.name)
    with pytest.raises(DamagedStoreError, match=path.name):
        view.tokens()
    with pytest.raises(DamagedStoreError, match=path.name):
        open_store(own_store).view(RESID.name, where="pos = 0")


def test_another_format_is_refused(own_store):
    path = own_store / "store.json"
    content = unseal(path.read_bytes(), path.name)
    path.write_bytes(seal(content | {"format": 2}))
    with pytest.raises(StoreError, match="format 2; this version of interp reads format 1"):
        open_store(own_store)


def test_a_folder_without_a_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="There is no activation store at"):
        open_store(tmp_path)


# Places and processes


def test_a_store_can_be_moved(own_store, store, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    own_store.rename(moved)
    assert torch.equal(open_store(moved).view(RESID.name)[:], expected(store))


@pytest.fixture
def open_parents(tmp_path: Path) -> Iterator[None]:
    """Let everybody through to the temporary folder while a test runs."""
    modes = {folder: folder.stat().st_mode for folder in tmp_path.parents}
    closed = {folder: mode for folder, mode in modes.items() if mode & 0o055 != 0o055}
    for folder, mode in closed.items():
        folder.chmod(mode | 0o055)
    yield
    for folder, mode in closed.items():
        folder.chmod(mode)


@pytest.mark.usefixtures("open_parents")
def test_another_user_can_read_a_read_only_store(own_store, store):
    """Where the tests run as root, who may become nobody; else this user, who may not write."""
    for path in [own_store.parent, own_store, *own_store.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=read_as_nobody, args=(own_store, sender))
    child.start()
    found = receiver.recv() if receiver.poll(timeout=60) else "no answer"
    child.join()
    for path in [own_store.parent, own_store, *own_store.rglob("*")]:
        path.chmod(0o755)
    assert found == expected(store).flatten().tolist()


def read_as_nobody(root: Path, sent) -> None:
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        sent.send(open_store(root, verify="full").view(RESID.name)[:].flatten().tolist())
    except Exception as error:
        sent.send(repr(error))


def test_reading_imports_nothing_heavy_and_needs_no_model(own_store):
    printed = run_child(f"""
        import sys
        from interp.store.reader import open
        st = open({str(own_store)!r})
        view = st.view({RESID.name!r}, where="pos > 0")
        view[:], view.document(5), view.tokens(), next(iter(view.shuffled()))
        heavy = ["ray", "datasets", "transformers", "transformer_lens", "zarr", "sklearn",
                 "streamlit"]
        print([name for name in heavy if name in sys.modules])
    """)
    assert printed.strip() == "[]"


def test_open_files_and_memory_stay_bounded(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr(collected_module, "MAX_OPEN_SHARDS", 4)
    setting = Setting(unit_tokens=8, groups=(Group((RESID,)),))
    texts = ["I love the color black."] * 50
    store = write_small_store(tmp_path / "store", tokenizer, texts, setting)
    assert len(store.plan.units) == 50
    view = open_store(tmp_path / "store").view(RESID.name)

    def read_everything() -> tuple[int, int]:
        assert torch.equal(view[:], expected(store))
        list(view.shuffled(batch=8, block_rows=4, blocks_in_flight=8))
        return len(list(Path("/proc/self/fd").iterdir())), own_memory()

    before = len(list(Path("/proc/self/fd").iterdir()))
    read_everything()
    n_open, memory = read_everything()
    for _ in range(5):
        last_open, last_memory = read_everything()
    assert last_open <= n_open <= before + 4
    assert last_memory < memory + 2**21


def own_memory() -> int:
    """Bytes of this process that are no file's."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_a_commit_is_read_once_it_is_needed(own_store, store):
    group = store.groups[store.hooks[RESID.name][0]]
    st = open_store(own_store)
    view = st.view(RESID.name)
    (own_store / "commits" / f"u000001+{group.name}.json").unlink()
    first = store.plan.units[0].n_rows
    assert len(view[:first]) == first
    with pytest.raises(
        DamagedStoreError, match=r"u000001\+\w+\.json is damaged: it has been remov"
    ):
        view[first]
    assert read_commit(store.files, 1, group.name) is not None
