"""Streams answers as Markdown: prints finished blocks once and redraws only the open one."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.markdown import Markdown
from rich.segment import Segment

from lrqk_cli.chat.printable import printable
from lrqk_cli.terminal.streaming import SECONDS_BETWEEN_FRAMES, LiveStream

# The largest share of the time that drawing may take.
_DRAWING_SHARE = 0.02
# HTML tags are shown as text; else an answer in HTML would look empty.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])


def split_finished(text: str) -> tuple[list[str], str]:
    """Return the finished blocks, which further text cannot change, and the rest.

    A block is finished when a complete line after it begins another block.
    """
    complete = text[: text.rfind("\n") + 1]
    starts = [
        token.map[0]
        for token in _PARSER.parse(complete)
        if token.level == 0 and token.nesting >= 0 and token.map is not None
    ]
    lines = text.splitlines(keepends=True)
    blocks = ["".join(lines[start:stop]) for start, stop in pairwise(starts)]
    return blocks, "".join(lines[starts[-1] :]) if starts else text


def parsed(text: str) -> Markdown:
    """Return parsed Markdown; links show their addresses, because some terminals show no links."""
    markdown = Markdown(text, code_theme="ansi_dark", hyperlinks=False)
    markdown.parsed = _PARSER.parse(text)
    return markdown


class _Block:
    """A block without surrounding blank lines; rendered once for each width.

    Args:
        text: its Markdown.
        follows: put a blank line before it.
        most: show only so many of its last lines; None for all.
    """

    def __init__(self, text: str, *, follows: bool, most: int | None = None) -> None:
        self._markdown = parsed(text)
        self._follows = follows
        self._most = most
        self._lines: list[list[Segment]] = []
        self._width = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width != self._width:
            self._width = options.max_width
            self._lines = self._render(console, options)
        for line in self._lines:
            yield from line
            yield Segment.line()

    def _render(self, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
        lines = console.render_lines(self._markdown, options.update(height=None), pad=False)
        used = [number for number, line in enumerate(lines) if any(part.text.strip() for part in line)]
        if not used:
            return []
        shown: list[list[Segment]] = [[]] * self._follows + lines[used[0] : used[-1] + 1]
        return shown if self._most is None else shown[-self._most :]


class MarkdownStream(LiveStream):
    """Shows an answer as Markdown; prints each finished block for good."""

    def __init__(self, console: Console, status: Callable[[int], str]) -> None:
        super().__init__(console, status)
        self._open = ""
        self._has_printed = False
        self._next_frame = 0.0

    def add(self, text: str) -> None:
        """See ``LiveStream``."""
        self._open += printable(text)
        if time.monotonic() >= self._next_frame:
            self._draw()

    def _print_rest(self) -> None:
        if self._open.strip():
            self._print(self._open)

    def _draw(self) -> None:
        began = time.monotonic()
        finished, self._open = split_finished(self._open)
        for block in finished:
            self._print(block)
        room = max(1, self._console.height - 3)
        self._live.update(
            Group(_Block(self._open, follows=self._has_printed, most=room), self._status), refresh=True
        )
        now = time.monotonic()
        self._next_frame = now + max(SECONDS_BETWEEN_FRAMES, (now - began) / _DRAWING_SHARE)

    def _print(self, block: str) -> None:
        self._console.print(_Block(block, follows=self._has_printed))
        self._has_printed = True
