"""Commands that save, load, export and copy a conversation."""

from __future__ import annotations

import base64
import os
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

from lrqk_cli.chat import archive
from lrqk_cli.chat.export import to_json, to_markdown
from lrqk_cli.chat.private_files import write_private
from lrqk_cli.errors import UsageError
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.commands.documents import make_table, one_path
from lrqk_cli.terminal.commands.registry import Command
from lrqk_cli.terminal.picture import to_svg

# The most bytes that common terminals take by OSC 52.
_CLIPBOARD_LIMIT = 74_994
_WRITERS = {".md": to_markdown, ".json": to_json, ".svg": to_svg}


def archive_path(text: str) -> Path:
    """Return the file of a saved conversation: a path as it is, a plain name in the user's own folder.

    A path gets the suffix .json where it has none.

    Raises:
        UsageError: the text is not a possible file name.
    """
    path = one_path(text)
    if path.name in ("", "..") or text.endswith(("/", os.sep)):
        raise UsageError(f"{text} is not the name of a file.", "Type a name, such as: /save talk")
    is_plain = len(path.parts) == 1 and not {"/", os.sep} & set(text)
    if is_plain and path.suffix != ".json":
        return archive.saved_path(path.name)
    if path.is_dir():
        raise UsageError(f"{path} is a folder.", "Type the name of a file in it.")
    return path if path.suffix else path.with_name(f"{path.name}.json")


def _save(ctx: CommandContext, argument: str, replaces: bool = False) -> None:
    path = archive_path(argument)
    _spare_others_files(ctx, path, f"/save! {argument}", replaces)
    session = ctx.session
    archive.save(archive.make_archive(session.conversation, ctx.model, session.generation, ctx.config), path)
    _own(ctx, path)
    ctx.say(f"Saved as {path}.")


def _load(ctx: CommandContext, argument: str) -> None:
    if not argument:
        _list_saved(ctx)
        return
    path = archive_path(argument)
    saved = archive.load(path)
    session = ctx.session
    session.adopt(saved.restore(session.conversation.prompt), saved.generation)
    ctx.own_files = frozenset()
    _own(ctx, path)
    entries = len(session.documents), len(session.conversation.exchanges)
    ctx.say("Loaded. Documents: {:,}, questions: {:,}.".format(*entries))
    if saved.model != ctx.model:
        ctx.say(f"It was held with {saved.model}; now it goes on with {ctx.model}.")
    if saved.attention != asdict(ctx.config):
        ctx.say("The attention's settings are those of this chat, not those it was saved with.")
    ctx.say_what_is_unread()


def _list_saved(ctx: CommandContext) -> None:
    saved = archive.saved_names()
    if not saved:
        raise UsageError("No conversation has been saved under a name.", "Save this one with /save NAME.")
    table = make_table("Name", "Saved")
    for name, seconds in saved.items():
        table.add_row(name, time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)))
    ctx.view.console.print(table)


def _export(ctx: CommandContext, argument: str, replaces: bool = False) -> None:
    path = one_path(argument)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UsageError("/export writes .md, .json or .svg.", "Type /export chat.md, for instance.")
    _spare_others_files(ctx, path, f"/export! {argument}", replaces)
    write_private(path, write(ctx.session.conversation, ctx.model))
    _own(ctx, path)
    ctx.say(f"Written to {path}.")


def _spare_others_files(ctx: CommandContext, path: Path, command: str, replaces: bool) -> None:
    """Refuse to replace a file that is not this conversation's own, unless ``replaces``."""
    if not replaces and os.path.lexists(path) and _place(path) not in ctx.own_files:
        raise UsageError(f"{path} is there already.", f"To replace it, type {command}")


def _own(ctx: CommandContext, path: Path) -> None:
    ctx.own_files |= {_place(path)}


def _place(path: Path) -> Path:
    """Normalise a path for comparison; do not resolve a link at its end."""
    return path.parent.resolve() / path.name


def _copy(ctx: CommandContext, _: str) -> None:
    answers = [
        exchange.answer for exchange in ctx.session.conversation.exchanges if exchange.answer is not None
    ]
    if not answers:
        raise UsageError("There is no answer yet.", "Ask a question first.")
    text = base64.b64encode(answers[-1].text.strip().encode()).decode()
    if len(text) > _CLIPBOARD_LIMIT or ctx.console.is_dumb_terminal:
        raise UsageError("This terminal cannot take the answer to the clipboard.", "Use /export chat.md.")
    ctx.console.file.write(f"\x1b]52;c;{text}\x07")
    ctx.console.file.flush()
    ctx.say("Copied, if this terminal lets programs write to the clipboard (OSC 52).")


COMMANDS = (
    Command("/copy", "Copy the last answer to the clipboard.", _copy),
    Command("/save", "Save the conversation under a name, or as a .json file.", _save, "NAME", "saved"),
    Command(
        "/save!",
        "The same, in place of a file that is there.",
        partial(_save, replaces=True),
        "NAME",
        "saved",
    ),
    Command("/load", "Go on with a saved conversation; alone: list them.", _load, "[NAME]", "saved"),
    Command("/export", "Write a transcript, as .md, .json or .svg.", _export, "FILE", "path"),
    Command(
        "/export!",
        "The same, in place of a file that is there.",
        partial(_export, replaces=True),
        "FILE",
        "path",
    ),
)
