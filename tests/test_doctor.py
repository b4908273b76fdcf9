"""The doctor under controlled conditions: a local server, an emptied path, crafted folders."""

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from interp import doctor
from interp.doctor import Check


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local addresses are asked directly, also on a machine behind a proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A local address that answers 404, and the requests it got."""
    requests: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            requests.append(f"{self.command} {self.path}")
            self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", requests
        running.shutdown()
        thread.join()


@pytest.fixture
def silent_address() -> Iterator[str]:
    """A local address that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_diagnosis_covers_every_topic_and_advises_on_every_failure() -> None:
    checks = by_name(doctor.diagnose())
    topics = ("Python", "torch", "transformer-lens", "streamlit", "ray", "device", "threads")
    places = ("free memory", "free disk", "embedded model", "models of the hub", "network")
    assert {*topics, *places, "Chromium"} <= set(checks)
    assert all(check.advice for check in checks.values() if not check.ok)
    assert checks["Python"] == Check("Python", sys.version.split()[0], True)


def test_diagnosis_imports_no_heavy_library_but_torch() -> None:
    code = (
        "import sys; from interp.doctor import diagnose; diagnose();"
        "print([n for n in ('transformers', 'transformer_lens', 'streamlit', 'pandas', 'altair')"
        " if n in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def installed(folder: Path, name: str, version: str, requires: list[str]) -> None:
    """A distribution as pip leaves it."""
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    metadata.write_text("\n".join([*lines, *(f"Requires-Dist: {line}" for line in requires), ""]))


def test_packages_are_compared_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "fresh", "3.1", [])
    installed(tmp_path, "stale", "1.9", [])
    needed = ["fresh>=3", "stale>=2,<3", "absent>=1", "unused>=1; extra == 'x'"]
    installed(tmp_path, "project", "0.1", needed)
    monkeypatch.syspath_prepend(tmp_path)
    checks = by_name(doctor.check_packages("project"))
    assert checks["fresh"] == Check("fresh", "3.1", True, "")
    assert checks["stale"] == Check(
        "stale", "1.9", False, 'Needs <3,>=2: pip install "stale<3,>=2"'
    )
    assert checks["absent"].value == "not installed"
    assert not checks["absent"].ok
    assert 'pip install "absent>=1"' in checks["absent"].advice
    assert "unused" not in checks


def test_library_of_an_extra_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OPTIONAL", {"no-such-library": "ray"})
    check = by_name(doctor.check_packages())["no-such-library"]
    assert check == Check(
        "no-such-library", "not installed", True, 'Optional: pip install "interp[ray]"'
    )


def test_project_that_is_not_installed_is_told_how() -> None:
    (check,) = doctor.check_packages("no-such-project")
    assert not check.ok
    assert "./run demo" in check.advice


def test_broken_torch_is_reported_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so: cannot open\\nmore')")
    code = "from interp.doctor import check_torch; print(check_torch())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "torch cannot be imported: libcudart.so: cannot open'" in result.stdout
    assert "ok=False" in result.stdout
    assert "INTERP_TORCH" in result.stdout


def test_torch_tells_its_device_and_threads() -> None:
    device, threads = doctor.check_torch()
    assert device.name == "device"
    assert device.value
    assert threads.value.endswith(f"on {doctor.available_cores()} cores")


def test_more_threads_than_cores_are_refused() -> None:
    assert doctor.check_threads(2, 2) == Check("threads", "2 on 2 cores", True)
    check = doctor.check_threads(8, 2)
    assert not check.ok
    assert "OMP_NUM_THREADS=2" in check.advice


