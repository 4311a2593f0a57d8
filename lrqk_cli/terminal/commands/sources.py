"""Commands about the pages that an answer rests on."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import typer

from lrqk_cli.chat.events import SourcePage
from lrqk_cli.chat.private_files import write_private
from lrqk_cli.documents.drawing import can_draw
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.reader_process import ReaderProcess
from lrqk_cli.documents.source import SourceFile
from lrqk_cli.errors import DocumentError, UsageError
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.commands.registry import Command
from lrqk_cli.terminal.sources_view import sources_view


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


def _open(ctx: CommandContext, argument: str) -> None:
    source = _source_number(ctx, argument or "1")
    path = _page_file(source) or Path(source.document.path)
    if not path.is_file():
        raise UsageError(f"{source.document.title} is not there any more.", "/sources shows its passage.")
    if typer.launch(str(path)):
        raise UsageError("This system has no program that shows the page.", f"It is in {path}.")
    ctx.say(f"Opened {source.document.title}{'' if source.page is None else f', page {source.page}'}.")


def _page_file(source: SourcePage) -> Path | None:
    """Return a file of the page with its passage marked; None if it cannot be drawn."""
    if source.page is None or not can_draw():
        return None
    from lrqk_cli.webpage.build import to_source_page

    file = SourceFile(Path(source.document.path), source.document.title, b"")
    try:
        with ReaderProcess(ReadLimits()) as process:
            drawing = process.draw(file, source.page, [source.passage])
    except DocumentError:
        return None
    path = _folder() / f"page-{source.page}.html"
    write_private(path, to_source_page(source, drawing))
    return path


def _source_number(ctx: CommandContext, argument: str) -> SourcePage:
    """Return a source of the newest answer by its place in /sources, from 1."""
    exchanges = ctx.session.conversation.exchanges
    sources = exchanges[-1].sources if exchanges else None
    if sources is None or not sources.pages:
        raise UsageError("The newest answer has no sources.", "Type /sources on, and ask again.")
    if not argument.isdecimal() or not 1 <= int(argument) <= len(sources.pages):
        raise UsageError(f"There is no source {argument}.", f"Type a number up to {len(sources.pages)}.")
    return sources.pages[int(argument) - 1]


@cache
def _folder() -> Path:
    """Return a private folder for pages that are shown, which goes with the process."""
    folder = Path(tempfile.mkdtemp(prefix="lrqk-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


COMMANDS = (
    Command("/sources", "Show the pages that the answer rests on; on or off.", _sources, "[on|off]", "text"),
    Command("/open", "Open the page of a source, by its place in /sources.", _open, "[N]", "text"),
)
