"""What the README says is tried: its lines of Python, its numbers, its commands."""

import importlib
import re
from pathlib import Path

import pytest
from typer.main import get_command

import interp
from interp import cache_commands
from interp.cli import app, questions

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_ten_lines_give_the_numbers_that_are_quoted(capsys):
    ten_lines, sweep, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(ten_lines.strip().splitlines()) == 10
    scope: dict = {}
    exec(ten_lines, scope)
    weight, effect = (float(x) for x in re.findall(r"-?\d+\.\d+", capsys.readouterr().out))
    intact = float(scope["metric"](scope["logits"]))
    quoted = re.search(
        r"The weight is (\S+), and cutting this one edge takes (\S+) of (\S+)", README
    )
    assert quoted is not None
    expected = [float(number) for number in quoted.groups()]
    assert [weight, -effect, intact] == pytest.approx(expected, abs=0.06)
    exec(sweep, scope)
    positions = [int(float(x)) for x in re.findall(r"\d+", capsys.readouterr().out)]
    quoted = re.search(r"layers 0 and 1 \(position (\d+)\), .* layers 2 and 3 \((\d+)\)", README)
    assert quoted is not None
    first, second = map(int, quoted.groups())
    assert positions == [first, first, second, second]


def test_every_command_that_is_named_exists():
    commands = {info.name or info.callback.__name__ for info in app.registered_commands}
    commands |= {group.name for group in app.registered_groups}
    named = re.findall(r"`interp (\w+)(?: (\w+))?", README)
    assert {command for command, _ in named} <= commands
    assert {study for command, study in named if command == "run" and study} == set(questions())
    assert {"./run demo", "./run test"} <= set(re.findall(r"^(\./run \w+)", README, re.MULTILINE))


def test_every_function_that_is_named_exists():
    for module, name in re.findall(r"`interp\.(\w+)\.(\w+)`", README):
        if module != "model":
            assert hasattr(importlib.import_module(f"interp.{module}"), name)


def test_every_file_that_is_linked_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target


def test_the_lines_about_the_store_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    *_, lines = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    command = re.search(r"# interp (cache collect .*)", lines)
    assert command is not None
    with pytest.raises(SystemExit) as ended:
        app(command[1].split())
    assert ended.value.code == 0
    capsys.readouterr()
    exec(lines, {"interp": interp})
    assert re.fullmatch(
        r"\d+ torch.Size\(\[2, 128\]\) \[' black', ' black'\]\n", capsys.readouterr().out
    )


def test_the_page_about_the_store_is_true(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "activation-store.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    interp.store.collect("tiny", ["The black cat is black."] * 40, path="st")
    exec(lines, {})
    options = {
        option
        for command in get_command(cache_commands.app).commands.values()
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert set(re.findall(r"--[a-z][a-z-]+", page)) <= options
