"""Consoles whose output cannot control the terminal, and plain messages."""

from __future__ import annotations

import codecs
import io
import struct
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from lrqk_cli.chat.printable import printable
from lrqk_cli.memory.exhaustion import out_of_memory
from lrqk_cli.naming import COMMAND_LINE, Surface
from lrqk_cli.system_errors import refusal_of

_ESCAPING = "lrqk-escape"


class CleanConsole(Console):
    """Prints text without interpreting markup, and cleans it with ``printable``.

    Control sequences come from Rich alone, for colours and cursor movements.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See ``Console``; cleans the text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)

    def render_str(self, text: str, **settings: Any) -> Text:
        """See ``Console``; cleans the text before measuring it, so that column widths are right."""
        return super().render_str(printable(text), **settings)


def escape_unknown_characters() -> None:
    r"""Let the output have ``\uXXXX`` for what its encoding lacks, which JSON reads as the same character.

    Otherwise it would fail: files and pipes have few characters on Windows, unless PYTHONUTF8 is set.
    """
    codecs.register_error(_ESCAPING, _escaped)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=_ESCAPING)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{unit:04x}" for (unit,) in struct.iter_unpack(">H", units)), error.end


def stderr_console() -> Console:
    """A console on stderr; without colour if stderr is no terminal or NO_COLOR is set."""
    return CleanConsole(stderr=True)


def stdout_console() -> Console:
    """A console on stdout."""
    return CleanConsole()


def print_message(console: Console, label: str, style: str, message: str) -> None:
    """Print ``label: message``; wrap lines on a terminal only, never in a file or a pipe."""
    text = Text.assemble((f"{label}: ", style), printable(message))
    console.print(text, soft_wrap=not console.is_terminal)


def print_failure(console: Console, message: str, hint: str, surface: Surface = COMMAND_LINE) -> None:
    """Print ``Error: message`` and, if there is one, ``Hint: hint``, with the surface's names of settings."""
    print_message(console, "Error", "bold red", surface.message(message))
    if said := surface.hint(hint):
        print_message(console, "Hint", "bold cyan", said)


def print_traceback(console: Console, error: BaseException) -> None:
    """Print the traceback of an exception, for --debug."""
    console.print(Text("".join(traceback.format_exception(error))), soft_wrap=True, end="")


def print_unexpected(
    console: Console, error: BaseException, hint: str, surface: Surface = COMMAND_LINE
) -> None:
    """Print an unexpected failure as one sentence and a hint; those of memory and of files have their own."""
    if (known := out_of_memory(error) or refusal_of(error)) is not None:
        print_failure(console, known.message, known.hint, surface)
        return
    detail = str(error).strip().split("\n", 1)[0]
    sentence = f"Unexpected {type(error).__name__}{': ' + detail if detail else ''}."
    print_failure(console, sentence, hint, surface)
