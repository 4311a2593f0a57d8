"""Commands that export and copy a conversation, and the files that are its own."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lrqk_cli.chat.export import to_json, to_markdown
from lrqk_cli.chat.private_files import write_private
from lrqk_cli.errors import UsageError
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.commands.documents import one_path
from lrqk_cli.terminal.commands.registry import Command
from lrqk_cli.terminal.commands.sources import say_how_to_draw
from lrqk_cli.terminal.picture import to_svg

# The most bytes that common terminals take by OSC 52.
_CLIPBOARD_LIMIT = 74_994


def _to_page(ctx: CommandContext) -> str:
    from lrqk_cli.documents.drawing import can_draw
    from lrqk_cli.webpage.build import to_page

    conversation = ctx.session.conversation
    if not any(exchange.sources for exchange in conversation.exchanges):
        ctx.say("No answer has its sources noted: /sources on notes them from the next answer on.")
    elif conversation.page_spans and not can_draw():
        say_how_to_draw(ctx)
    with ctx.view.drawing_pages() as on_page:
        return to_page(conversation, ctx.model, ctx.limits, on_page)


_WRITERS: dict[str, Callable[[CommandContext], str]] = {
    ".md": lambda ctx: to_markdown(ctx.session.conversation, ctx.model),
    ".json": lambda ctx: to_json(ctx.session.conversation, ctx.model),
    ".svg": lambda ctx: to_svg(ctx.session.conversation, ctx.model),
    ".html": _to_page,
}


def _export(ctx: CommandContext, argument: str, replaces: bool = False) -> None:
    path = one_path(argument)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise UsageError("/export writes .md, .html, .json or .svg.", "Type /export chat.md, for instance.")
    spare_others_files(ctx, path, f"/export! {argument}", replaces)
    write_private(path, write(ctx))
    own(ctx, path)
    ctx.say(f"Written to {path}.")


def spare_others_files(ctx: CommandContext, path: Path, command: str, replaces: bool) -> None:
    """Refuse to replace a file that is not this conversation's own, unless ``replaces``."""
    if not replaces and os.path.lexists(path) and _place(path) not in ctx.own_files:
        raise UsageError(f"{path} is there already.", f"To replace it, type {command}")


def own(ctx: CommandContext, path: Path) -> None:
    """Let a file be this conversation's own, which it may replace."""
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
    Command("/export", "Write a transcript, as .md, .html, .json or .svg.", _export, "FILE", "path"),
    Command(
        "/export!",
        "The same, in place of a file that is there.",
        partial(_export, replaces=True),
        "FILE",
        "path",
    ),
)
