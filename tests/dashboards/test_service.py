"""The one door to models: one run at a time, answers remembered by content, memory bounded."""

import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from dashboards.jobs import Report
from dashboards.service import ANSWERS_BYTES, WORKS_KEPT, Service, n_bytes
from interp import HookedGPT2, ModelConfig, model_hash, save_huggingface
from interp.errors import InterpError, PromptError


@pytest.fixture
def service() -> Service:
    return Service()


def n_parameters(model: HookedGPT2, factor: int) -> int:
    """A question."""
    return factor * model.cfg.n_params


def test_an_answer_is_what_the_question_returns(service: Service) -> None:
    loaded = service.loaded("tiny")
    assert service.answer(loaded, n_parameters, 2) == 2 * loaded.model.cfg.n_params
    assert loaded.hash == model_hash(loaded.model)


def test_the_same_question_is_asked_once_even_by_many_at_once(service: Service) -> None:
    loaded = service.loaded("tiny")
    asked, answers = [], []

    def slow(model: HookedGPT2, number: int) -> int:
        asked.append(number)
        time.sleep(0.05)
        return number

    threads = [
        threading.Thread(target=lambda: answers.append(service.answer(loaded, slow, 7)))
        for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (asked, answers) == ([7], [7] * 12)


def test_two_questions_never_run_at_once(service: Service) -> None:
    loaded = service.loaded("tiny")
    running, most = [], []

    def watched(model: HookedGPT2, number: int) -> int:
        running.append(number)
        most.append(len(running))
        time.sleep(0.01)
        running.remove(number)
        return number

    threads = [
        threading.Thread(target=service.answer, args=(loaded, watched, number))
        for number in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 10


def test_a_question_that_fails_is_not_remembered_and_blocks_nobody(service: Service) -> None:
    loaded = service.loaded("tiny")
    tries = []

    def failing(model: HookedGPT2) -> int:
        tries.append(1)
        raise PromptError("no")

    for _ in range(2):
        with pytest.raises(PromptError, match="no"):
            service.answer(loaded, failing)
    assert len(tries) == 2
    assert service.answer(loaded, n_parameters, 1) > 0


def test_answers_belong_to_weights_not_to_names(service: Service, tmp_path: Path) -> None:
    loaded = service.loaded("tiny")
    save_huggingface(loaded.model, tmp_path / "copy")
    copy = service.loaded(str(tmp_path / "copy"))
    asked = []

    def noted(model: HookedGPT2) -> int:
        asked.append(model)
        return 1

    service.answer(loaded, noted)
    service.answer(copy, noted)
    assert len(asked) == 1
    assert copy.model is not loaded.model


def test_remembered_answers_stay_within_their_memory(service: Service) -> None:
    loaded = service.loaded("tiny")

    def large(model: HookedGPT2, number: int) -> xr.DataArray:
        return xr.DataArray(np.zeros(ANSWERS_BYTES // 5 // 8))

    for number in range(12):
        service.answer(loaded, large, number)
        assert service.remembered_bytes <= ANSWERS_BYTES
    assert service.remembered_bytes > ANSWERS_BYTES // 2


def test_an_answer_larger_than_all_memory_is_given_and_not_kept(service: Service) -> None:
    loaded = service.loaded("tiny")
    whole = service.answer(loaded, lambda model: xr.DataArray(np.empty(ANSWERS_BYTES // 8 + 1)))
    assert whole.nbytes > ANSWERS_BYTES
    assert service.remembered_bytes == 0


def test_memory_of_answers_is_counted() -> None:
    table = pd.DataFrame({"x": np.zeros(1000)})
    assert n_bytes(table) >= 8000
    assert n_bytes(xr.Dataset({"x": ("i", np.zeros(1000))})) >= 8000
    assert n_bytes((table, table)) >= 16000


def test_only_a_few_models_are_kept(service: Service, tmp_path: Path) -> None:
    for seed in range(3):
        cfg = ModelConfig(n_layers=1, n_heads=1, d_model=8, d_mlp=8, d_vocab=11, n_ctx=8)
        save_huggingface(HookedGPT2(cfg, seed=seed), tmp_path / f"m{seed}")
    names = [str(tmp_path / f"m{seed}") for seed in range(3)]
    first = service.loaded(names[0])
    assert service.loaded(names[0]) is first
    service.loaded(names[1])
    service.loaded(names[2])
    again = service.loaded(names[0])
    assert again is not first
    assert torch.equal(again.model.W_E, first.model.W_E)


def test_a_model_that_cannot_be_loaded_is_an_error_that_says_so(service: Service) -> None:
    with pytest.raises(InterpError, match="gpt3"):
        service.loaded("./gpt3")
    assert service.loaded("tiny").name == "tiny"


def test_named_work_is_seen_by_all_and_ends_when_it_is_stopped(service: Service) -> None:
    done = []

    def counting(report: Report) -> None:
        for number in range(10_000):
            report("Counting", number, 10_000)
            done.append(number)
            time.sleep(0.001)

    job = service.run("count", counting)
    assert service.work("count") is job
    with pytest.raises(InterpError, match="wait for its end"):
        service.run("count", counting)
    assert service.answer(service.loaded("tiny"), n_parameters, 1) > 0  # between two steps
    job.stop()
    assert job.wait(20)
    assert (job.state, job.result) == ("stopped", None)
    assert 0 < len(done) < 10_000
    again = service.run("count", lambda report: 7)
    assert again.wait(20)
    assert (again.state, again.result) == ("finished", 7)


def test_only_a_few_ended_works_are_kept_and_none_under_way_is_forgotten(
    service: Service,
) -> None:
    hold = threading.Event()

    def waiting(report: Report) -> None:
        while not hold.is_set():
            report("Waiting", 0, 0)
            time.sleep(0.001)

    job = service.run("long", waiting)
    for number in range(WORKS_KEPT + 5):
        assert service.run(f"short {number}", lambda report: None).wait(20)
    assert service.work("long") is job
    assert service.work("short 0") is None
    assert service.work(f"short {WORKS_KEPT + 4}") is not None
    hold.set()
    assert job.wait(20)


def test_named_work_that_fails_says_why(service: Service) -> None:
    def failing(report: Report) -> None:
        raise PromptError("no such text")

    job = service.run("x", failing)
    assert job.wait(20)
    assert (job.state, job.problem) == ("failed", "no such text")
