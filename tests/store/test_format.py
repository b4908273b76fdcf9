"""Stores of every released format open, and say the same as when they were written."""

import shutil
from pathlib import Path

import pytest
import torch

import interp
from interp.errors import DamagedStoreError, StoreError
from interp.store.durable import LocalFiles
from interp.store.planned import PlannedStore
from interp.store.sealed import seal, unseal
from interp.store.status import status
from interp.store.upkeep import verify

FORMATS = sorted(Path(__file__).parent.glob("format-*"))
TEXTS = ["I love the color black.", "The cat is black, I hope."]
HOOK = "blocks.2.hook_resid_post"


def test_there_is_a_store_of_every_format():
    assert [path.name for path in FORMATS] == ["format-1"]


@pytest.mark.parametrize("path", FORMATS, ids=lambda path: path.name)
def test_a_store_of_an_earlier_version_reads_as_before(path: Path):
    store = PlannedStore.read(LocalFiles(path))
    assert verify(store, full=True) == []
    assert status(store).is_complete
    opened = interp.store.open(path)
    assert opened.hooks == [HOOK]
    view = opened.view(HOOK)
    model = interp.load()
    for number, text in enumerate(TEXTS):
        rows = view.document(number)
        expected = model.record(text, HOOK)[HOOK][0]
        # Of the document's own tokens and, before them, the token that begins the sequence.
        torch.testing.assert_close(rows.float(), expected[-len(rows) :], rtol=1e-3, atol=1e-3)
    assert "".join(view.tokens().query("document == 1 and not bos").token) == TEXTS[1]


@pytest.mark.parametrize("written", [2, 0, "1", None])
def test_a_store_of_another_format_is_refused(tmp_path: Path, written: object):
    shutil.copytree(FORMATS[0], tmp_path / "store")
    description = tmp_path / "store/store.json"
    content = unseal(description.read_bytes(), "store.json") | {"format": written}
    description.write_bytes(seal(content))
    with pytest.raises(StoreError, match=rf"has format {written!r}; this version .* format 1"):
        interp.store.open(tmp_path / "store")


def test_a_store_whose_description_was_edited_is_refused(tmp_path: Path):
    shutil.copytree(FORMATS[0], tmp_path / "store")
    description = tmp_path / "store/store.json"
    description.write_text(description.read_text().replace('"ctx":12', '"ctx":13'))
    with pytest.raises(DamagedStoreError, match=r"store\.json"):
        interp.store.open(tmp_path / "store")
