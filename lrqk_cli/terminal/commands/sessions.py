"""Commands that keep a conversation under a name, and go on with another."""

from __future__ import annotations

import os
import shlex
from dataclasses import asdict
from functools import partial
from pathlib import Path

from lrqk_cli.chat import archive
from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.journal import SessionStore
from lrqk_cli.errors import UsageError
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.commands.documents import make_table, one_path
from lrqk_cli.terminal.commands.files import own, spare_others_files
from lrqk_cli.terminal.commands.registry import Command
from lrqk_cli.terminal.moments import shown_time


def _file_of(text: str) -> Path | None:
    """Return the file that a user names with a path or a name in .json; None for the name of a session.

    A path gets the suffix .json where it has none.

    Raises:
        UsageError: the text is neither.
    """
    path = one_path(text)
    if path.name in ("", "..") or text.endswith(("/", os.sep)):
        raise UsageError(f"{text} is not a name.", "Type a name, such as: /save talk")
    is_plain = len(path.parts) == 1 and not {"/", os.sep} & set(text)
    if is_plain and path.suffix != ".json":
        return None
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Type the name of a file in it.")
    return path if path.suffix else path.with_name(f"{path.name}.json")


def _save(ctx: CommandContext, argument: str, replaces: bool = False) -> None:
    path = _file_of(argument)
    if path is None:
        saved = ctx.archive(ctx.tokenizer_id())
        name = ctx.chat_session.save_as(one_path(argument).name, saved, replaces=replaces)
        ctx.say(
            f"Recorded as {name} from now on. Go on with it later: lrqk chat --session {shlex.quote(name)}"
        )
        return
    spare_others_files(ctx, path, f"/save! {argument}", replaces)
    archive.save(ctx.archive(), path)
    own(ctx, path)
    ctx.say(f"Saved as {path}.")


def _load(ctx: CommandContext, argument: str) -> None:
    if not argument:
        _list_sessions(ctx)
        return
    path, name = _file_of(argument), one_path(argument).name
    if path is None and archive.saved_path(name).is_file() and not _is_session(name):
        path = archive.saved_path(name)  # by an earlier version, or by a chat that could not go on
    ctx.record()  # a turn that could not be written before is not left behind
    if path is None:
        with ctx.chat_session.switching(name) as saved:
            _adopt(ctx, saved)
        return
    saved, before = archive.load(path), ctx.chat_session.name
    with ctx.chat_session.beginning(saved.documents[0].title if saved.documents else None):
        _adopt(ctx, saved)
    ctx.own_files = frozenset()
    own(ctx, path)
    if before is not None:
        ctx.say(f"The session {before} stays as it was; this conversation is recorded in another one.")


def _is_session(name: str) -> bool:
    return name in [info.name for info in SessionStore().list()]


def _adopt(ctx: CommandContext, saved: Archive) -> None:
    session = ctx.session
    session.adopt(saved.restore(session.conversation.prompt, ctx.tokenizer_id()), saved.generation)
    ctx.chat_session.wanted = saved.wanted
    entries = len(session.documents), len(session.conversation.exchanges)
    ctx.say("Loaded. Documents: {:,}, questions: {:,}.".format(*entries))
    if saved.model != ctx.model:
        ctx.say(f"It was held with {saved.model}; now it goes on with {ctx.model}.")
    if ctx.config is not None and saved.attention not in ({}, asdict(ctx.config)):
        ctx.say("The attention's settings are those of this chat, not those it was saved with.")
    ctx.say_what_is_unread()


def _list_sessions(ctx: CommandContext) -> None:
    rows = [
        (info.name, info.updated, f"{info.exchanges:,}", ", ".join(info.documents))
        for info in SessionStore().list()
    ]
    rows += [(name, seconds, "", "a file of /save") for name, seconds in archive.saved_names().items()]
    if not rows:
        raise UsageError("There is no other conversation yet.", "Name this one with /save NAME.")
    table = make_table("Name", "Changed", "Questions", "Documents")
    for name, seconds, questions, documents in rows:
        table.add_row(name, shown_time(seconds), questions, documents)
    ctx.view.console.print(table)


COMMANDS = (
    Command("/save", "Record the conversation under a name, or in a .json file.", _save, "NAME", "saved"),
    Command(
        "/save!",
        "The same, in place of what is there.",
        partial(_save, replaces=True),
        "NAME",
        "saved",
    ),
    Command("/load", "Go on with another conversation; alone: list them.", _load, "[NAME]", "saved"),
)
