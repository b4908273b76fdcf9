"""Exports: other tools read the same rows, in the same order, with the same tokens."""

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open

from interp.errors import DamagedStoreError, StoreError
from interp.model.tokens import Tokenizer
from interp.store import views
from interp.store.exports import to_datasets, to_safetensors, to_zarr
from interp.store.reader import open as open_store
from interp.store.views import AlignedViews, TokenRows, View
from tests.store.small_store import MLP, RESID, Z, write_small_store

CHOICES = ["one hook", "float16 heads", "bfloat16", "aligned", "chosen", "nothing"]
TO = {"safetensors": to_safetensors, "datasets": to_datasets, "zarr": to_zarr}
# The library leaves closing the files that it opened to the garbage collector.
leaves_files_open = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    path = tmp_path_factory.mktemp("small") / "store"
    write_small_store(path, tokenizer)
    return path


@pytest.fixture(params=CHOICES)
def view(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> View | AlignedViews:
    monkeypatch.setattr(views.TokenRows.pieces, "__defaults__", (7,))  # many pieces, many files
    st = open_store(folder)
    return {
        "one hook": lambda: st.view(RESID.name),
        "float16 heads": lambda: st.view(Z.name),
        "bfloat16": lambda: st.view(MLP.name),
        "aligned": lambda: st.align([MLP.name, Z.name], where="pos > 0"),
        "chosen": lambda: st.view(Z.name, where="token = ' black'"),
        "nothing": lambda: st.view(Z.name, where="false"),
    }[request.param]()


def parts(view: TokenRows) -> dict[str, View]:
    return view.views if isinstance(view, AlignedViews) else {"x": view}


def test_safetensors_holds_the_values_and_parquet_the_tokens(view, tmp_path):
    path = tmp_path / "new" / "rows.safetensors"
    to_safetensors(view, path)
    with safe_open(path, "pt") as file:
        assert set(file.keys()) == set(parts(view))
        for name, part in parts(view).items():
            assert file.get_tensor(name).dtype == part.dtype
            assert torch.equal(file.get_tensor(name), part[:])
        assert file.metadata()["store"] == view.spec.sha
    tokens = pq.read_table(path.with_suffix(".parquet"))
    assert tokens["token"].to_pylist() == view.tokens()["token"].tolist()
    assert tokens["row"].to_pylist() == view.tokens()["row"].tolist()
    assert tokens["document_pos"].null_count == view.tokens()["document_pos"].isna().sum()
    assert {file.name for file in path.parent.iterdir()} == {"rows.safetensors", "rows.parquet"}


@leaves_files_open
def test_a_dataset_holds_values_and_tokens(view, tmp_path):
    import datasets

    to_datasets(view, tmp_path / "rows")
    found = datasets.load_from_disk(str(tmp_path / "rows"))
    assert len(found) == len(view)
    assert found["token"][:] == view.tokens()["token"].tolist()
    assert found["document_pos"][:].count(None) == view.tokens()["document_pos"].isna().sum()
    for name, part in parts(view).items():
        dtype = np.float16 if part.dtype == torch.float16 else np.float32
        stored = found.data.schema.field(name).type
        for _ in part.feature:
            stored = stored.value_type
        assert stored == {np.float16: "halffloat", np.float32: "float"}[dtype]
        if len(view):
            values = found.with_format("numpy", dtype=dtype)[name][:]
            assert values.dtype == dtype
            assert np.array_equal(values, part.rows(slice(None), torch.float32).numpy())
    assert json.loads(found.info.description)["store"] == view.spec.sha


def test_zarr_holds_values_and_tokens(view, tmp_path):
    import zarr

    to_zarr(view, tmp_path / "rows.zarr")
    group = zarr.open_group(str(tmp_path / "rows.zarr"), mode="r")
    assert group.metadata.zarr_format == 3
    for name, part in parts(view).items():
        assert group[name].metadata.dimension_names == ("row", *part.layout.axes)
        assert group[name].dtype == (np.float16 if part.dtype == torch.float16 else np.float32)
        assert np.array_equal(group[name][:], part.rows(slice(None), torch.float32).numpy())
    frame = view.tokens()
    assert group["token_id"][:].tolist() == frame["token_id"].tolist()
    assert group["bos"][:].tolist() == frame["bos"].tolist()
    assert group["document_pos"][:].tolist() == frame["document_pos"].fillna(-1).tolist()
    assert group.attrs["store"] == view.spec.sha


@pytest.mark.parametrize("to", TO.values(), ids=TO)
def test_what_exists_is_not_replaced(folder, tmp_path, to):
    path = tmp_path / "rows"
    path.write_bytes(b"mine")
    with pytest.raises(StoreError, match="rows exists already"):
        to(open_store(folder).view(Z.name), path)
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


@leaves_files_open
@pytest.mark.parametrize("to", TO.values(), ids=TO)
def test_an_export_that_fails_leaves_nothing(tokenizer, tmp_path, to):
    store = write_small_store(tmp_path / "store", tokenizer)
    (path,) = (tmp_path / "store" / "data" / RESID.name).glob("u000002-*")
    data = bytearray(path.read_bytes())
    data[4096] ^= 1
    path.write_bytes(data)
    (tmp_path / "out").mkdir()
    with pytest.raises(DamagedStoreError, match=path.name):
        to(open_store(str(store.files)).view(RESID.name), tmp_path / "out" / "rows")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("library", ["datasets", "zarr"])
def test_a_missing_extra_is_named(folder, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(StoreError, match=rf'{library}: pip install "interp\[export\]"'):
        TO[library](open_store(folder).view(Z.name), tmp_path / "rows")
