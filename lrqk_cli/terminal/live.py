"""Content that is redrawn in place at the bottom of the screen."""

from __future__ import annotations

from contextlib import ExitStack, suppress

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType, Segment

from lrqk_cli.terminal.echo import hidden_typing


class _Measured:
    """A renderable, with the line widths of its last drawing."""

    def __init__(self) -> None:
        self.content: RenderableType = ""
        self.widths: list[int] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self.content, options, pad=False)
        self.widths = [Segment.get_line_length(line) for line in lines]
        for line in lines:
            yield from line
            yield Segment.line()

    def rows_gained(self, columns: int) -> int:
        """Return the extra rows into which a narrower terminal has wrapped the drawn lines."""
        return sum(max(0, width - 1) // columns for width in self.widths)


class SteadyLive(Live):
    """A transient ``Live`` that leaves no remains when the terminal narrows, and hides typing."""

    def __init__(self, content: RenderableType, console: Console, refresh_per_second: float = 4) -> None:
        self._measured = _Measured()
        self._typing = ExitStack()
        super().__init__(content, console=console, refresh_per_second=refresh_per_second, transient=True)

    def start(self, refresh: bool = False) -> None:
        """See ``Live``."""
        if not self.is_started:
            self._typing.enter_context(hidden_typing())
        try:
            super().start(refresh)
        except BaseException:  # Ctrl-C comes at any moment
            with suppress(Exception):  # what has not begun cannot be stopped
                self.stop()
            raise

    def stop(self) -> None:
        """See ``Live``."""
        try:
            super().stop()
        finally:
            self._typing.close()

    def get_renderable(self) -> RenderableType:
        """See ``Live``."""
        self._measured.content = super().get_renderable()
        return self._measured

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """See ``Live``, which erases one row per line before it draws; erases the extra rows too."""
        gained = self._measured.rows_gained(self.console.width)
        upwards = Control(*((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)) * gained)
        first, *rest = super().process_renderables(renderables)
        return [first, upwards, *rest] if self.console.is_interactive else [first, *rest]
