"""Imports run downwards only, and heavy libraries stay out of the command line's way."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from session_processes import talk

import lrqk_cli
from lrqk_cli.chat.journal import SessionStore

PACKAGE = Path(lrqk_cli.__file__).parent
# Packages of one tier do not import each other.
TIERS = [
    {"__main__"},
    {"cli"},
    {"terminal", "server"},
    {"webpage"},
    {"chat", "bench"},
    {"documents", "engine", "endpoint"},
    {"models", "attention"},
    {"kernels"},
    {"memory", "telemetry", "prefix_cache"},
    {"model_spec", "naming"},
    {"config", "formats", "system_errors", "user_folders"},
    {"connections", "errors", "limited_process", "solver_pool", "upstream"},
]
TIER = {name: number for number, tier in enumerate(TIERS) for name in tier}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem in TIER)


def imported_packages(path: Path) -> set[str]:
    """Return the parts of lrqk_cli that a module imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    found = {name.split(".")[1] for name in names if name.startswith("lrqk_cli.")}
    return found & set(TIER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported_packages(path) - {own}:
        assert TIER[name] > TIER[own], f"{own} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "chat").rglob("*.py")), ids=lambda path: path.name)
def test_a_conversation_draws_nothing(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not {"rich", "prompt_toolkit"} & {name.split(".")[0] for name in named}


def test_no_class_has_the_name_of_another() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")]
    names = [node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [name for name, count in Counter(names).items() if count > 1] == []


def test_no_file_imports_another_in_a_circle() -> None:
    """What is imported inside of functions does not count."""
    files = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    graph = {name: files_imported(path, files) for name, path in files.items()}
    TopologicalSorter(graph).prepare()


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def files_imported(path: Path, known: Mapping[str, Path]) -> set[str]:
    """Return the files of lrqk_cli that a file imports as it is imported itself."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in known else node.module for name in names)
    return (found & known.keys()) - {module_of(path)}


def test_every_package_has_its_tier() -> None:
    found = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert found <= set(TIER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_readable(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 330
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            # A kernel's arguments stand one a line, and are no complexity.
            assert (node.end_lineno or node.lineno) - node.body[0].lineno <= 60, node.name


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["cache"],
        ["cache", "--json"],
        ["cache", "prune"],
        ["cache", "clear", "--yes"],
        ["sessions"],
        ["sessions", "list", "--json"],
        ["sessions", "show", "talk"],
        ["sessions", "search", "question"],
        ["sessions", "export", "talk"],
        ["sessions", "rename", "talk", "other"],
        ["sessions", "remove", "talk", "--yes"],
    ],
    ids=" ".join,
)
def test_help_cache_and_sessions_import_neither_torch_nor_transformers(
    arguments: list[str], tmp_path: Path
) -> None:
    documents = tmp_path / "documents"
    documents.mkdir()
    (documents / "some.block").write_bytes(b"x")
    with SessionStore(tmp_path / "lrqk" / "sessions.sqlite3").open("talk") as journal:
        journal.record(talk(1))
    code = (
        "import sys\n"
        "from lrqk_cli.__main__ import main\n"
        f"try:\n    main({arguments})\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pypdf'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "LRQK_CACHE_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60, env=environment)
