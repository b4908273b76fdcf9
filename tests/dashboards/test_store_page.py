"""The store page: what is listed, made, checked, removed and opened, with real small stores."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

import interp
from dashboards import service as services
from dashboards.jobs import Report
from dashboards.measurements import store as measurements
from dashboards.measurements.store import Done, Place, Request
from dashboards.readings import store as readings
from interp import HookedGPT2, ModelConfig, save_huggingface
from interp.errors import DamagedStoreError
from interp.store import catalogue, collect
from tests.dashboards.pages import check_figures, figures, grid, opened, problems, shown, texts

TEXTS = ["I love the color black.", "The cat is black.", "When Mary and John went to the store."]
HOOKS = ["blocks.*.hook_resid_post", "blocks.*.attn.hook_z"]
SECONDS = 60


@pytest.fixture(scope="module")
def tiny() -> HookedGPT2:
    return interp.load()


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The folder of stores of a dashboard."""
    services.begin("tiny", tmp_path)
    yield tmp_path
    services.begin("tiny", None)


@pytest.fixture
def made(root: Path, tiny: HookedGPT2) -> Path:
    """One complete store in it, made by a script."""
    collect(tiny, TEXTS, path=root / "a", hooks=HOOKS)
    return root


def ended(page: AppTest) -> AppTest:
    """The page when nothing is under way any more."""
    deadline = time.monotonic() + SECONDS
    while any(str(b.key).startswith("stop_") for b in page.button) and time.monotonic() < deadline:
        time.sleep(0.1)
        page.run()
    assert problems(page) == []
    return page


def notes(page: AppTest) -> str:
    return "\n".join(code.value for code in page.code)


def interrupted(tiny: HookedGPT2, path: Path, n_batches: int = 1) -> None:
    """A store that was stopped on the way."""

    class EnoughError(Exception):
        pass

    seen = []

    def stop(tally: object) -> None:
        seen.append(tally)
        if len(seen) > n_batches:
            raise EnoughError

    with pytest.raises(EnoughError):
        collect(tiny, TEXTS * 3, path=path, hooks=HOOKS, batch_tokens=20, unit_tokens=40,
                watch=stop)  # fmt: skip


def test_without_a_folder_the_page_says_how_to_give_one() -> None:
    services.begin("tiny", None)
    page = opened("store")
    assert "interp dashboard --store FOLDER" in notes(page)
    assert figures(page) == []


def test_an_empty_folder_offers_to_collect(root: Path) -> None:
    page = opened("store")
    assert "There is no store yet" in texts(page)
    assert page.button(key="start_store_estimate").label == "Show size and time"


def test_stores_are_listed_and_the_first_is_open(made: Path) -> None:
    page = opened("store")
    table = shown(page, "stores").dataframe[0].value
    entry = catalogue.entry(made, "a")
    assert table["name"].tolist() == ["a"]
    assert table["n_bytes"].tolist() == [entry.n_bytes]
    assert table["state"].tolist() == ["complete"]
    assert f"{entry.n_rows:,} rows of 8 hooks" in texts(page)
    assert notes(page).count(TEXTS[0]) >= 1


def test_a_document_shows_its_norms_and_a_live_check(made: Path, tiny: HookedGPT2) -> None:
    page = opened("store", store__document="2", store__kind="blocks.*.attn.hook_z")
    _, cache = tiny.run_with_cache(TEXTS[2])
    data = grid(page, "norms_grid")
    live = [cache["z", n][0].flatten(1).norm(dim=1).numpy() for n in range(tiny.cfg.n_layers)]
    assert data["values"] == pytest.approx(np.stack(live), rel=2e-3)
    assert data["columns"][0] == "0 <|endoftext|>"
    assert "The model gives what is stored" in texts(page)
    assert TEXTS[2] in notes(page)
    assert f"interp.store.open({str(made / 'a')!r})" in notes(page)


def test_figures_can_be_repeated(made: Path) -> None:
    assert check_figures(opened("store", store__document="1")) == ["stores", "norms", "check"]


def test_a_document_becomes_the_prompt(made: Path) -> None:
    page = opened("store", store__document="1", bos="0")
    page.button(key="use_document").click().run()
    chosen = page.session_state["selection"]
    assert (chosen.text, chosen.prepend_bos) == (TEXTS[1], True)
    assert page.text_area(key="text_box").value == TEXTS[1]


