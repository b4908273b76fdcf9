"""The set-up script: its stamps, its messages, and what it leaves alone. Nothing is installed."""

import ast
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "run"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the script reads, without an environment."""
    monkeypatch.delenv("INTERP_TORCH", raising=False)
    (tmp_path / "requirements").mkdir()
    for name in ("run", "pyproject.toml", "requirements/dev.txt", "requirements/pip.txt"):
        (tmp_path / name).write_bytes((SCRIPT.parent / name).read_bytes())
    return tmp_path


@pytest.fixture
def run(checkout: Path) -> ModuleType:
    """The copy's script as a module."""
    loader = importlib.machinery.SourceFileLoader("run_script", str(checkout / "run"))
    spec = importlib.util.spec_from_loader("run_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def made(run: ModuleType) -> Path:
    """An environment that looks complete to the script."""
    (run.VENV / "bin").mkdir(parents=True)
    run.PYTHON.symlink_to(sys.executable)
    (run.VENV / run.MADE_BY_RUN).write_text("")
    run.write_stamp(run.VENV, run.PACKAGES_STAMP, run.packages_stamp(run.VENV))
    run.write_stamp(run.VENV, run.PROJECT_STAMP, run.project_stamp(run.VENV))
    return run.VENV


def complete(run: ModuleType) -> tuple[bool, bool]:
    """Whether the packages, and the project, count as installed."""
    return (
        run.up_to_date(run.VENV, run.PACKAGES_STAMP, run.packages_stamp(run.VENV)),
        run.up_to_date(run.VENV, run.PROJECT_STAMP, run.project_stamp(run.VENV)),
    )


def append(path: Path, text: str) -> None:
    path.write_bytes(path.read_bytes() + text.encode())


def test_complete_environment_is_used_as_it_is(run: ModuleType, made: Path) -> None:
    assert complete(run) == (True, True)


def test_missing_environment_is_not_complete(run: ModuleType) -> None:
    assert complete(run) == (False, False)


@pytest.mark.parametrize("lock", ["dev.txt", "pip.txt"])
def test_changed_lock_rebuilds_everything(run: ModuleType, made: Path, lock: str) -> None:
    append(run.ROOT / "requirements" / lock, "# newer\n")
    assert complete(run) == (False, False)


def test_changed_project_reinstalls_only_the_project(run: ModuleType, made: Path) -> None:
    append(run.ROOT / "pyproject.toml", "# newer\n")
    assert complete(run) == (True, False)


def test_other_interpreter_behind_the_environment_rebuilds_everything(
    run: ModuleType, made: Path, tmp_path: Path
) -> None:
    upgraded = tmp_path / "python3"
    upgraded.write_bytes(b"another build")
    run.PYTHON.unlink()
    run.PYTHON.symlink_to(upgraded)
    assert complete(run) == (False, False)


def test_moved_checkout_rebuilds_everything(
    run: ModuleType, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = run.ROOT / "moved"
    moved.mkdir()
    for name in ("requirements", "pyproject.toml", ".venv"):
        (run.ROOT / name).rename(moved / name)
    monkeypatch.setattr(run, "ROOT", moved)
    monkeypatch.setattr(run, "VENV", moved / ".venv")
    assert complete(run) == (False, False)


def test_cut_stamp_counts_as_none(run: ModuleType, made: Path) -> None:
    stamp = made / run.PACKAGES_STAMP
    stamp.write_text(stamp.read_text()[:10])
    assert complete(run) == (False, True)


def test_chosen_torch_is_remembered_and_can_be_reset(
    run: ModuleType, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.torch_spec(made) == run.TORCH == "torch==2.13.0"
    monkeypatch.setenv("INTERP_TORCH", "torch==2.14.0")
    assert run.torch_spec(made) == "torch==2.14.0"
    assert complete(run) == (False, False)
    (made / run.MADE_BY_RUN).write_text("torch==2.12.0\n")
    monkeypatch.delenv("INTERP_TORCH")
    assert run.torch_spec(made) == "torch==2.12.0"
    monkeypatch.setenv("INTERP_TORCH", "")
    assert run.torch_spec(made) == run.TORCH


def test_clearing_keeps_only_the_mark(run: ModuleType, made: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside" / "module.py"
    for path in (outside, made / "lib" / "module.py"):
        path.parent.mkdir()
        path.write_text("")
    (made / "linked").symlink_to(outside.parent)
    run.clear(made)
    assert [path.name for path in made.iterdir()] == [run.MADE_BY_RUN]
    assert outside.exists()
    assert complete(run) == (False, False)


def test_stamps_go_first_when_clearing(
    run: ModuleType, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    for number in range(50):  # a folder's order is not ours to choose; one of these comes early
        (made / f"folder_{number}").mkdir()
    monkeypatch.setattr(run.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run.clear(made)
    assert complete(run) == (False, False)


@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_environment_of_somebody_else_is_left_alone(
    run: ModuleType, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = run.ROOT / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "pyvenv.cfg").write_text("home = somewhere")
    if kind == "folder":
        elsewhere.rename(run.VENV)
    elif kind == "link":
        (elsewhere / run.MADE_BY_RUN).write_text("")
        run.VENV.symlink_to(elsewhere)
    else:
        run.VENV.write_text("a note")
    before = sorted(run.ROOT.rglob("*"))
    with pytest.raises(SystemExit) as ended:
        run.clear(run.VENV)
    assert ended.value.code == 3
    assert "was not made by ./run; move it away and run again" in capsys.readouterr().err
    assert sorted(run.ROOT.rglob("*")) == before


def test_failed_step_leaves_no_stamp_and_names_itself(
    run: ModuleType, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A Python that makes no environment stands in for an installation that fails.
    monkeypatch.setattr(run.sys, "executable", "/bin/false")
    append(run.ROOT / "requirements" / "dev.txt", "# newer\n")
    with pytest.raises(SystemExit) as ended:
        run.set_up()
    assert ended.value.code == 3
    assert "the step 'environment' failed, see above" in capsys.readouterr().err
    assert [path.name for path in made.iterdir()] == [run.MADE_BY_RUN]


def test_steps_do_not_install_elsewhere(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("PIP_TARGET", "PIP_PREFIX", "PYTHONHOME", "PYTHONPATH"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("PIP_USER", "1")
    code = "import os; print(sorted(k for k in os.environ if k.startswith(('PIP_', 'PYTHONP'))))"
    with (run.ROOT / "lock").open("w") as lock:
        run.step(lock.fileno(), "show", [sys.executable, "-c", f"{code}; print(os.environ)"])
    shown = capfd.readouterr().out
    assert "/nowhere" not in shown
    assert "'PIP_USER': '0'" in shown


def test_step_holds_the_lock_as_well(run: ModuleType) -> None:
    with (run.ROOT / "lock").open("w") as lock:
        inode = os.fstat(lock.fileno()).st_ino
        code = f"import os; assert os.fstat({lock.fileno()}).st_ino == {inode}"
        run.step(lock.fileno(), "look", [sys.executable, "-c", code])


def test_unsupported_python_is_told_in_one_line(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(run.sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit) as ended:
        run.use_a_supported_python()
    assert ended.value.code == 3
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "needs Python 3.11 to 3.13; this is 3.9, and the path has no other" in message


def test_another_python_on_the_path_takes_over(
    run: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken, working = tmp_path / "python3.13", tmp_path / "python3.12"
    broken.write_text("#!/bin/sh\nexit 127\n")
    working.symlink_to(sys.executable)
    broken.chmod(0o755)
    taken: list[list[str]] = []
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(run.sys, "version_info", (3, 14, 0))
    monkeypatch.setattr(run.sys, "argv", ["run", "test", "-x"])
    monkeypatch.setattr(run.os, "execv", lambda path, arguments: taken.append([path, *arguments]))
    with pytest.raises(SystemExit):  # the stand-in for execv returns
        run.use_a_supported_python()
    assert taken == [[str(working), str(working), str(run.ROOT / "run"), "test", "-x"]]


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_missing_venv_module_is_told_in_one_line(
    run: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    missing: str,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        run.importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    with pytest.raises(SystemExit) as ended:
        run.install_packages(0)
    assert ended.value.code == 3
    assert capsys.readouterr().err == (
        "./run: this Python cannot make environments; on Debian: apt-get install python3-venv\n"
    )
    assert not run.VENV.exists()


def test_unknown_command_lists_the_commands(checkout: Path) -> None:
    result = call(checkout, "tests")
    assert result.returncode == 2
    assert result.stderr == (
        "./run: there is no command 'tests'; there are: demo, dashboard, test, bench, lint\n"
    )
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_help_names_every_command(run: ModuleType, checkout: Path, arguments: list[str]) -> None:
    result = call(checkout, *arguments)
    assert result.returncode == 0
    for command in run.COMMANDS:
        assert f"./run {command} " in result.stdout


def test_command_runs_in_the_environment_with_its_arguments(
    run: ModuleType, made: Path, checkout: Path
) -> None:
    show = '#!/bin/sh\necho threads=$OMP_NUM_THREADS in=$PWD "$@"\n'
    shim = checkout / "shim"
    shim.write_text(show)
    shim.chmod(0o755)
    run.PYTHON.unlink()
    run.PYTHON.symlink_to(shim)
    run.write_stamp(made, run.PACKAGES_STAMP, run.packages_stamp(made))
    run.write_stamp(made, run.PROJECT_STAMP, run.project_stamp(made))
    elsewhere = checkout / "requirements"
    tests = call(checkout, "test", "-k", "a b", cwd=elsewhere)
    assert tests.stdout == f"threads=1 in={checkout} -m pytest -n 2 -k a b\n"
    demo = call(checkout, "demo", cwd=elsewhere)
    assert demo.stdout == f"threads= in={elsewhere} -m interp demo\n"


def test_lint_runs_every_part_and_ends_with_the_worst_code(
    run: ModuleType, made: Path, checkout: Path
) -> None:
    shim = checkout / "shim"
    shim.write_text('#!/bin/sh\necho "$@"\ncase "$*" in *check\\ .) exit 4;; esac\n')
    shim.chmod(0o755)
    run.PYTHON.unlink()
    run.PYTHON.symlink_to(shim)
    run.write_stamp(made, run.PACKAGES_STAMP, run.packages_stamp(made))
    run.write_stamp(made, run.PROJECT_STAMP, run.project_stamp(made))
    result = call(checkout, "lint")
    assert result.returncode == 4
    assert [line.split()[1] for line in result.stdout.splitlines()] == ["ruff", "ruff", "pyright"]


def test_an_old_python_can_read_the_script() -> None:
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 7))


def test_the_script_needs_only_the_standard_library() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported <= sys.stdlib_module_names


@pytest.mark.parametrize("lock", ["dev.txt", "pip.txt"])
def test_lock_pins_and_hashes_everything_and_names_no_place(lock: str) -> None:
    text = (SCRIPT.parent / "requirements" / lock).read_text(encoding="utf-8")
    for entry in text.replace("\\\n", " ").splitlines():
        assert "==" in entry.split()[0]
        assert "--hash=sha256:" in entry
        assert not entry.startswith(("torch==", "triton", "nvidia-", "cuda-"))
    for place in ("://", "--index", "--find-links", "+cpu", "@ ", "file:"):
        assert place not in text


def call(checkout: Path, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    return subprocess.run(
        [sys.executable, str(checkout / "run"), *arguments],
        cwd=cwd or checkout,
        env=environment,
        capture_output=True,
        text=True,
    )
