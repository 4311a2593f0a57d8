"""Asks the terminal whether it shows pictures, and how large its cells are.

The answers come where keys come from. What the user typed between them is kept for the next input line.
"""

from __future__ import annotations

import os
import re
import select
import struct
import sys
import time
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from lrqk_cli.terminal.echo import hidden_typing
from lrqk_cli.terminal.line_reader import keep_for_next_line

if sys.platform != "win32":
    import fcntl
    import termios

# Nearly every terminal answers a request for its attributes, and in the order of the questions: that answer
# is the last, and nothing is waited for after it.
_WAIT_S = 2.0
_ASK_KITTY = "\x1b_Gi=1,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\"
# The size of a cell; the colours and the size that a picture of sixels may have; the attributes.
_ASK = "\x1b[16t\x1b[?1;1;0S\x1b[?2;1;0S\x1b[c"
_ANSWER = re.compile(
    r"\x1b_Gi=1;(?P<kitty>[^\x1b]*)\x1b\\"
    r"|\x1b\[6;(?P<cell>\d+;\d+)t"
    r"|\x1b\[\?1;(?:0;(?P<colours>\d+)|[\d;]*)S"
    r"|\x1b\[\?2;(?:0;(?P<size>\d+;\d+)|[\d;]*)S"
    r"|\x1b\[\?(?P<attributes>[\d;]*)c"
)
_SIXEL_ATTRIBUTE = "4"
# Height and width of a cell, in pixels, of the terminal for which sixels were made.
_VT340_CELL = (20, 10)
# More colours make a page of text no better, and a file of sixels larger.
_MOST_COLOURS = 64


@dataclass(frozen=True, slots=True)
class Graphics:
    """How a terminal shows pictures.

    Attributes:
        protocol: kitty's, or sixels.
        cell_width, cell_height: pixels of a character's cell.
        colours: the most that a picture may have, if it is of sixels.
        width, height: the most pixels that it may have then; None for any number.
    """

    protocol: Literal["kitty", "sixel"]
    cell_width: int
    cell_height: int
    colours: int
    width: int | None
    height: int | None


def is_multiplexed() -> bool:
    """Whether tmux or screen stands between this process and the terminal."""
    return os.environ.get("TERM", "").startswith(("tmux", "screen"))


def query_graphics(console: Console) -> Graphics | None:
    """Ask the terminal of a console how it shows pictures; None if it does not, or is silent."""
    if (
        sys.platform == "win32"
        or not console.is_terminal
        or console.is_dumb_terminal
        or not sys.stdin.isatty()
    ):
        return None
    # tmux and screen would take kitty's question for a title.
    kitty = "" if is_multiplexed() else _ASK_KITTY
    answers = _ask(console, kitty + _ASK)
    _kind, *attributes = answers.get("attributes", "").split(";")
    has_sixels = _SIXEL_ATTRIBUTE in attributes
    if answers.get("kitty") != "OK" and not has_sixels:
        return None
    cell_height, cell_width = _pair(answers.get("cell")) or _cell_by_system() or _VT340_CELL
    if answers.get("kitty") == "OK":
        return Graphics("kitty", cell_width, cell_height, _MOST_COLOURS, None, None)
    colours = min(_MOST_COLOURS, int(answers.get("colours", 0)) or _MOST_COLOURS)
    return Graphics("sixel", cell_width, cell_height, colours, *_pair(answers.get("size")) or (None, None))


def _pair(answer: str | None) -> tuple[int, int] | None:
    """Return two numbers above zero, if they were answered."""
    first, second = map(int, (answer or "0;0").split(";"))
    return (first, second) if first and second else None


def _ask(console: Console, questions: str) -> dict[str, str]:
    """Return the answers that come within the time limit."""
    answers, received, typed = dict[str, str](), b"", ""
    terminal, deadline = sys.stdin.fileno(), time.monotonic() + _WAIT_S
    try:
        with hidden_typing(by_key=True):
            console.file.write(questions)
            console.file.flush()
            while "attributes" not in answers and (left := deadline - time.monotonic()) > 0:
                if select.select([terminal], [], [], left)[0]:
                    received += os.read(terminal, 4096)
                    typed = received.decode("utf-8", "surrogateescape")
                    for found in _ANSWER.finditer(typed):
                        answers |= {name: text for name, text in found.groupdict().items() if text}
    finally:
        # Some terminals print a question that they do not know.
        console.file.write("\r\x1b[J")
        console.file.flush()
        keep_for_next_line(_ANSWER.sub("", typed))
    return answers


def _cell_by_system() -> tuple[int, int] | None:
    """Return height and width of a cell as the terminal told the system, if it did."""
    if sys.platform == "win32":
        return None
    size = fcntl.ioctl(sys.stdin, termios.TIOCGWINSZ, bytes(8))
    rows, columns, width, height = struct.unpack("HHHH", size)
    return (height // rows, width // columns) if width and height else None