@pytest.mark.parametrize(
    ("kilobytes", "value", "ok"), [(7_812_500, "8.0 GB", True), (976_562, "1.0 GB", False)]
)
def test_memory_is_what_programs_can_still_get(
    tmp_path: Path, kilobytes: int, value: str, ok: bool
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable:   {kilobytes} kB\n")
    check = doctor.check_memory(meminfo)
    assert (check.value, check.ok, bool(check.advice)) == (value, ok, not ok)


def test_memory_is_unknown_where_the_system_does_not_tell(tmp_path: Path) -> None:
    check = doctor.check_memory(tmp_path / "nothing")
    assert check == Check("free memory", "unknown on this system", True)


def test_disk_is_that_of_the_first_folder_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not" / "yet"
    assert doctor.check_disk(folder).value.endswith(f"GB for {folder}")
    monkeypatch.setattr(doctor, "MIN_FREE_DISK", 10**18)
    check = doctor.check_disk(folder)
    assert not check.ok
    assert "HF_HOME" in check.advice


def test_embedded_model_is_the_one_that_load_reads() -> None:
    from interp.model.loading import EMBEDDED_FOLDER

    assert doctor.EMBEDDED_MODEL == EMBEDDED_FOLDER


def test_embedded_model_names_its_missing_files(tmp_path: Path) -> None:
    for name in doctor.EMBEDDED_FILES:
        (tmp_path / name).write_bytes(bytes(2_500_000))
    assert doctor.check_embedded_model(tmp_path) == Check("embedded model", "2.5 MB", True)
    (tmp_path / "model.safetensors").unlink()
    check = doctor.check_embedded_model(tmp_path)
    assert not check.ok
    assert "lacks model.safetensors in" in check.value
    assert check.advice


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HF_HOME": "home"}, "home/hub"),
        ({"HF_HOME": "home", "HF_HUB_CACHE": "cache"}, "cache"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/huggingface/hub"),
    ],
)
def test_models_are_looked_for_where_the_hub_looks(
    tmp_path: Path, variables: dict[str, str], expected: str
) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    given = {key: str(tmp_path / value) for key, value in variables.items()}
    code = (
        "from interp.doctor import diagnose\n"
        "print([c.value for c in diagnose() if c.name == 'models of the hub'][0])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=clean | given | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == f"{tmp_path / expected}: none yet"


def test_models_on_this_machine_are_named(tmp_path: Path) -> None:
    for name in ("models--gpt2", "models--openai-community--gpt2-xl", "datasets--text"):
        (tmp_path / name).mkdir()
    check = doctor.check_hub_cache(tmp_path)
    assert check.value == f"{tmp_path}: gpt2, openai-community/gpt2-xl"
    assert check.ok


def test_models_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hub").write_text("")
    (tmp_path / "hub").chmod(0o755)
    check = doctor.check_hub_cache(tmp_path / "hub")
    assert not check.ok
    assert "HF_HOME" in check.advice


def test_any_answer_means_that_the_network_works(server: tuple[str, list[str]]) -> None:
    endpoint, requests = server
    check = doctor.check_network(endpoint, offline=False)
    assert check == Check("network", f"{endpoint} answers", True)
    assert requests == ["HEAD /"]


def test_offline_variables_are_respected_without_trying(server: tuple[str, list[str]]) -> None:
    endpoint, requests = server
    check = doctor.check_network(endpoint, offline=True)
    assert check.ok
    assert "HF_HUB_OFFLINE" in check.value
    assert requests == []


def test_refused_connection_says_why_and_what_works_without() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    check = doctor.check_network(f"http://127.0.0.1:{port}", offline=False)
    assert not check.ok
    assert "refused" in check.value
    assert "The embedded model and downloaded models work without" in check.advice


def test_silent_network_is_given_up_in_time(silent_address: str) -> None:
    started = time.monotonic()
    check = doctor.check_network(silent_address, offline=False, seconds=0.2)
    assert time.monotonic() - started < 5
    assert not check.ok
    assert "cannot be reached" in check.value


def test_name_that_is_looked_up_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, over = threading.Event(), threading.Event()

    def look_up(*arguments: object) -> list:
        asked.set()
        over.wait(30)
        raise socket.gaierror("nobody answered")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    check = doctor.check_network("http://hub.invalid", offline=False, seconds=0.2)
    assert not over.is_set()
    over.set()
    assert asked.is_set()
    assert check.value == "http://hub.invalid cannot be reached: no answer within 0.2 s"


def test_endpoint_of_another_kind_is_refused() -> None:
    check = doctor.check_network("file:///etc", offline=False)
    assert not check.ok
    assert "HF_ENDPOINT is 'file:///etc'" in check.value


@pytest.mark.parametrize("name", ["chromium", "chromium-browser", "google-chrome"])
def test_browser_is_found_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = doctor.check_browser()
    assert (missing.value, missing.ok) == ("not found", False)
    assert "apt-get install chromium" in missing.advice
    program = tmp_path / name
    program.write_text("")
    program.chmod(0o755)
    assert doctor.check_browser() == Check("Chromium", str(program), True, "")
