"""Plain messages on stderr."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text


def stderr_console() -> Console:
    """A console on stderr; without colour where there is no terminal, or NO_COLOR is set."""
    return Console(stderr=True, highlight=False)


def print_message(console: Console, label: str, style: str, message: str) -> None:
    """Print ``label: message``; lines are broken at a terminal's width only, never in a file or a pipe."""
    text = Text.assemble((f"{label}: ", style), message)
    console.print(text, soft_wrap=not console.is_terminal)


def print_failure(console: Console, message: str, hint: str) -> None:
    """Print ``Error: message`` and, if there is one, ``Hint: hint``."""
    print_message(console, "Error", "bold red", message)
    if hint:
        print_message(console, "Hint", "bold cyan", hint)
