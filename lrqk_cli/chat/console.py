"""Plain messages on stderr."""

from __future__ import annotations

import re

from rich.console import Console
from rich.text import Text

# A setting as ``LrqkError`` names it, and those whose options have other names.
_SETTING = re.compile("`([a-z]+(?:[._][a-z]+)*)`")
_FLAGS = {"context": "ctx"}


def stderr_console() -> Console:
    """A console on stderr; without colour where there is no terminal, or NO_COLOR is set."""
    return Console(stderr=True, highlight=False)


def print_message(console: Console, label: str, style: str, message: str) -> None:
    """Print ``label: message``; lines are broken at a terminal's width only, never in a file or a pipe."""
    text = Text.assemble((f"{label}: ", style), message)
    console.print(text, soft_wrap=not console.is_terminal)


def with_flags(text: str) -> str:
    """Return a message with options for the settings that it names in backticks, such as ``--top-k``."""
    return _SETTING.sub(lambda match: "--" + _FLAGS.get(match[1], re.sub("[._]", "-", match[1])), text)


def print_failure(console: Console, message: str, hint: str) -> None:
    """Print ``Error: message`` and, if there is one, ``Hint: hint``, with options for settings."""
    print_message(console, "Error", "bold red", with_flags(message))
    if hint:
        print_message(console, "Hint", "bold cyan", with_flags(hint))
