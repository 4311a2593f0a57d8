"""Slash commands of the interactive loop."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

Say = Callable[[str], None]

_COMMAND = re.compile(r"/[a-zA-Z-]*\s*")


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: what is typed, with its slash.
        summary: one line for /help.
        run: does it, says what is to be said, and tells whether the chat goes on.
    """

    name: str
    summary: str
    run: Callable[[Say], bool]


def is_command(line: str) -> bool:
    """Whether a line is meant as a command: a slash and one word (a path such as /etc/hosts is not)."""
    return _COMMAND.fullmatch(line) is not None


def dispatch(line: str, say: Say) -> bool:
    """Run the command that a line names.

    Args:
        line: for which ``is_command`` holds.
        say: prints one line.

    Returns:
        Whether the chat goes on.
    """
    name = line.strip().lower()
    if command := COMMANDS.get(name):
        return command.run(say)
    matches = get_close_matches(name, COMMANDS, n=1)
    say(f"There is no command {name}. " + (f"Did you mean {matches[0]}?" if matches else "Try /help."))
    return True


def _help(say: Say) -> bool:
    width = max(map(len, COMMANDS))
    for command in COMMANDS.values():
        say(f"{command.name:<{width}}  {command.summary}")
    say("Ctrl-C stops the answer or clears the line; Ctrl-D leaves.")
    return True


def _quit(_say: Say) -> bool:
    return False


COMMANDS = {
    command.name: command
    for command in (
        Command("/help", "Show this list.", _help),
        Command("/quit", "Leave the chat.", _quit),
    )
}
