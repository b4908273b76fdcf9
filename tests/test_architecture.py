"""The house rules, read from the source with `ast`: imports, sizes and forbidden calls.

`ROWS` is the table of the house. A file imports only from rows above its own; inside a row, only
from modules listed earlier whose row says `shared` about them. A new file needs a place in the
table: put it in the highest row that holds everything it imports.
"""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("interp", "dashboards", "analyses", "benchmarks")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60


@dataclass(frozen=True)
class Row:
    """One row of the house."""

    modules: tuple[str, ...]
    """Module names in order; `*` at the end of a name stands for every module of that package."""
    shared: tuple[str, ...]
    """Patterns of the modules that later modules of the same row may import."""


ROWS = (
    Row(
        modules=(
            "interp.errors",
            "interp.memory",
            "interp.progress",
            "interp.sites",
            "interp.model.formula",
            "interp.model.hooks",
            "interp.model.config",
            "interp.model.tokens",
            "interp.metrics",
        ),
        shared=("*",),
    ),
    Row(
        modules=(
            "interp.model.cache",
            "interp.model.key_values",
            "interp.model.running",
            "interp.model.generation",
            "interp.model.stacked",
            "interp.model.protocol",
            "interp.model.huggingface",
            "interp.model.gpt2",
        ),
        shared=("*",),
    ),
    Row(
        modules=(
            "interp.model.safety",
            "interp.model.checkpoints",
            "interp.model.hub",
            "interp.model.nanogpt",
            "interp.model.tokenizer_files",
            "interp.model.saving",
            "interp.model.weights",
            "interp.model.token_paths",
            "interp.model.bridged_cache",
            "interp.model.bridged",
            "interp.model.bridge",
            "interp.model.loading",
            "interp.tiny",
            "interp.tiny.lexicon",
            "interp.tiny.language",
            "interp.tiny.tokenizer",
            "interp.tiny.batches",
            "interp.tiny.checkpoint",
            "interp.tiny.evaluate",
            "interp.tiny.card",
            "interp.tiny.train",
            "interp.pairs",
            "interp.results",
            "interp.derivatives",
            "interp.patched_patterns",
            "interp.attention_edges",
            "interp.prompts.templates",
            "interp.prompts.prompt_pairs",
            "interp.prompts.drawing",
            "interp.prompts.files",
            "interp.prompts.years",
            "interp.prompts.studies",
            "interp.prompts.exchanges",
            "interp.prompts.references",
            "interp.prompts",
        ),
        shared=("*",),
    ),
    Row(
        modules=(
            "interp.statistics",
            "interp.predictions",
            "interp.patterns",
            "interp.base_run",
            "interp.continuation",
            "interp.branches",
            "interp.patching",
            "interp.ablation",
            "interp.path_patching",
            "interp.causal_tracing",
            "interp.gradients",
            "interp.logit_attribution",
            "interp.logit_lens",
            "interp.attention",
            "interp.heads",
            "interp.head_circuits",
        ),
        shared=("interp.base_run", "interp.continuation", "interp.branches"),
    ),
    Row(
        modules=(
            "interp.agreement",
            "interp.differences",
            "interp.edge_steps",
            "interp.edge_tests",
            "interp.writing",
            "interp.effects",
            "interp.residual_stream",
            "interp.causal_facts",
            "interp.published.facts",
            "interp.published.single_prompts",
            "interp.published.indirect_object",
            "interp.published.named_heads",
            "interp.published.head_scores",
            "interp.published.other_studies",
            "interp.published.table",
            "interp.published",
            "interp.path_tracing",
            "interp.head_classes",
            "interp.circuits",
            "interp.faithfulness",
            "interp.store.naming",
            "interp.store.sealed",
            "interp.store.records",
            "interp.store.durable",
            "interp.store.object_files",
            "interp.store.files",
            "interp.store.moments",
            "interp.store.shard_layout",
            "interp.store.shards",
            "interp.store.commits",
            "interp.store.attempts",
            "interp.store.texts",
            "interp.store.sequences",
            "interp.store.thinning",
            "interp.store.plan",
            "interp.store.spec",
            "interp.store.casting",
            "interp.store.planned",
            "interp.store.status",
            "interp.store.recording",
            "interp.store.writer",
            "interp.store.workers",
            "interp.store.slurm_runner",
            "interp.store.ray_runner",
            "interp.store.preflight",
            "interp.store.preparing",
            "interp.store.collecting",
            "interp.store.recent",
            "interp.store.index",
            "interp.store.collected",
            "interp.store.order",
            "interp.store.shuffle",
            "interp.store.views",
            "interp.store.reader",
            "interp.store.documents",
            "interp.store.exports",
            "interp.store.upkeep",
            "interp.store.catalogue",
            "interp.store",
            "interp.probes",
            "interp.features",
            "interp.sparse_autoencoder",
            "interp.splicing",
        ),
        shared=("*",),
    ),
    Row(
        modules=("interp.charts", "interp.maps", "interp.pictures", "interp.report"), shared=("*",)
    ),
    Row(
        modules=(
            "dashboards",
            "dashboards.settings",
            "dashboards.turns",
            "dashboards.jobs",
            "dashboards.service",
            "dashboards.state",
            "dashboards.glossary",
            "dashboards.pages",
            "dashboards.examples",
            "dashboards.measurements",
            "dashboards.measurements.basics",
            "dashboards.measurements.costs",
            "dashboards.measurements.references",
            "dashboards.measurements.*",
            "dashboards.focus",
            "dashboards.snippets",
            "dashboards.components",
            "dashboards.components.prose",
            "dashboards.components.controls",
            "dashboards.components.canvas",
            "dashboards.components.token_strip",
            "dashboards.components.copy_link",
            "dashboards.components.long_work",
            "dashboards.components.figure",
            "dashboards.components.*",
            "dashboards.readings",
            "dashboards.readings.*",
            "dashboards.components.head_circuits",
            "dashboards.model_line",
            "dashboards.frame",
            "dashboards.views",
            "dashboards.views.*",
            "dashboards.app",
            "dashboards.doorkeeper",
            "dashboards.launch",
            "analyses",
            "analyses._stored",
            "analyses._probed_sentences",
            "analyses._probed_directions",
            "analyses._sae_rows",
            "analyses._sae_features",
            "analyses._sweeps",
            "analyses._patching_sections",
            "analyses._binding_search",
            "analyses._binding_tests",
            "analyses.colour_binding",
            "analyses.ioi",
            "analyses._card",
            "analyses.*",
        ),
        # The card is composed of two studies.
        shared=(
            "dashboards",
            "dashboards.*",
            "analyses._*",
            "analyses.colour_binding",
            "analyses.ioi",
        ),
    ),
    Row(
        modules=(
            "interp.doctor",
            "interp.cache_commands",
            "interp.cli",
            "interp.__main__",
            "benchmarks",
            "benchmarks.*",
        ),
        shared=("interp.*", "benchmarks", "benchmarks.*"),
    ),
)
FIRST_ROW_ABOVE_THE_LIBRARY = 6
"""Index of the row of dashboards and analyses; from there on, `import interp` is allowed."""

