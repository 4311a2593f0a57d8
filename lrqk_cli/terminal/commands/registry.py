"""Commands of the chat, and the dispatch of input lines to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from lrqk_cli.errors import UsageError, did_you_mean
from lrqk_cli.terminal.command_context import CommandContext

Argument = Literal["none", "text", "path", "saved", "setting", "model", "pages"]

_COMMAND = re.compile(r"(?P<name>/[a-zA-Z-]*!?)(?:\s+(?P<argument>.*))?", re.DOTALL)
# Commands that also work without a slash, alone on a line.
_PLAIN_WORDS = frozenset({"help", "quit", "exit", "bye"})


@dataclass(frozen=True, slots=True)
class Command:
    """One command.

    Attributes:
        name: the name with its slash.
        summary: one line for /help.
        run: runs the command with its argument, the stripped text after the name.
        usage: name of the argument in /help; in brackets if optional.
        argument: kind of the argument, for completion.
        aliases: other names, with their slashes.
    """

    name: str
    summary: str
    run: Callable[[CommandContext, str], None]
    usage: str = ""
    argument: Argument = "none"
    aliases: tuple[str, ...] = ()


class Registry:
    """Commands by name."""

    def __init__(self, commands: Iterable[Command]) -> None:
        self._commands = list(commands)
        self._by_name = {name: item for item in self._commands for name in (item.name, *item.aliases)}

    def __iter__(self) -> Iterator[Command]:
        return iter(self._commands)

    def get(self, name: str) -> Command | None:
        """Return the command of that name."""
        return self._by_name.get(name)

    def dispatch(self, line: str, ctx: CommandContext) -> None:
        """Run the command that a line names.

        Args:
            line: a line for which ``is_command`` holds.

        Raises:
            LrqkError: there is no such command, its argument is wrong, or it failed.
        """
        name, argument = _parts(line) or ("", "")
        command = self._by_name.get(name)
        if command is None:
            raise UsageError(f"There is no command {name}.", did_you_mean(name, self._by_name, "Try /help."))
        if argument and command.argument == "none":
            raise UsageError(f"{name} takes nothing after it.", f"Type {name} alone.")
        if not argument and command.usage and not command.usage.startswith("["):
            raise UsageError(f"{name} needs something after it.", f"Type {name} {command.usage.rstrip('.')}.")
        command.run(ctx, argument)


def is_command(line: str) -> bool:
    """Whether a line is a command: a slash and a word (a path such as /etc/hosts is not).

    A few words, such as ``quit``, are commands without a slash if they are alone on the line.
    """
    return _parts(line) is not None


def _parts(line: str) -> tuple[str, str] | None:
    """Return the name in lower case and the text after it; None for a question."""
    line = line.strip()
    if line.lower() in _PLAIN_WORDS:
        return f"/{line.lower()}", ""
    match = _COMMAND.fullmatch(line)
    return (match["name"].lower(), (match["argument"] or "").strip()) if match is not None else None
