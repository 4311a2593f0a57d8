"""Shows an answer while it is generated."""

from __future__ import annotations

import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

from rich.console import Console, Group
from rich.text import Text

from lrqk_cli.chat.events import ReasoningDelta, TextDelta
from lrqk_cli.chat.printable import printable
from lrqk_cli.terminal.live import SteadyLive
from lrqk_cli.terminal.view import StatusLine

SECONDS_BETWEEN_FRAMES = 0.1
# Automatic redraws of the status line per second, for slow steps. More would hold up quick steps.
_STATUS_RATE = 1


class TextStream(Protocol):
    """Shows text as it comes."""

    def add(self, text: str, /) -> None:
        """Show more of it."""


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


class NoStream:
    """Shows nothing."""

    def __enter__(self) -> NoStream:
        return self

    def add(self, text: str) -> None:
        """See ``TextStream``."""

    def __exit__(self, *_: object) -> None:
        pass


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


class Rows:
    """Cuts text into rows as wide as a console, as it comes; cleaned by ``printable``."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open = ""

    @property
    def open(self) -> Text:
        """The row that is not complete yet."""
        return self._styled(self._open)

    def push(self, text: str) -> list[Text]:
        """Take more text; return the rows that are complete now."""
        *lines, last = (self._open + printable(text)).split("\n")
        rows = [row for line in lines for row in self._wrap(line)]
        *finished, self._open = self._wrap(last)
        return [self._styled(row) for row in (*rows, *finished)]

    def rest(self) -> list[Text]:
        """Return the rows that are left at the end."""
        return [self.open] if self._open else []

    def _styled(self, row: str) -> Text:
        return Text(row)

    def _wrap(self, line: str) -> list[str]:
        return [row.plain for row in Text(line).wrap(self._console, self._width())] or [""]

    def _width(self) -> int:
        return self._console.width


class ReasoningRows(Rows):
    """Rows of reasoning: dimmed, below a heading and behind a rule, and a blank line at the end.

    Where the console is no terminal, lines stay whole.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._rule = "│ " if console.encoding.startswith("utf") else "| "
        self._has_heading = False

    def push(self, text: str) -> list[Text]:
        """See ``Rows``."""
        heading = [Text("Reasoning:", style="dim")] if text and not self._has_heading else []
        self._has_heading |= bool(text)
        return [*heading, *super().push(text)]

    def rest(self) -> list[Text]:
        """See ``Rows``."""
        return [*super().rest(), *[Text()] * self._has_heading]

    def _styled(self, row: str) -> Text:
        return Text((self._rule + row).rstrip(), style="dim")

    def _width(self) -> int:
        return self._console.width - len(self._rule) if self._console.is_terminal else sys.maxsize


def _print_rows(console: Console, rows: Iterable[Text]) -> None:
    for row in rows:
        console.print(row, no_wrap=True, overflow="ignore", crop=False)


class PlainReasoning:
    """Prints reasoning row by row."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows = ReasoningRows(console)

    def __enter__(self) -> PlainReasoning:
        return self

    def add(self, text: str) -> None:
        """Print the rows that are complete with more of the reasoning."""
        _print_rows(self._console, self._rows.push(text))

    def __exit__(self, *_: object) -> None:
        _print_rows(self._console, self._rows.rest())


class StatusStream(LiveStream):
    """Shows rows; prints each complete one for good.

    Args:
        rows: cuts the text into rows; None for those of an answer as plain text.
    """

    def __init__(self, console: Console, status: Callable[[int], str], rows: Rows | None = None) -> None:
        super().__init__(console, status)
        self._rows = rows or Rows(console)
        self._drawn_at = 0.0

    def add(self, text: str) -> None:
        """See ``LiveStream``."""
        _print_rows(self._console, self._rows.push(text))
        if time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_FRAMES:
            self._draw()

    def _print_rest(self) -> None:
        _print_rows(self._console, self._rows.rest())

    def _draw(self) -> None:
        self._drawn_at = time.monotonic()
        row = self._rows.open
        row.no_wrap = True
        self._live.update(Group(row, self._status), refresh=True)


class DeltaStream:
    """Shows the deltas of one answer: its reasoning in one stream, then the answer in another.

    Args:
        reasoning, answer: make these streams.

    Attributes:
        has_begun: something was shown.
    """

    def __init__(
        self,
        reasoning: Callable[[], AbstractContextManager[TextStream]],
        answer: Callable[[], AbstractContextManager[TextStream]],
    ) -> None:
        self.has_begun = False
        self._new = {ReasoningDelta: reasoning, TextDelta: answer}
        self._shown: type[ReasoningDelta | TextDelta] | None = None
        self._stack = ExitStack()
        self._stream: TextStream

    def __enter__(self) -> DeltaStream:
        return self

    def add(self, delta: ReasoningDelta | TextDelta) -> None:
        """Show one more delta."""
        self.has_begun = True
        if self._shown is not type(delta):
            self._stack.close()
            self._shown = type(delta)
            self._stream = self._stack.enter_context(self._new[self._shown]())
        self._stream.add(delta.text)

    def close(self) -> None:
        """End the streams."""
        self._stack.close()

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)
