"""A transformers that lrqk was not tested with is told before it is imported, and where it fails."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

import lrqk_cli
from lrqk_cli import upstream

OLD, NEW = "4.30.2", "6.1.0"


@pytest.fixture
def untested(monkeypatch):
    monkeypatch.setattr(upstream, "version", lambda _: NEW)
    upstream.transformers_release.cache_clear()
    yield
    upstream.transformers_release.cache_clear()


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize(
    "arguments",
    [
        ("chat", "absent.pdf", "--prompt", "x"),
        ("chat", "--model", "nowhere", "--prompt", "x", "--quiet"),
        ("bench", "--model", "nowhere"),
        ("bench", "--suite", "ruler", "--model", "nowhere", "--quiet"),
        ("info", "--model", "nowhere"),
        ("models", "pull", "nowhere"),
    ],
)
def test_it_is_named_once_and_before_any_failure(run, arguments):
    first, second, *_ = run(*arguments).err.splitlines()
    assert first.startswith(f"Warning: transformers {NEW} is not among the versions")
    assert "pip install 'transformers>=" in first
    assert second.startswith("Error: ")


@pytest.mark.usefixtures("untested")
def test_it_does_not_get_in_the_way_of_an_answer(run, tiny_model):
    result = run("chat", "--model", tiny_model, "--prompt", "x", "--max-new-tokens", "2")
    assert result.code == 0, result.err
    assert [line.startswith("Warning: transformers") for line in result.err.splitlines()].count(True) == 1


@pytest.mark.usefixtures("untested")
@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("chat", "--help"), ("models",)])
def test_nothing_is_said_where_it_does_not_matter(run, arguments):
    assert run(*arguments).err == ""


@pytest.fixture
def old_transformers(tmp_path, monkeypatch) -> Path:
    """A transformers that lacks all that lrqk imports stands in front of the real one."""
    package, metadata = tmp_path / "transformers", tmp_path / f"transformers-{OLD}.dist-info"
    for folder in (package, metadata):
        folder.mkdir()
    (package / "__init__.py").write_text(f'__version__ = "{OLD}"\n')
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: transformers\nVersion: {OLD}\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    return package


@pytest.mark.usefixtures("old_transformers")
@pytest.mark.parametrize("asked", [("chat", "--prompt", "x"), ("bench", "--ctx", "64")])
def test_what_it_lacks_is_told_in_a_sentence(run_process, tiny_model, asked):
    command, *rest = asked
    result = run_process(command, "--model", tiny_model, *rest)
    assert result.code == 4
    assert result.out == ""
    warning, *_, error, hint = result.err.splitlines()
    assert warning.startswith(f"Warning: transformers {OLD} is not among the versions")
    assert error.startswith("Error: The installed transformers cannot be used: ")
    assert hint.startswith("Hint: Run: pip install 'transformers>=")
    assert "Traceback" not in result.err


@pytest.mark.usefixtures("untested")
def test_a_program_that_attaches_is_warned_once(monkeypatch):
    monkeypatch.delitem(vars(lrqk_cli), "attach", raising=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from lrqk_cli import attach

        assert lrqk_cli.attach is attach
    (warning,) = caught
    assert NEW in str(warning.message)
    assert warning.filename == __file__


def test_a_program_with_a_tested_release_is_not_warned(monkeypatch):
    monkeypatch.delitem(vars(lrqk_cli), "attach", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert callable(lrqk_cli.attach)
