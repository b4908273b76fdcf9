"""Worker processes, Slurm's tasks and Ray's actors: what kills one of them stops nobody else."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import ray

import interp
from interp.errors import ResourceError, StoreError
from interp.model.gpt2 import HookedGPT2
from interp.store.collecting import collect
from interp.store.commits import committed
from interp.store.planned import PlannedStore
from interp.store.ray_runner import run as run_on_ray
from interp.store.status import status
from interp.store.upkeep import garbage, remove, verify
from interp.store.workers import run_processes
from interp.store.writer import Tally
from tests.store import crash_child
from tests.store.crash_child import PoisonedModel
from tests.store.whole_stores import contents, opened

OPTIONS = crash_child.OPTIONS | {"unit_tokens": 60}


@pytest.fixture(scope="module")
def alone(random_gpt2: HookedGPT2, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that one process has collected."""
    path = tmp_path_factory.mktemp("alone")
    assert collect(random_gpt2, crash_child.TEXTS, path=path, **OPTIONS).n_planned > 5
    return path


@pytest.fixture
def planned(alone: Path, tmp_path: Path) -> PlannedStore:
    """The same store with nothing collected."""
    shutil.copytree(alone, tmp_path / "store")
    for folder in ("commits", "attempts", "data"):
        shutil.rmtree(tmp_path / "store" / folder)
    return opened(tmp_path / "store")


def units_with(store: PlannedStore, token_id: int) -> set[int]:
    return {
        unit.unit
        for unit in store.plan.units
        if token_id in store.tokens(unit.unit)["token_id"].to_pylist()
    }


@pytest.fixture
def poisoned(random_gpt2: HookedGPT2, planned: PlannedStore) -> PoisonedModel:
    """A model that is killed by a token that only one unit holds."""
    model = PoisonedModel.from_weights(
        random_gpt2.cfg, dict(random_gpt2.state_dict()), random_gpt2.tokenizer
    )
    model.poison = next(i for i in range(340) if len(units_with(planned, i)) == 1)
    return model


def test_processes_write_what_one_process_writes(
    random_gpt2: HookedGPT2, planned: PlannedStore, alone: Path
):
    tallies: list[Tally] = []
    total = run_processes(planned, random_gpt2, 2, tallies.append)
    assert total.n_committed == len(planned.work)
    assert total.n_tokens == status(planned).n_tokens
    assert contents(Path(str(planned.files))) == contents(alone)


def test_a_unit_that_kills_its_worker_is_given_up_and_the_others_complete(
    poisoned: PoisonedModel, planned: PlannedStore
):
    poison = units_with(planned, poisoned.poison)
    run_processes(planned, poisoned, 2, lambda tally: None)
    found = status(planned)
    assert {unit for unit, _ in found.failed} == poison
    assert {unit for unit, _ in committed(planned.files)} == set(
        range(len(planned.plan.units))
    ) - poison
    assert all(
        reasons == ["its process was killed by signal 9"] * 3 for reasons in found.failed.values()
    )
    assert found.n_missing == 0
    assert not found.is_complete


def test_a_watcher_that_raises_stops_all_processes(random_gpt2: HookedGPT2, planned: PlannedStore):
    class Stop(Exception):
        pass

    def watch(tally: Tally) -> None:
        if tally.n_committed:
            raise Stop

    with pytest.raises(Stop):
        run_processes(planned, random_gpt2, 2, watch)
    found = status(planned)
    assert found.n_committed > 0
    assert found.n_under_way == 0
    assert verify(planned, full=True) == []
    # One that does not end in time is killed, and leaves its files to the collector of garbage.
    remove(planned, garbage(planned, grace_seconds=0))
    assert not list(Path(str(planned.files), "_tmp").iterdir())


def test_a_broken_disk_in_a_worker_is_the_callers_error(
    random_gpt2: HookedGPT2, planned: PlannedStore
):
    Path(str(planned.files), "data").write_text("in the way of the folder")
    with pytest.raises((ResourceError, StoreError), match="data"):
        run_processes(planned, random_gpt2, 1, lambda tally: None)


# Slurm


def test_tasks_of_an_array_pull_units_until_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    texts = [f"The {word} cat is black." for word in ("big", "small", "old", "young")] * 10
    collect(
        "tiny", texts, path="store", hooks="hook_embed", unit_tokens=60, runner="slurm", workers=2
    )
    (script,) = tmp_path.glob("*.sbatch")
    assert "#SBATCH --array=0-1\n" in script.read_text()
    assert status(opened(tmp_path / "store")).n_committed == 0
    tasks = [
        subprocess.Popen(
            ["bash", script],
            cwd=Path(interp.__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [task.communicate()[0] for task in tasks]
    assert {task.returncode for task in tasks} <= {0, 5}, outputs
    store = opened(tmp_path / "store")
    assert status(store).is_complete
    assert verify(store, full=True) == []


def test_an_array_needs_the_name_of_its_model(random_gpt2: HookedGPT2, tmp_path: Path):
    with pytest.raises(StoreError, match="by name or folder"):
        collect(random_gpt2, ["a"], path=tmp_path, runner="slurm")


# Ray


@pytest.fixture(scope="module")
def ray_cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    env = {"env_vars": {"PYTHONPATH": str(Path(interp.__file__).parents[1])}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=env)
    yield
    ray.shutdown()


def test_actors_write_what_one_process_writes(
    random_gpt2: HookedGPT2, planned: PlannedStore, alone: Path, ray_cluster
):
    total = run_on_ray(planned, random_gpt2, 2, lambda tally: None)
    assert total.n_committed == len(planned.work)
    assert contents(Path(str(planned.files))) == contents(alone)


def test_a_unit_that_kills_its_actor_is_given_up_and_the_others_complete(
    poisoned: PoisonedModel, planned: PlannedStore, ray_cluster
):
    poison = units_with(planned, poisoned.poison)
    run_on_ray(planned, poisoned, 2, lambda tally: None)
    found = status(planned)
    assert {unit for unit, _ in found.failed} == poison
    assert found.n_committed == found.n_planned - len(poison)
    assert not found.is_complete
