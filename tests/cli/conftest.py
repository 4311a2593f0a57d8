"""The command line through its real entry point, away from the user's own settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from lrqk_cli.cli.app import main


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    """No LRQK_ variable, no config file and no cache of the user reaches a test."""
    for name in [name for name in os.environ if name.startswith("LRQK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def run(capfd, monkeypatch) -> Callable[..., Result]:
    """Run ``lrqk`` in this process, with ``stdin`` as a pipe."""

    def run_main(*arguments: object, stdin: str = "") -> Result:
        read, write = os.pipe()
        with os.fdopen(write, "w", encoding="utf-8") as pipe:
            pipe.write(stdin)
        capfd.readouterr()
        with os.fdopen(read, encoding="utf-8") as pipe, monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", pipe)
            with pytest.raises(SystemExit) as exit_:
                main([str(argument) for argument in arguments])
        output = capfd.readouterr()
        return Result(int(exit_.value.code or 0), output.out, output.err)

    return run_main


@pytest.fixture
def run_process() -> Callable[..., Result]:
    """Run ``python -m lrqk_cli`` in a process of its own."""

    def run_module(*arguments: object, stdin: str = "", before: tuple[str, ...] = ()) -> Result:
        command = [sys.executable, *before, "-m", "lrqk_cli", *map(str, arguments)]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    return run_module
