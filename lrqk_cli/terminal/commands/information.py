"""Commands that show information, and /quit."""

from __future__ import annotations

from lrqk_cli.errors import UsageError
from lrqk_cli.terminal.charts import statistics_view
from lrqk_cli.terminal.command_context import ChatExit, CommandContext
from lrqk_cli.terminal.commands.registry import Command
from lrqk_cli.terminal.sources_view import sources_view

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


def _sources(ctx: CommandContext, argument: str) -> None:
    session = ctx.session
    if argument:
        if argument not in ("on", "off"):
            raise UsageError(f"/sources does not know '{argument}'.", "Type /sources, /sources on or off.")
        session.note_sources(argument == "on")
        ctx.say(f"Sources are {'noted from the next answer on' if argument == 'on' else 'no longer noted'}.")
        return
    exchanges = session.conversation.exchanges
    if exchanges and exchanges[-1].sources is not None:
        ctx.view.console.print(sources_view(exchanges[-1].sources, ctx.view.console))
        return
    if session.notes_sources:
        raise UsageError("There is no answer whose sources were noted.", "Ask a question first.")
    session.check_sources()
    raise UsageError("Sources are not noted.", "Type /sources on, and ask again.")


def _quit(ctx: CommandContext, _: str) -> None:
    ctx.chat_exit = ChatExit()


COMMANDS = (
    Command("/help", "Show this list.", _help),
    Command("/stats", "Show context, memory, speed and misses.", _stats),
    Command("/sources", "Show the pages that the answer rests on; on or off.", _sources, "[on|off]", "text"),
)
LAST_COMMANDS = (Command("/quit", "Leave the chat; also /exit, /bye.", _quit, aliases=("/exit", "/bye")),)
