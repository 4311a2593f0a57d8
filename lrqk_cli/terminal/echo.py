"""What is typed while something is shown is kept for the next line, and not echoed in the middle of it."""

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
def hidden_typing() -> Iterator[None]:
    """Let the terminal not echo, inside this context; keys such as Ctrl-C work as always.

    While Ctrl-Z has stopped the process, the terminal is as it was before.
    """
    if sys.platform == "win32" or not sys.stdin.isatty():
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    hidden = termios.tcgetattr(sys.stdin)
    hidden[3] &= ~termios.ECHO

    def stop(number: int, _frame: object) -> None:
        _set_modes(before)
        stderr_console().show_cursor(True)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        # Here it goes on, with fg.
        signal.signal(number, stop)
        _set_modes(hidden)

    # An outer context, or whoever started this, has its own.
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


def _set_modes(modes: list[Any]) -> None:
    """Set the terminal's modes, unless in the background, where that would stop the process."""
    terminal = sys.stdin.fileno()
    with suppress(OSError):  # where it is not the terminal that controls this process
        if os.tcgetpgrp(terminal) != os.getpgrp():
            return
    termios.tcsetattr(terminal, termios.TCSANOW, modes)
