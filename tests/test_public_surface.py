"""`import interp`: what it offers, that all of it is there, and how little it costs."""

import re
import tomllib
from pathlib import Path

import pytest

import interp
from tests.test_architecture import HEAVY
from tests.test_checkpoints import run_child

ROOT = Path(interp.__file__).resolve().parent
NOT_OFFERED = {"__init__", "__main__", "cli", "doctor", "model"}
"""Modules that people run or that stay behind the names of the surface."""


def test_every_name_can_be_had() -> None:
    assert {"load", "HookedGPT2", "ModelConfig", "ActivationCache"} <= set(interp.__all__)
    assert {"Tokenizer", "save_huggingface", "available_models"} <= set(interp.__all__)
    for name in interp.__all__:
        assert getattr(interp, name) is not None
        assert name in dir(interp)


def test_every_module_is_offered() -> None:
    files = {path.stem for path in ROOT.glob("*.py")}
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    missing = (files | packages) - NOT_OFFERED - set(interp.__all__)
    assert not missing, "add these to both lists of interp/__init__.py"


def test_type_checkers_see_the_same_names() -> None:
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert sorted(re.findall(r"import (\w+) as \1\n", source)) == sorted(interp.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_thing"):
        interp.no_such_thing  # noqa: B018


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    assert interp.__version__ == project["project"]["version"]


def test_loading_and_running_the_embedded_model_imports_nothing_heavy() -> None:
    printed = run_child(f"""
        import sys
        import interp
        model = interp.load()
        logits, cache = model.run_with_cache("I love the color black")
        cache["pattern", 0]
        print([name for name in {HEAVY!r} if name in sys.modules])
    """)
    assert printed.strip() == "[]"
