"""Commands that change the conversation."""

from __future__ import annotations

from dataclasses import replace

from lrqk_cli.chat.conversation import DocumentEntry, Exchange
from lrqk_cli.errors import UsageError
from lrqk_cli.terminal.command_context import CommandContext, Draft
from lrqk_cli.terminal.commands.registry import Command

# At temperature 0 the same question would get the same answer.
_RETRY_TEMPERATURE = 0.7


def _undo(ctx: CommandContext, _: str) -> None:
    exchange = ctx.session.undo()
    ctx.say(f"Forgotten: {_shortened(exchange.question)}")
    ctx.say_what_is_unread()


def _drop(ctx: CommandContext, _: str) -> None:
    entry = ctx.session.drop()
    if isinstance(entry, DocumentEntry):
        ctx.say(f"Forgotten: {entry.use.title}, {entry.use.size}")
    elif isinstance(entry, Exchange):
        ctx.say(f"Forgotten: {_shortened(entry.question)}")
    ctx.say_what_is_unread()


def _retry(ctx: CommandContext, _: str) -> None:
    question = ctx.session.undo().question
    generation = ctx.session.generation
    if generation.temperature == 0.0:
        ctx.say(f"At temperature 0 the answer would be the same; this one is drawn at {_RETRY_TEMPERATURE}.")
        generation = replace(generation, temperature=_RETRY_TEMPERATURE)
    # With the same seed the answer would repeat too.
    generation = replace(generation, seed=None)
    ctx.show(ctx.session.ask(question, ctx.cancelled, generation))


def _edit(ctx: CommandContext, argument: str) -> None:
    exchanges = ctx.session.conversation.exchanges
    if not exchanges:
        raise UsageError("Nothing has been asked yet.", "Ask a question first.")
    if not argument:
        ctx.draft = Draft(exchanges[-1].question, replaces=True)
        return
    ctx.session.undo()
    ctx.show(ctx.session.ask(argument, ctx.cancelled))


def _system(ctx: CommandContext, argument: str) -> None:
    current = ctx.session.conversation.prompt.system
    if not argument:
        ctx.say(current if current is not None else "There is no system text but the model's own.")
        return
    if argument == "none":
        ctx.session.set_system(None)
        ctx.say("The instructions are removed; what the model's own format says stays.")
    else:
        ctx.session.set_system(argument)
        ctx.say(f"The instructions are now: {_shortened(argument)}")
    ctx.say_what_is_unread()


def _clear(ctx: CommandContext, argument: str) -> None:
    if argument not in ("", "all"):
        raise UsageError(f"/clear does not know '{argument}'.", "Type /clear, or /clear all.")
    ctx.session.clear(documents=argument == "all")
    # A new conversation begins, which must not replace the saved file.
    ctx.own_files = frozenset()
    kept = len(ctx.session.documents)
    noun = "document stays" if kept == 1 else "documents stay"
    ctx.say("Cleared." + (f" {kept} {noun}." if kept else ""))
    ctx.say_what_is_unread()


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:57] + "..."


COMMANDS = (
    Command("/retry", "Draw another answer to the last question.", _retry),
    Command("/edit", "Change the last question and ask it anew.", _edit, "[TEXT]", "text"),
    Command("/undo", "Forget the last question and its answer.", _undo),
    Command("/drop", "Forget what came last, a document or a question.", _drop),
    Command(
        "/clear",
        "Forget questions and answers; 'all': the documents too.",
        _clear,
        "[all]",
        "text",
    ),
    Command(
        "/system",
        "Show or set the instructions; 'none' removes them.",
        _system,
        "[TEXT]",
        "text",
    ),
)
