"""Commands that show information, and /quit."""

from __future__ import annotations

from lrqk_cli.terminal.charts import statistics_view
from lrqk_cli.terminal.command_context import ChatExit, CommandContext
from lrqk_cli.terminal.commands.registry import Command

_KEYS = (
    ("Enter", "sends the question; within triple quotes it begins a new line"),
    ("Alt-Enter", "begins a new line"),
    ("Ctrl-X Ctrl-E", "opens the question in your editor"),
    ("Tab", "completes commands, paths and settings"),
    ("Ctrl-C", "stops the answer and keeps what is there, or clears the line"),
    ("Ctrl-D", "leaves"),
)


def _help(ctx: CommandContext, _: str) -> None:
    from lrqk_cli.terminal.commands import COMMANDS as ALL

    rows = [(f"{command.name} {command.usage}".rstrip(), command.summary) for command in ALL]
    for title, explained in (("", rows), ("Keys", _KEYS)):
        width = max(len(name) for name, _ in explained)
        if title:
            ctx.say()
        for name, summary in explained:
            ctx.say(f"{name:<{width}}  {summary}")


def _stats(ctx: CommandContext, _: str) -> None:
    ctx.view.console.print(statistics_view(ctx))


def _quit(ctx: CommandContext, _: str) -> None:
    ctx.chat_exit = ChatExit()


COMMANDS = (
    Command("/help", "Show this list.", _help),
    Command("/stats", "Show context, memory, speed and misses.", _stats),
)
LAST_COMMANDS = (Command("/quit", "Leave the chat; also /exit, /bye.", _quit, aliases=("/exit", "/bye")),)