FACADES = ("interp", "interp.model", "interp.store")
"""Packages whose `__init__` names the public surface lazily and imports nothing of ours."""

OWNERS = {
    "transformer_lens": ("interp.model.bridge", "benchmarks*"),
    "streamlit": ("dashboards*",),
    "ray": ("interp.store.ray_runner", "benchmarks*"),
    "nnsight": ("benchmarks*",),
}
"""Heavy libraries and the only modules that may import them."""

HEAVY = ("transformers", "transformer_lens", "streamlit", "ray", "altair", "pandas", "xarray")
"""What `import interp` must not load."""


@dataclass(frozen=True)
class Import:
    """One import statement, or one call that imports."""

    target: str
    line: int


def position(module: str) -> tuple[int, int] | None:
    """Row and place of a module in the table; None when it has none."""
    for exact in (True, False):
        for row, content in enumerate(ROWS):
            for place, pattern in enumerate(content.modules):
                if module == pattern if exact else fnmatchcase(module, pattern):
                    return row, place
    return None


def module_name(path: Path) -> str:
    """`interp/model/gpt2.py` -> `interp.model.gpt2`; a package's `__init__` is the package."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def ours(module: str) -> bool:
    return module.split(".")[0] in (*PACKAGES, "tests")


def typing_only_nodes(tree: ast.AST) -> set[ast.AST]:
    """Every node inside an `if TYPE_CHECKING:` block."""
    guarded = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    )
    return {inner for node in guarded for child in node.body for inner in ast.walk(child)}


def imports(tree: ast.AST, module: str, known: Iterable[str]) -> Iterator[Import]:
    """All imports of a file, also inside functions, resolved to modules where `known` has them."""
    known = set(known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                source = ".".join([*parents, source]).rstrip(".")
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield Import(full if full in known else source, node.lineno)
        elif isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func)
            importing = ("importlib.import_module", "import_module", "__import__")
            argument = node.args[0]
            if called in (*importing, "lazy_loader.load", "lazy.load") and isinstance(
                argument, ast.Constant
            ):
                yield Import(str(argument.value), node.lineno)


def forbidden_import(module: str, target: str) -> str | None:
    """Why `module` may not import `target`; None when it may."""
    root = target.split(".")[0]
    if root in OWNERS and not any(fnmatchcase(module, owner) for owner in OWNERS[root]):
        return f"only {' and '.join(OWNERS[root])} may import {root}"
    if not ours(target):
        return None
    if root == "tests":
        return "nothing that ships may import the tests"
    if root in ("dashboards", "analyses") and module.split(".")[0] != root:
        return None if module == "interp.cli" else f"only interp.cli may import {root}"
    here, there = position(module), position(target)
    if here is None:
        return None  # reported by unplaced(), once a file
    if target in FACADES:
        allowed = here[0] >= FIRST_ROW_ABOVE_THE_LIBRARY
        return None if allowed else f"name the file that defines it instead of {target}"
    if there is None:
        return f"{target} has no place in ROWS"
    if there[0] > here[0]:
        return f"row {here[0] + 1} may not import from row {there[0] + 1}"
    if there[0] == here[0] and module.split(".")[0] != "benchmarks":
        if not any(fnmatchcase(target, pattern) for pattern in ROWS[here[0]].shared):
            return f"modules of row {here[0] + 1} do not import {target}"
        if there[1] >= here[1]:
            return f"{target} does not stand before {module} in row {here[0] + 1}"
    return None


def import_findings(source: str, path: Path, known: Iterable[str]) -> list[str]:
    """Every import that breaks the table."""
    module, tree = module_name(path), ast.parse(source)
    # The package itself is in the way of a relative import from its own __init__.
    base = f"{module}.__init__" if path.name == "__init__.py" else module
    skipped = typing_only_nodes(tree) if module in FACADES else set()
    lines_skipped = {node.lineno for node in skipped if isinstance(node, ast.stmt)}
    findings = []
    for found in imports(tree, base, known):
        if module in FACADES:
            eager = ours(found.target) and found.line not in lines_skipped
            why = "a package's surface is attached with lazy_loader" if eager else None
        else:
            why = forbidden_import(module, found.target)
        if why:
            findings.append(f"{path}:{found.line}: imports {found.target}: {why}")
    return findings


def unplaced(module: str) -> str | None:
    """A message for a file that the table does not know."""
    if position(module) or module in FACADES:
        return None
    return (
        f"{module} has no place in the house: add it to ROWS in tests/test_architecture.py, "
        "in the highest row that holds everything it imports"
    )


def size_findings(source: str, path: Path) -> list[str]:
    """Files and functions over the caps."""
    findings = []
    n_lines = len(source.splitlines())
    if n_lines > MAX_FILE_LINES:
        findings.append(f"{path}: {n_lines} lines, at most {MAX_FILE_LINES}: split it")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            n_lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if n_lines > MAX_FUNCTION_LINES:
                findings.append(
                    f"{path}:{node.lineno}: {node.name} has {n_lines} lines, "
                    f"at most {MAX_FUNCTION_LINES}: split it"
                )
    return findings


def print_findings(source: str, path: Path) -> list[str]:
    """Calls of print."""
    return [
        f"{path}:{node.lineno}: prints; return the value, interp.cli prints it"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "builtins.print")
    ]


PICKLING = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
FORBIDDEN_KEYWORDS = {
    "weights_only": (False, "a checkpoint could run code"),
    "trust_remote_code": (True, "a checkpoint could run code"),
    "allow_pickle": (True, "a file could run code"),
    "unsafe_allow_html": (True, "text of a prompt would become markup"),
    "unsafe_allow_javascript": (True, "text of a prompt would become a script"),
    "persist": ("disk", "Streamlit would store pickles"),
}


def danger_findings(source: str, path: Path) -> list[str]:
    """Ways to run foreign code, to turn text into markup, and to swallow errors."""
    findings = []

    def note(node: ast.expr | ast.stmt | ast.ExceptHandler, what: str) -> None:
        findings.append(f"{path}:{node.lineno}: {what}")

    tree = ast.parse(source)
    for found in imports(tree, module_name(path), ()):
        if found.target.split(".")[0] in PICKLING:
            findings.append(f"{path}:{found.line}: imports {found.target}: pickles run code")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            for name, (value, why) in FORBIDDEN_KEYWORDS.items():
                given = keywords.get(name)
                if isinstance(given, ast.Constant) and given.value == value:
                    note(node, f"{name} is {value!r}: {why}")
            if called in ("eval", "exec"):
                note(node, f"{called} runs text as code")
            if called == "torch.load" and "weights_only" not in keywords:
                note(node, "torch.load needs an explicit weights_only")
        elif isinstance(node, ast.ExceptHandler):
            if node.type is None:
                note(node, "a bare except also catches Streamlit's stop signal")
            elif ast.unparse(node.type) in ("Exception", "BaseException") and all(
                isinstance(statement, ast.Pass) for statement in node.body
            ):
                note(node, "swallows every error")
    return findings


def undeclared(source: str, path: Path, declared: set[str]) -> list[str]:
    """Libraries that are imported and not declared; `declared` holds normalised names."""
    names = distributions()
    findings = []
    for found in imports(ast.parse(source), module_name(path), ()):
        root = found.target.split(".")[0]
        if not root or ours(root) or root in sys.stdlib_module_names:
            continue
        if not {normalised(name) for name in names.get(root, [root])} & declared:
            findings.append(f"{path}:{found.line}: pyproject.toml does not declare {root}")
    return findings


@cache
def distributions() -> Mapping[str, list[str]]:
    """Which distributions bring an importable name; reading them takes a second."""
    return importlib.metadata.packages_distributions()


def normalised(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared_libraries() -> set[str]:
    """What pyproject.toml asks for, with the extras that are used at run time."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *extras["ray"], *extras["export"], *extras["bench"]]
    return {normalised(re.match(r"[\w.-]+", line)[0]) for line in requirements}


