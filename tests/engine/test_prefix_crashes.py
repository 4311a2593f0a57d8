"""Processes that are killed while they write, or that share the cache, do each other no harm."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lrqk_cli.prefix_cache.store import PrefixStore
from lrqk_cli.prefix_cache.tensor_file import TensorFile

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")


def run(what: str, folder: Path, count: int) -> str:
    script = Path(__file__).with_name("prefix_processes.py")
    command = [sys.executable, str(script), what, str(folder), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_writers_may_be_killed_at_any_moment(tmp_path: Path) -> None:
    _, reused = map(int, run("killed", tmp_path / "cache", 100).split())
    assert reused > 5
    # Whatever has its name is whole.
    for found in PrefixStore(tmp_path / "cache").files():
        with TensorFile(found.path) as file:
            for name in file._entries:
                if name != "checksums":
                    file.tensor(name)


def test_two_processes_share_the_cache_while_a_third_deletes_files(tmp_path: Path) -> None:
    assert run("crowd", tmp_path / "cache", 40) == "2 users"
