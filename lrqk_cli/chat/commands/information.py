"""Commands that tell something, and the one that ends."""

from __future__ import annotations

from lrqk_cli.chat.charts import statistics_view
from lrqk_cli.chat.commands.registry import Command
from lrqk_cli.chat.desk import Departure, Desk

_KEYS = (
    ("Enter", "sends the question; within triple quotes it begins a new line"),
    ("Alt-Enter", "begins a new line"),
    ("Ctrl-X Ctrl-E", "opens the question in your editor"),
    ("Tab", "completes commands, paths and settings"),
    ("Ctrl-C", "stops the answer and keeps what is there, or clears the line"),
    ("Ctrl-D", "leaves"),
)


def _help(desk: Desk, _: str) -> None:
    from lrqk_cli.chat.commands import COMMANDS as ALL

    rows = [(f"{command.name} {command.usage}".rstrip(), command.summary) for command in ALL]
    for title, explained in (("", rows), ("Keys", _KEYS)):
        width = max(len(name) for name, _ in explained)
        if title:
            desk.say()
        for name, summary in explained:
            desk.say(f"{name:<{width}}  {summary}")


def _stats(desk: Desk, _: str) -> None:
    desk.view.console.print(statistics_view(desk))


def _quit(desk: Desk, _: str) -> None:
    desk.departure = Departure()


COMMANDS = (
    Command("/help", "Show this list.", _help),
    Command("/stats", "Show context, memory, speed and misses.", _stats),
)
LAST_COMMANDS = (Command("/quit", "Leave the chat.", _quit),)
