"""Shows an answer while it is generated."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable

from rich.console import Console, Group
from rich.text import Text

from lrqk_cli.chat.printable import printable
from lrqk_cli.terminal.live import SteadyLive
from lrqk_cli.terminal.view import StatusLine

SECONDS_BETWEEN_FRAMES = 0.1
# Automatic redraws of the status line per second, for slow steps. More would hold up quick steps.
_STATUS_RATE = 1


class PlainStream:
    """Writes an answer to stdout while it is generated, cleaned by ``printable``.

    Cleans it in a file or a pipe too, because its text may be shown on a terminal later; ``--json`` keeps
    every character, as an escape.
    """

    def __init__(self) -> None:
        self._at_line_start = True

    def __enter__(self) -> PlainStream:
        return self

    def add(self, text: str) -> None:
        """Write more of the answer at once."""
        if not text:
            return
        sys.stdout.write(printable(text))
        sys.stdout.flush()
        self._at_line_start = text.endswith("\n")

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if not self._at_line_start and not isinstance(error, BrokenPipeError):
            self.add("\n")


class LiveStream(ABC):
    """Shows an answer on a terminal, with a live status line below it.

    Prints complete parts for good, and redraws only the open end and the status line, which it erases at the
    end; so an answer may be longer than the screen.

    Args:
        status: returns the status line for a width in columns.
    """

    def __init__(self, console: Console, status: Callable[[int], str]) -> None:
        self._console = console
        self._status = StatusLine(status)
        self._live = SteadyLive("", console, _STATUS_RATE)

    def __enter__(self) -> LiveStream:
        self._live.start()
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        self._print_rest()

    @abstractmethod
    def add(self, text: str) -> None:
        """Show more of the answer."""

    @abstractmethod
    def _draw(self) -> None:
        """Print the complete parts, and draw the rest."""

    @abstractmethod
    def _print_rest(self) -> None:
        """Print the open end."""


class StatusStream(LiveStream):
    """Shows an answer as plain text; prints each complete row for good."""

    def __init__(self, console: Console, status: Callable[[int], str]) -> None:
        super().__init__(console, status)
        self._row = ""
        self._drawn_at = 0.0

    def add(self, text: str) -> None:
        """See ``LiveStream``."""
        *lines, last = (self._row + printable(text)).split("\n")
        rows = [row for line in lines for row in self._wrap(line)]
        *finished, self._row = self._wrap(last)
        for row in (*rows, *finished):
            self._console.print(Text(row), no_wrap=True, overflow="ignore", crop=False)
        if time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_FRAMES:
            self._draw()

    def _print_rest(self) -> None:
        if self._row:
            self._console.print(Text(self._row), no_wrap=True, overflow="ignore", crop=False)

    def _wrap(self, line: str) -> list[str]:
        return [row.plain for row in Text(line).wrap(self._console, self._console.width)] or [""]

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        self._live.update(Group(Text(self._row, no_wrap=True), self._status), refresh=True)
