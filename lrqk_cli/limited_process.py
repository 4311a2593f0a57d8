"""Computes with untrusted data in a separate process, which is stopped if it takes too much time or memory.

Some libraries do not return to Python before they are done, and some crash, so only the operating system can
stop them.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time

EXIT_TOO_MUCH = 3
# For systems without resource limits; includes the start of the process.
_WALL_SECONDS = 60

# The child gets the paths of this process: isolated mode would ignore PYTHONPATH, and any other mode would
# search the current folder first, which may hold untrusted modules.
_START = (
    "import sys; sys.path[:] = {!r}; from lrqk_cli.limited_process import end_with; end_with({}); "
    "from {} import main; main({})"
)
_WATCH_S = 0.5


class TooMuchError(Exception):
    """The process was stopped, or crashed."""


class FailedProcessError(Exception):
    """The process failed; the text is the last line that it wrote."""


def run_limited(module: str, request: str, cpu_seconds: int) -> str:
    """Call ``main(cpu_seconds)`` of a module in a separate process; return what it writes to stdout.

    It calls ``limit_resources`` before it computes, and exits with ``EXIT_TOO_MUCH`` where it sees a limit
    itself.

    Args:
        request: what it reads from stdin.

    Raises:
        TooMuchError: it takes too much, or crashes.
        FailedProcessError: it fails in another way, because of the installation.
    """
    command = [sys.executable, "-I", "-c", _START.format(sys.path, os.getpid(), module, cpu_seconds)]
    # More threads, and more arenas for them, would reserve memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    try:
        done = subprocess.run(
            command,
            input=request,
            capture_output=True,
            encoding="utf-8",
            env=environment,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TooMuchError from None
    # A resource limit of the system ends the process by a signal.
    if done.returncode == EXIT_TOO_MUCH or done.returncode < 0:
        raise TooMuchError
    if done.returncode != 0:
        raise FailedProcessError((done.stderr.strip().splitlines() or ["no reason was given"])[-1])
    return done.stdout


def end_with(parent: int) -> None:
    """Let this process end when its parent has ended, however that was; nothing on Windows.

    Args:
        parent: the number of its process.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    if sys.platform == "win32":  # a process there keeps the number of a parent that has ended
        return
    while os.getppid() == parent:
        time.sleep(_WATCH_S)
    os._exit(1)


def limit_resources(cpu_seconds: int, memory_bytes: int) -> None:
    """Let the system end this process when it has computed or reserved so much; nothing on Windows."""
    with contextlib.suppress(ImportError):
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        for kind, limit in (
            (resource.RLIMIT_CPU, int(used) + cpu_seconds),
            (resource.RLIMIT_AS, memory_bytes),
            (resource.RLIMIT_CORE, 0),
        ):
            # The system may have a lower limit, or not support this one.
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (limit, limit))
