"""The commands as a person types them, each in its own process."""

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "pandas", "altair", "streamlit", "xarray")


def interp(*arguments: str, cwd=None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "interp", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['interp', '--help']\n"
        "from interp.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY} if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "[]"
    assert "demo" in result.stdout


def test_studies_are_listed_with_their_questions():
    result = interp("run")
    assert result.returncode == 0
    studies = ("black_cat", "generate", "heads", "induction", "logit_lens", "patching", "sqrt_dk")
    for name in studies:
        assert name in result.stdout
    assert "_patching" not in result.stdout
    assert 'Does "cat" attend to "black"' in result.stdout


def test_the_options_of_a_study_are_explained():
    result = interp("run", "black_cat", "--help")
    assert result.returncode == 0
    assert "--query-occurrence" in result.stdout
    assert "--out" in result.stdout
    assert "progress" not in result.stdout


def test_demo_prints_the_answer_and_writes_the_report(tmp_path):
    result = interp("demo", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "The edge matters" in result.stdout
    assert "200 sentences" in result.stdout
    run = json.loads((tmp_path / "reports/demo/run.json").read_text())
    assert run["command"] == "interp demo"
    assert run["settings"]["model"] == "tiny"
    assert (tmp_path / "reports/demo/report.html").is_file()


def test_a_study_takes_options(tmp_path):
    result = interp(
        "run", "black_cat", "--query", "dog", "--key", "red", "--sentences", "0",
        "--text", "I love the color red, I hope someday to have a dog like that.",
        "--out", str(tmp_path), "--pictures",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "the_question_q_and_the_key_k_1.png").is_file()
    settings = json.loads((tmp_path / "run.json").read_text())["settings"]
    assert (settings["query"], settings["key"]) == ("dog", "red")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "black_cat", "--query", "zebra"), "'zebra' is not in the text"),
        (("run", "no_such_study"), "There is no study 'no_such_study'"),
        (("run", "black_cat", "--model", "./no/such/folder"), "no/such/folder"),
    ],
)
def test_mistakes_are_one_message_and_leave_nothing_behind(tmp_path, arguments, message):
    result = interp(*arguments, cwd=tmp_path)
    assert result.returncode in (2, 3, 4)
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("a file")
    result = interp("run", "black_cat", "--sentences", "0", "--out", str(tmp_path / "taken/here"))
    assert result.returncode == 2
    assert "cannot be written to" in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr


def test_models_and_doctor_say_what_there_is():
    models, doctor = interp("models"), interp("doctor")
    assert "tiny" in models.stdout
    assert "gpt2-xl" in models.stdout
    assert "torch" in doctor.stdout
    assert (models.returncode, doctor.returncode) == (0, 0)
