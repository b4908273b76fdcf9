"""One document of a store: its tokens and text, its norms, and whether a model repeats them."""

from pathlib import Path

import pytest
import torch

import interp
from interp.errors import ResourceError, StoreError
from interp.model.gpt2 import HookedGPT2
from interp.store import catalogue, collect, documents
from interp.store import open as open_store
from interp.store.collecting import estimate
from interp.store.reader import ActivationStore

TEXTS = ["I love the color black.", "", "The cat is black, and 🎉 John gave a drink to Mary."]
HOOKS = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_z", "hook_embed"]


@pytest.fixture(scope="module")
def tiny() -> HookedGPT2:
    return interp.load()


@pytest.fixture(scope="module")
def store(tiny: HookedGPT2, tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    path = tmp_path_factory.mktemp("stores") / "a"
    collect(tiny, TEXTS, path=path, hooks=HOOKS, dtype="fp16")
    return open_store(path)


@pytest.mark.parametrize("document", [0, 2])
def test_a_document_is_what_the_model_was_given(
    tiny: HookedGPT2, store: ActivationStore, document: int
) -> None:
    table = documents.sequence(store, document)
    assert table["token_id"].tolist() == tiny.to_tokens(TEXTS[document])[0].tolist()
    assert table["pos"].tolist() == list(range(len(table)))
    assert table["document_pos"].isna().tolist() == [True] + [False] * (len(table) - 1)
    assert table["stored"].all()
    assert documents.text(store, document, tiny) == TEXTS[document]


def test_without_the_tokenizer_the_stored_pieces_are_joined(store: ActivationStore) -> None:
    assert documents.text(store, 0) == TEXTS[0]
    other = HookedGPT2(interp.ModelConfig(1, 1, 8, 8, 11, 8), seed=0)
    assert documents.text(store, 0, other) == TEXTS[0]


def test_documents_that_are_not_there_are_told(store: ActivationStore) -> None:
    with pytest.raises(StoreError, match="documents are 0 to 2"):
        documents.text(store, 3)
    with pytest.raises(StoreError, match="Document 1 is empty"):
        documents.text(store, 1)


def test_norms_are_those_of_the_run(tiny: HookedGPT2, store: ActivationStore) -> None:
    assert documents.kinds(store) == ["hook_embed", "blocks.*.attn.hook_z",
                                      "blocks.*.hook_resid_post"]  # fmt: skip
    array = documents.norms(store, "blocks.*.attn.hook_z", 2)
    _, cache = tiny.run_with_cache(TEXTS[2])
    for layer, hook in enumerate(array["hook"].values):
        assert hook == f"blocks.{layer}.attn.hook_z"
        live = cache[hook][0].flatten(1).norm(dim=1)
        assert array.sel(hook=hook).values == pytest.approx(live.numpy(), rel=2e-3)
    assert array["token"].values.tolist() == tiny.to_str_tokens(TEXTS[2])
    with pytest.raises(StoreError, match=r"mlp' is not in this store\. It has hook_embed"):
        documents.norms(store, "blocks.*.mlp", 2)


def test_a_run_repeats_what_is_stored(tiny: HookedGPT2, store: ActivationStore) -> None:
    table = documents.compare(store, tiny, 2)
    assert table["hook"].tolist() == store.hooks
    assert (table["difference"] <= table["allowed"]).all()
    assert (table["difference"] > 0).any()  # float16 rounds
    _, cache = tiny.run_with_cache(TEXTS[2])
    for row in table.itertuples():
        stored = store.view(str(row.hook)).rows(slice(None), torch.float32)
        live = cache[str(row.hook)][0]
        expected = (stored[-len(live) :] - live).abs().max()
        assert row.difference == pytest.approx(float(expected), abs=1e-5)
        assert row.largest == pytest.approx(float(live.abs().max()), rel=1e-5)


def test_another_model_is_not_compared(store: ActivationStore) -> None:
    cfg = interp.load().cfg
    other = HookedGPT2(cfg, seed=1)
    with pytest.raises(StoreError, match="with other weights"):
        documents.compare(store, other, 0)


def test_thinned_and_packed_stores_compare_what_they_have(tiny: HookedGPT2, tmp_path: Path) -> None:
    collect(tiny, TEXTS * 3, path=tmp_path / "a", packing="packed", ctx=16, subsample="0.5")
    store = open_store(tmp_path / "a")
    table = documents.compare(store, tiny, 2)
    tokens = documents.sequence(store, 2)
    assert set(table["n_rows"]) == {int(tokens["stored"].sum())}
    assert 0 < tokens["stored"].sum() < len(tokens) <= 16
    assert (table["difference"] <= table["allowed"]).all()
    assert documents.norms(store, "blocks.*.hook_resid_post", 2).sizes["pos"] == table["n_rows"][0]


def test_a_document_that_is_not_collected_yet_is_told(tiny: HookedGPT2, tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def stop(tally: object) -> None:
        raise EnoughError

    with pytest.raises(EnoughError):
        collect(tiny, TEXTS, path=tmp_path / "a", watch=stop)
    store = open_store(tmp_path / "a")
    assert documents.text(store, 0, tiny) == TEXTS[0]
    with pytest.raises(StoreError, match="is not collected yet"):
        documents.norms(store, "blocks.*.hook_resid_post", 0)


def test_an_estimate_is_what_collecting_takes_and_leaves_nothing(
    tiny: HookedGPT2, tmp_path: Path
) -> None:
    costs = estimate(tiny, TEXTS, root=tmp_path, hooks=HOOKS)
    assert list(tmp_path.iterdir()) == []
    seen = []
    collect(tiny, TEXTS, path=tmp_path / "a", hooks=HOOKS, approve=lambda r: seen.append(r.costs))
    assert (costs.n_bytes, costs.n_rows, costs.n_documents) == (
        seen[0].n_bytes, seen[0].n_rows, 3,
    )  # fmt: skip
    shards = (tmp_path / "a" / "data").rglob("*.safetensors")
    assert sum(each.stat().st_size for each in shards) == costs.n_bytes
    assert catalogue.entry(tmp_path, "a").n_rows == costs.n_rows


def test_an_estimate_refuses_what_does_not_fit(tiny: HookedGPT2, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nothing to read"):
        estimate(tiny, [""], root=tmp_path)
    with pytest.raises(ResourceError):
        estimate(tiny, TEXTS, root=tmp_path / "missing")
