"""``lrqk`` in this process, with folders of its own, and what a user may expect of every run."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple, TextIO

from lrqk_cli.cli.app import main

# Of UsageError and LrqkError and its other subclasses.
_REFUSALS = frozenset({1, 2, 3, 4, 5, 6})
_NEVER = ("Traceback", "Error: Unexpected", "its reader failed")


class Run(NamedTuple):
    """What a run has printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> str:
        """How it was answered."""
        return f"exit {self.code}" if self.code else "done"


def own_folders(folder: Path) -> None:
    """Let nothing of the user's reach the runs, and nothing of theirs the user."""
    for name in [name for name in os.environ if name.startswith("LRQK_")]:
        del os.environ[name]
    os.environ |= {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(folder / "state")}
    os.environ |= {"LRQK_CACHE_DIR": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lrqk(*arguments: object, on_terminal: bool = False) -> Run:
    """Run a command; it must succeed, or refuse with a sentence and say nothing else on stdout.

    Args:
        on_terminal: let it believe that a user types and reads; what is typed the caller has to provide.

    Raises:
        AssertionError: it does neither.
    """
    out, err, stdin = _Terminal() if on_terminal else io.StringIO(), io.StringIO(), sys.stdin
    code = 0
    with redirect_stdout(out), redirect_stderr(err), _stdin(on_terminal) as sys.stdin:
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    sys.stdin = stdin
    run = Run(code, out.getvalue(), err.getvalue())
    assert not any(word in run.err for word in _NEVER), run.err
    if run.code:
        assert run.code in _REFUSALS, run
        assert any(line.startswith("Error: ") for line in run.err.splitlines()), run
    return run


@contextmanager
def _stdin(is_terminal: bool) -> Iterator[TextIO]:
    if not is_terminal:
        with Path(os.devnull).open() as nothing:
            yield nothing
        return
    keyboard, terminal = os.openpty()
    with os.fdopen(keyboard, "wb"), os.fdopen(terminal) as typed:
        yield typed