def test_collecting_shows_its_size_before_anything_is_written(root: Path, tiny: HookedGPT2) -> None:
    page = opened("store", store__n="12", store__new="study/one")
    page.button(key="start_store_estimate").click().run()
    ended(page)
    assert list(root.iterdir()) == []
    texts_taken = measurements.held_out_texts(12)
    costs = interp.store.collecting.estimate(tiny, texts_taken, root=root)
    assert f"{costs.n_rows:,} rows of 4 hooks" in texts(page)
    page.button(key="collect").click().run()
    ended(page)
    assert "Complete: all units are committed" in texts(page)
    entry = catalogue.entry(root, "study/one")
    assert (entry.state, entry.n_documents, entry.n_rows) == ("complete", 12, costs.n_rows)
    shards = (root / "study/one/data").rglob("*.safetensors")
    assert sum(each.stat().st_size for each in shards) == costs.n_bytes
    assert shown(page, "stores").dataframe[0].value["name"].tolist() == ["study/one"]


def test_pasted_lines_and_hooks_are_what_is_collected(root: Path) -> None:
    page = opened("store", store__source="lines", store__hooks="blocks.*.attn.hook_q")
    assert "give at least one line" in texts(page)
    page.text_area(key="store_lines").set_value("The cat is black.\n\n`$x$` </script>").run()
    page.multiselect(key="store_hooks").set_value(
        ["blocks.*.attn.hook_q", "blocks.*.hook_mlp_out"]
    ).run()
    page.button(key="start_store_estimate").click().run()
    ended(page)
    page.button(key="collect").click().run()
    ended(page)
    entry = catalogue.entry(root, "sentences")
    assert entry.n_documents == 2
    assert entry.hooks[:2] == ("blocks.0.attn.hook_q", "blocks.0.hook_mlp_out")
    page.number_input(key="store.document").set_value(1).run()
    assert "`$x$` </script>" in notes(page)


def test_collecting_can_be_stopped_resumed_and_survives_other_pages(
    root: Path, tiny: HookedGPT2
) -> None:
    request = Request(measurements.held_out_texts(40), tuple(HOOKS), "auto")
    place = Place(str(root), "long", "")

    def slowly(report: Report) -> Done:
        def until_stopped(description: str, done: int, total: int) -> None:
            report(description, done, total)
            while description.startswith("Collecting"):
                time.sleep(0.02)
                report(description, done, total)

        return measurements.collect(tiny, place, request, until_stopped)

    job = services.service().run("store long", slowly)
    deadline = time.monotonic() + SECONDS
    while not job.at.description.startswith("Collecting") and time.monotonic() < deadline:
        time.sleep(0.01)
    page = opened("store", store__open="long")
    assert "goes on while you look at other pages" in texts(page)
    page.switch_page("views/attention.py").run()
    page.switch_page("views/store.py").run()
    page.button(key="stop_store").click().run()
    assert job.wait(SECONDS)
    assert job.state == "stopped"
    page.run()
    assert "Resume goes on from there" in page.info[0].value
    assert catalogue.entry(root, "long").state == "partial"
    page.button(key="resume").click().run()
    ended(page)
    assert catalogue.entry(root, "long").state == "complete"
    assert "Complete:" in texts(page)


def test_a_partial_store_is_opened_and_resumed(root: Path, tiny: HookedGPT2) -> None:
    interrupted(tiny, root / "part")
    page = AppTest.from_file(str(Path(services.__file__).with_name("app.py")), default_timeout=60)
    page.run()
    page.switch_page("views/store.py").run()
    assert "is partial" in texts(page)
    page.button(key="resume").click().run()
    ended(page)
    assert "is complete" in texts(page)


