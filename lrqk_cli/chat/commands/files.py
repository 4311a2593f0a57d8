"""Commands that bring a conversation out of the chat, and in."""

from __future__ import annotations

import base64
from dataclasses import asdict
from pathlib import Path

from lrqk_cli.chat import archive
from lrqk_cli.chat.commands.documents import split_paths
from lrqk_cli.chat.commands.registry import Command
from lrqk_cli.chat.desk import Desk
from lrqk_cli.chat.export import to_json, to_markdown
from lrqk_cli.chat.picture import to_svg
from lrqk_cli.errors import UsageError

# Terminals that know OSC 52 take about so many bytes.
_CLIPBOARD_LIMIT = 74_994
_WRITERS = {".md": to_markdown, ".json": to_json, ".svg": to_svg}


def archive_path(name: str) -> Path:
    """Return the file of a saved conversation: a path as it is, a plain name in the user's own folder."""
    [path] = split_paths(name)[:1] or [Path()]
    if path.suffix == ".json" or len(path.parts) > 1:
        return path
    import platformdirs

    return platformdirs.user_state_path("lrqk") / "chats" / f"{path.name}.json"


def _save(desk: Desk, argument: str) -> None:
    path = archive_path(argument)
    session = desk.session
    archive.save(
        archive.make_archive(session.conversation, desk.model, session.generation, desk.settings), path
    )
    desk.say(f"Saved as {path}.")


def _load(desk: Desk, argument: str) -> None:
    path = archive_path(argument)
    saved = archive.load(path)
    session = desk.session
    session.adopt(saved.restore(session.conversation.prompt))
    session.generation = saved.generation
    entries = len(session.documents), len(session.conversation.exchanges)
    desk.say("Loaded. Documents: {:,}, questions: {:,}.".format(*entries))
    if saved.model != desk.model:
        desk.say(f"It was held with {saved.model}; now it goes on with {desk.model}.")
    if saved.attention != asdict(desk.settings):
        desk.say("The attention's settings are those of this chat, not those it was saved with.")
    desk.say_what_is_unread()


def _export(desk: Desk, argument: str) -> None:
    [path, *rest] = split_paths(argument)
    write = _WRITERS.get(path.suffix.lower())
    if rest or write is None:
        raise UsageError(
            "/export writes one file, .md, .json or .svg.", "Type /export chat.md, for instance."
        )
    archive.write_private(path, write(desk.session.conversation, desk.model))
    desk.say(f"Written to {path}.")


def _copy(desk: Desk, _: str) -> None:
    answers = [
        exchange.answer for exchange in desk.session.conversation.exchanges if exchange.answer is not None
    ]
    if not answers:
        raise UsageError("There is no answer yet.", "Ask a question first.")
    text = base64.b64encode(answers[-1].text.strip().encode()).decode()
    if len(text) > _CLIPBOARD_LIMIT or desk.console.is_dumb_terminal:
        raise UsageError("This terminal cannot take the answer to the clipboard.", "Use /export chat.md.")
    desk.console.file.write(f"\x1b]52;c;{text}\x07")
    desk.console.file.flush()
    desk.say("Copied, if this terminal lets programs write to the clipboard (OSC 52).")


COMMANDS = (
    Command("/copy", "Copy the last answer to the clipboard.", _copy),
    Command("/save", "Save the conversation under a name, or as a .json file.", _save, "NAME", "path"),
    Command("/load", "Go on with a saved conversation.", _load, "NAME", "path"),
    Command("/export", "Write a transcript, as .md, .json or .svg.", _export, "FILE", "path"),
)
