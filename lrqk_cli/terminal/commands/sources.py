"""Commands about the pages that an answer rests on."""

from __future__ import annotations

import atexit
import shutil
import webbrowser
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp

from lrqk_cli.chat.events import SourcePage
from lrqk_cli.errors import UsageError
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
    from lrqk_cli.webpage.build import to_source_page

    source = _source_number(ctx, argument or "1")
    page = to_source_page(ctx.session.conversation, source, ctx.limits)
    # Always a page of ours, never the document: a system would run some, such as scripts.
    with NamedTemporaryFile(
        "w", encoding="utf-8", prefix="page-", suffix=".html", dir=_folder(), delete=False
    ) as file:
        file.write(page)
    if not webbrowser.open(Path(file.name).as_uri()):
        raise UsageError("This system has no browser that shows the page.", f"The page is in {file.name}.")
    ctx.say(f"Opened {file.name}.")


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
    folder = Path(mkdtemp(prefix="lrqk-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


COMMANDS = (
    Command("/sources", "Show the pages that the answer rests on; on or off.", _sources, "[on|off]", "text"),
    Command("/open", "Open the page of a source, by its place in /sources.", _open, "[N]", "text"),
)
