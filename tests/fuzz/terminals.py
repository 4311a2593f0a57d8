"""``lrqk`` on a pseudo-terminal, as a job of a shell."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import termios
import time
from collections.abc import Sequence
from typing import Any

from fuzz.programs import Program

# The terminal is asked where the cursor is whenever a line is read.
_CURSOR, _PLACE = b"\x1b[6n", b"\x1b[3;1R"


class TerminalProgram(Program):
    """A program on a pseudo-terminal.

    Attributes:
        shown: all that it has written; ``before``: the terminal's modes at its start.
    """

    def __init__(self, arguments: Sequence[object]) -> None:
        self._terminal, self._far = os.openpty()
        self.resize(40, 100)
        self.shown = ""
        self.before = termios.tcgetattr(self._far)
        super().__init__(arguments, self._start, own_group=True)

    def _start(self) -> None:
        os.environ["TERM"] = "xterm"
        os.login_tty(self._far)

    def resize(self, lines: int, columns: int) -> None:
        """Change the window, of which the program is told by SIGWINCH."""
        fcntl.ioctl(self._far, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        """Press keys."""
        with contextlib.suppress(OSError):
            os.write(self._terminal, text.encode())

    def hang_up(self) -> None:
        """Close the terminal's window."""
        os.close(self._terminal)
        self._terminal = -1

    @property
    def modes(self) -> list[Any]:
        """The terminal's modes."""
        return termios.tcgetattr(self._far)

    def pump(self, seconds: float) -> None:
        """See ``Program``; answers the questions about the cursor."""
        deadline = time.monotonic() + seconds
        while True:
            left = max(0.0, deadline - time.monotonic())
            if self._terminal < 0:
                time.sleep(left)
                return
            if not select.select([self._terminal], [], [], left)[0]:
                return
            try:
                data = os.read(self._terminal, 1 << 16)
            except OSError:
                time.sleep(left)
                return
            self.shown += data.decode(errors="replace")
            os.write(self._terminal, _PLACE * data.count(_CURSOR))

    def reads_after(self, text: str) -> bool:
        """Whether a line is read since a text was shown."""
        return self.shown.rfind(_CURSOR.decode()) > self.shown.rfind(text)

    def close(self) -> None:
        """See ``Program``."""
        super().close()
        os.close(self._far)
        if self._terminal >= 0:
            self.hang_up()