def test_checking_says_sound_or_names_the_damage(made: Path) -> None:
    page = opened("store")
    page.button(key="verify").click().run()
    assert "Sound: sizes, headers" in texts(ended(page))
    page.button(key="verify_full").click().run()
    assert "Sound: every byte" in texts(ended(page))
    shard = next((made / "a" / "data").rglob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    page.button(key="verify_full").click().run()
    ended(page)
    assert "Damaged: 1 problems" in texts(page)
    assert shard.name in notes(page)


def test_deleting_asks_first_and_can_be_taken_back(made: Path) -> None:
    page = opened("store")
    page.button(key="delete").click().run()
    assert "cannot be undone" in page.warning[0].value
    page.button(key="keep").click().run()
    assert len(page.warning) == 0
    assert (made / "a").exists()
    page.button(key="delete").click().run()
    page.button(key="delete_for_good").click().run()
    ended(page)
    assert not (made / "a").exists()
    assert "The store is removed." in texts(page)
    assert "There is no store yet" in texts(page)


def test_another_models_store_is_opened_and_not_compared(made: Path, tmp_path: Path) -> None:
    cfg = ModelConfig(n_layers=2, n_heads=2, d_model=8, d_mlp=8, d_vocab=11, n_ctx=16)
    save_huggingface(HookedGPT2(cfg, seed=0), tmp_path / "model")
    page = opened("store", model=str(tmp_path / "model"), text="1 2 3")
    assert "with other weights" in notes(page)
    assert figures(page) == ["stores", "norms"]
    page.button(key="use_document").click().run()
    assert "has no tokenizer" in notes(page)
    assert page.session_state["selection"].text == "1 2 3"


def test_damaged_and_foreign_folders_get_a_sentence(made: Path) -> None:
    (made / "foreign").mkdir()
    (made / "foreign" / "store.json").write_text("<b>{")
    shard = next((made / "a" / "data").rglob("*.safetensors"))
    shard.unlink()
    page = AppTest.from_file(str(Path(services.__file__).with_name("app.py")), default_timeout=60)
    page.query_params["store.open"] = "foreign"
    page.run()
    page.switch_page("views/store.py").run()
    assert page.exception == []
    assert "cannot be opened" in texts(page)
    assert page.button(key="verify").disabled
    damaged = AppTest.from_file(
        str(Path(services.__file__).with_name("app.py")), default_timeout=60
    )
    damaged.query_params["store.open"] = "a"
    damaged.run()
    damaged.switch_page("views/store.py").run()
    assert len(damaged.exception) == 0
    assert "is missing" in notes(damaged)


@pytest.mark.parametrize(
    "query",
    [
        {"store__open": "../../etc"},
        {"store__open": "nothing", "store__document": "-4"},
        {"store__document": "99999", "store__kind": "x", "store__n": "0", "store__hooks": "a b"},
        {"store__new": "../x", "store__dtype": "fp8", "store__source": "disk"},
    ],
)
def test_what_no_link_should_hold_is_borne(made: Path, query: dict[str, str]) -> None:
    page = opened("store", **query)
    assert "stores" in figures(page)
    if "store__new" in query:
        assert "is no name of a store" in notes(page)


def test_files_that_are_no_parquet_are_a_damaged_store(root: Path) -> None:
    def broken() -> None:
        raise OSError("gone")

    expected = pytest.raises(DamagedStoreError, match="The store a cannot be read: gone")
    with expected, measurements._readable(Place(str(root), "a", "")):
        broken()


def test_held_out_texts_mix_all_skills() -> None:
    found = measurements.held_out_texts(10)
    assert len(set(found)) == 10
    assert found[:4] == measurements.held_out_texts(4)


def test_readings_follow_what_was_found() -> None:
    assert "no problems" not in readings.done(Done("verify", []))[0]
    assert "left, such as `x`" in readings.done(Done("delete", ["x"]))[0]
    table = pd.DataFrame(
        {"hook": ["h"], "dtype": ["float16"], "n_rows": [3], "difference": [0.5],
         "largest": [1.0], "allowed": [0.01]}
    )  # fmt: skip
    assert "does not give what is stored" in readings.check(table)[0]
    assert "within the rounding of float16" in readings.check(table.assign(difference=0.001))[0]
    assert "nothing to compare" in readings.check(table.assign(n_rows=0, difference=0.0))[0]
    norms = pd.DataFrame({"hook": ["h", "h"], "pos": [0, 1], "token": ["a", "b"],
                          "norm": [9.0, 2.0]})  # fmt: skip
    assert "Largest at `a` (position 0)" in readings.norms(norms)[0]
    assert readings.norms(norms[:0]) == ["No row of this document is stored."]
