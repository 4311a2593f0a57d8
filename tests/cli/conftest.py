"""The command line through its real entry point, away from the user's own settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lrqk_cli.chat import keeping
from lrqk_cli.cli.app import main
from lrqk_cli.engine import prefix


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def clean_environment(tmp_path, monkeypatch):
    """No LRQK_ variable, no config file, no cache and no session of the user reaches a test."""
    for name in [name for name in os.environ if name.startswith("LRQK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LRQK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def short_texts_are_stored(monkeypatch):
    """Short texts are worth storing in the prefix cache, in several blocks."""
    monkeypatch.setattr(keeping, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(prefix, "BLOCK_TOKENS", 64)


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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """The folder of a random Llama with a chat template; its tokens are bytes, its context is 4,096."""
    from tiny import save_tiny_chat_model

    return save_tiny_chat_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def changed_model(tiny_model, tmp_path) -> Callable[..., Path]:
    """A copy of the tiny model with another config."""

    def copy(**changes: object) -> Path:
        folder = tmp_path / "changed"
        shutil.copytree(tiny_model, folder)
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return folder

    return copy
