"""The memory of a process and its forks, as the system counts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from lrqk_cli.documents.resident import ResidentMemory

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")

_MIB = 1 << 20
_FORKS = 3
_PROGRAM = """
import os, sys
own, of_each = (int(word) << 20 for word in sys.argv[1:])
shared = b"x" * own
for _ in range({forks}):
    ready, done = os.pipe()
    if not os.fork():
        held = b"y" * of_each
        os.write(done, b".")
        sys.stdin.buffer.read()
        os._exit(0)
    os.read(ready, 1)
print("ready", flush=True)
sys.stdin.buffer.read()
"""


@contextmanager
def running(own_mib: int, of_each_mib: int) -> Iterator[psutil.Process]:
    """A process that holds some memory before it forks, and forks that hold some more each."""
    command = [sys.executable, "-c", _PROGRAM.format(forks=_FORKS), str(own_mib), str(of_each_mib)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        watched = psutil.Process(process.pid)
        forks = watched.children()
        yield watched
        assert process.stdin is not None
        process.stdin.close()
    psutil.wait_procs(forks)


def test_what_forks_share_counts_once() -> None:
    with running(200, 0) as process:
        memory = ResidentMemory(process)
        assert not memory.is_above(300 * _MIB)
        assert memory.is_above(200 * _MIB)


def test_forks_that_exceed_together_what_none_does_alone_are_above() -> None:
    with running(0, 100) as process:
        assert all(fork.memory_info().rss < 150 * _MIB for fork in process.children())
        memory = ResidentMemory(process)
        assert memory.is_above(_FORKS * 100 * _MIB)
        assert not memory.is_above((_FORKS * 100 + 100) * _MIB)


def test_a_process_that_has_ended_holds_nothing() -> None:
    with running(0, 0) as process:
        memory = ResidentMemory(process)
        assert memory.is_above(_MIB)
    assert not memory.is_above(0)
