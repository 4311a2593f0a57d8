"""Hides typing while output is shown; the terminal keeps it for the next input line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lrqk_cli.terminal.console import stderr_console
from lrqk_cli.terminal.interrupts import in_main_thread

if sys.platform != "win32":
    import termios


@contextmanager
def restored_modes() -> Iterator[None]:
    """Give the terminal its modes back at the end, whatever has not come to that."""
    if sys.platform == "win32" or not _on_terminal():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        # Not if the terminal is gone.
        with suppress(termios.error):
            if termios.tcgetattr(sys.stdin) != before:
                _set_modes(before)


@contextmanager
def hidden_typing(by_key: bool = False) -> Iterator[None]:
    """Switch off the terminal's echo inside this context; keys such as Ctrl-C still work.

    While Ctrl-Z has stopped the process, the terminal has its original modes.

    Args:
        by_key: let what is typed be read at once instead of line by line.
    """
    if sys.platform == "win32" or not _on_terminal():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    hidden = termios.tcgetattr(sys.stdin)
    hidden[3] &= ~(termios.ECHO | termios.ICANON if by_key else termios.ECHO)

    def stop(number: int, _frame: object) -> None:
        _set_modes(before)
        stderr_console().show_cursor(True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Execution continues here after fg.
        signal.signal(number, stop)
        _set_modes(hidden)

    # An outer context, or the parent process, may have its own handler.
    stops = in_main_thread() and signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL
    _set_modes(hidden)
    if stops:
        signal.signal(signal.SIGTSTP, stop)
    try:
        yield
    finally:
        if stops:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        _set_modes(before)


def _on_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _set_modes(modes: list[Any]) -> None:
    """Set the terminal's modes, but not in the background, where that would stop the process."""
    terminal = sys.stdin.fileno()
    with suppress(OSError):  # stdin is not the controlling terminal
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return
    termios.tcsetattr(terminal, termios.TCSANOW, modes)
