"""Commands that change what was said."""

from __future__ import annotations

from dataclasses import replace

from lrqk_cli.chat.conversation import DocumentEntry, Exchange
from lrqk_cli.errors import UsageError
from lrqk_cli.terminal.commands.registry import Command
from lrqk_cli.terminal.desk import Desk, Draft

# Another answer to the same question has to be drawn; at 0 it would be the same.
_RETRY_TEMPERATURE = 0.7


def _undo(desk: Desk, _: str) -> None:
    exchange = desk.session.undo()
    desk.say(f"Forgotten: {_shortened(exchange.question)}")
    desk.say_what_is_unread()


def _drop(desk: Desk, _: str) -> None:
    entry = desk.session.drop()
    if isinstance(entry, DocumentEntry):
        desk.say(f"Forgotten: {entry.use.title}, {entry.use.tokens:,} tokens")
    elif isinstance(entry, Exchange):
        desk.say(f"Forgotten: {_shortened(entry.question)}")
    desk.say_what_is_unread()


def _retry(desk: Desk, _: str) -> None:
    question = desk.session.undo().question
    generation = desk.session.generation
    if generation.temperature == 0.0:
        desk.say(f"At temperature 0 the answer would be the same; this one is drawn at {_RETRY_TEMPERATURE}.")
        generation = replace(generation, temperature=_RETRY_TEMPERATURE)
    # A seed would repeat the answer too.
    generation = replace(generation, seed=None)
    desk.show(desk.session.ask(question, desk.cancelled, generation))


def _edit(desk: Desk, argument: str) -> None:
    exchanges = desk.session.conversation.exchanges
    if not exchanges:
        raise UsageError("Nothing has been asked yet.", "Ask a question first.")
    if not argument:
        desk.draft = Draft(exchanges[-1].question, replaces=True)
        return
    desk.session.undo()
    desk.show(desk.session.ask(argument, desk.cancelled))


def _system(desk: Desk, argument: str) -> None:
    current = desk.session.conversation.prompt.system
    if not argument:
        desk.say(current if current is not None else "There is no system text but the model's own.")
        return
    if argument == "none":
        desk.session.set_system(None)
        desk.say("The instructions are removed; what the model's own format says stays.")
    else:
        desk.session.set_system(argument)
        desk.say(f"The instructions are now: {_shortened(argument)}")
    desk.say_what_is_unread()


def _clear(desk: Desk, argument: str) -> None:
    if argument not in ("", "all"):
        raise UsageError(f"/clear does not know '{argument}'.", "Type /clear, or /clear all.")
    desk.session.clear(documents=argument == "all")
    # What comes now is another conversation, and not to replace the one that was saved.
    desk.own_files = frozenset()
    kept = len(desk.session.documents)
    noun = "document stays" if kept == 1 else "documents stay"
    desk.say("Cleared." + (f" {kept} {noun}." if kept else ""))
    desk.say_what_is_unread()


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
