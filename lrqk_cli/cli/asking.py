"""What commands say on stderr, and what they ask before they delete."""

from __future__ import annotations

import sys

from lrqk_cli.errors import UsageError


def say(text: str) -> None:
    """Print a line on stderr."""
    from lrqk_cli.terminal.console import stderr_console

    stderr_console().print(text, soft_wrap=True)


def agrees(question: str, refusal: str) -> bool:
    """Ask on the terminal whether to go on.

    Args:
        refusal: the sentence of the error where there is no terminal.

    Raises:
        UsageError: there is no terminal.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(refusal, "Add --yes.")
    from lrqk_cli.terminal.console import stderr_console

    stderr_console().print(f"{question} [y/N] ", end="", soft_wrap=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