def source_files() -> list[Path]:
    """The Python files that ship or are run, relative to the root."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path.relative_to(ROOT) for path in files)


FILES = source_files()
KNOWN = {module_name(path) for path in FILES}
in_every_file = pytest.mark.parametrize("path", FILES, ids=str)


@in_every_file
def test_file_has_a_place_and_imports_only_what_it_may(path: Path) -> None:
    findings = import_findings((ROOT / path).read_text(encoding="utf-8"), path, KNOWN)
    missing = unplaced(module_name(path))
    assert [*filter(None, [missing]), *findings] == []


@in_every_file
def test_file_and_functions_stay_small(path: Path) -> None:
    assert size_findings((ROOT / path).read_text(encoding="utf-8"), path) == []


@in_every_file
def test_file_has_no_dangerous_call(path: Path) -> None:
    assert danger_findings((ROOT / path).read_text(encoding="utf-8"), path) == []


@in_every_file
def test_file_imports_only_declared_libraries(path: Path) -> None:
    source = (ROOT / path).read_text(encoding="utf-8")
    assert undeclared(source, path, declared_libraries()) == []


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.parts[0] == "interp" and path.name != "cli.py"], ids=str
)
def test_library_file_does_not_print(path: Path) -> None:
    assert print_findings((ROOT / path).read_text(encoding="utf-8"), path) == []


def test_importing_interp_loads_no_heavy_library() -> None:
    code = f"import sys, interp; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# The checker itself: each rule catches a planted violation.

PLANTED_KNOWN = {module for row in ROWS for module in row.modules} | {
    "dashboards.views.heads",
    "dashboards.views.patching",
    "analyses.ioi",
    "analyses.induction",
    "benchmarks.speed",
}


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("interp.metrics", "from interp.model import gpt2", "row 1 may not import from row 2"),
        ("interp.metrics", "def f():\n    import interp.patching", "may not import from row 4"),
        ("interp.model.hooks", "from .gpt2 import HookedGPT2", "may not import from row 2"),
        ("interp.model.config", "from interp import metrics", "does not stand before"),
        ("interp.heads", "from interp.attention import explain", "do not import interp.attention"),
        ("interp.patching", "from interp.statistics import mean", "do not import"),
        ("interp.branches", "import interp.branches", "does not stand before"),
        ("interp.store.spec", "from interp.store import writer", "does not stand before"),
        ("interp.patching", "import interp", "name the file that defines it"),
        ("interp.charts", "from interp.model import HookedGPT2", "name the file that defines it"),
        ("interp.report", "import dashboards.app", "only interp.cli may import dashboards"),
        ("interp.doctor", "from analyses import ioi", "only interp.cli may import analyses"),
        ("dashboards.app", "import analyses.ioi", "only interp.cli may import analyses"),
        ("dashboards.views.heads", "from dashboards.views import patching", "does not stand"),
        ("analyses.ioi", "from analyses import induction", "do not import analyses.induction"),
        ("interp.cli", "import benchmarks.speed", "does not stand before"),
        ("interp.cli", "from tests import conftest", "may import the tests"),
        ("interp.patching", "import transformer_lens", "only interp.model.bridge"),
        ("interp.charts", "import streamlit as st", "only dashboards*"),
        ("interp.heads", "importlib.import_module('ray.data')", "may import ray"),
        ("interp.heads", "lazy_loader.load('transformer_lens')", "may import transformer_lens"),
        ("interp.heads", "from interp.colours import palette", "has no place in ROWS"),
        ("interp", "from interp.patching import sweep", "attached with lazy_loader"),
        ("interp.model", "from . import gpt2", "attached with lazy_loader"),
    ],
)
def test_checker_refuses_import(module: str, source: str, why: str) -> None:
    path = planted_path(module)
    findings = import_findings(source, path, PLANTED_KNOWN)
    assert len(findings) == 1
    assert why in findings[0]
    assert str(path) in findings[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("interp.model.gpt2", "from interp.model.cache import ActivationCache"),
        ("interp.model.gpt2", "from interp.model import hooks, tokens"),
        ("interp.patching", "from interp.branches import run_branches\nimport torch"),
        ("interp.heads", "from interp.prompts import repeated"),
        ("interp.model.bridge", "from transformer_lens.model_bridge import TransformerBridge"),
        ("interp.published", "from .table import measure_all"),
        ("interp.cli", "import interp\nfrom dashboards import launch\nimport analyses.ioi"),
        ("dashboards.views.heads", "import streamlit\nimport interp\nfrom dashboards import state"),
        ("analyses.ioi", "import interp\nfrom interp import charts, report"),
        ("benchmarks.speed", "import transformer_lens, nnsight\nfrom benchmarks import table"),
        ("interp", "import lazy_loader as lazy"),
        ("interp", "if TYPE_CHECKING:\n    from interp.patching import sweep"),
    ],
)
def test_checker_accepts_import(module: str, source: str) -> None:
    known = PLANTED_KNOWN | {"benchmarks.table"}
    assert import_findings(source, planted_path(module), known) == []


def planted_path(module: str) -> Path:
    parts = module.split(".")
    is_package = any(known.startswith(f"{module}.") for known in PLANTED_KNOWN)
    return Path(*parts, "__init__.py") if is_package else Path(*parts).with_suffix(".py")


def test_checker_asks_for_a_place_for_a_new_file() -> None:
    message = unplaced("interp.colours")
    assert message is not None
    assert "add it to ROWS in tests/test_architecture.py" in message
    assert unplaced("interp.patching") is None
    assert unplaced("dashboards.views.anything") is None


def test_checker_finds_what_is_too_long() -> None:
    path = Path("interp/patching.py")
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    longest = "class A:\n    def f(self):\n" + "        x = 1\n" * (MAX_FUNCTION_LINES - 1)
    assert size_findings("x = 1\n" * MAX_FILE_LINES, path) == []
    assert "501 lines" in size_findings("x = 1\n" * (MAX_FILE_LINES + 1), path)[0]
    assert size_findings(longest, path) == []
    assert "f has 61 lines" in size_findings(longest + "        x = 1\n", path)[0]
    assert "g has 61 lines" in size_findings("async def g():\n" + body, path)[0]


def test_checker_finds_print() -> None:
    path = Path("interp/patching.py")
    assert len(print_findings("def f():\n    print('x')", path)) == 1
    assert print_findings("table.print()\nx = 'print(1)'", path) == []


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("torch.load(path, weights_only = False)", "run code"),
        ("torch.load(path)", "explicit weights_only"),
        ("AutoModel.from_pretrained(x, trust_remote_code = True)", "run code"),
        ("np.load(path, allow_pickle=True)", "run code"),
        ("import pickle", "pickles run code"),
        ("def f():\n    from dill import load", "pickles run code"),
        ("st.markdown(text, unsafe_allow_html=True)", "markup"),
        ("st.html(text, unsafe_allow_javascript=True)", "script"),
        ("st.cache_data(persist='disk')", "pickles"),
        ("eval(text)", "text as code"),
        ("try:\n    f()\nexcept :\n    g()", "bare except"),
        ("try:\n    f()\nexcept Exception:\n    pass", "swallows every error"),
    ],
)
def test_checker_finds_danger(source: str, why: str) -> None:
    findings = danger_findings(source, Path("interp/patching.py"))
    assert len(findings) == 1
    assert why in findings[0]


def test_checker_leaves_harmless_code_alone() -> None:
    source = (
        "torch.load(path, weights_only=True)\n"
        "from_pretrained(x, trust_remote_code=False)\n"
        "json.load(f)\n"
        "try:\n    f()\nexcept OSError:\n    pass\n"
    )
    assert danger_findings(source, Path("interp/patching.py")) == []


def test_checker_finds_undeclared_library() -> None:
    path = Path("interp/patching.py")
    declared = {"lazy-loader", "pytest"}
    assert undeclared("import os, lazy_loader\nfrom interp import metrics", path, declared) == []
    assert "does not declare hypothesis" in undeclared("import hypothesis", path, declared)[0]
    assert "does not declare absent" in undeclared("import absent.part", path, declared)[0]


def test_declared_libraries_are_read_with_their_extras() -> None:
    assert {"torch", "huggingface-hub", "ray", "nnsight"} <= declared_libraries()
    assert "pytest" not in declared_libraries()
