"""Commands about the pages that an answer rests on."""

from __future__ import annotations

import atexit
import shutil
import webbrowser
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile, mkdtemp

from rich.text import Text

from lrqk_cli.chat.events import SourcePage
from lrqk_cli.chat.summary import source_label
from lrqk_cli.errors import UsageError
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.commands.registry import Command
from lrqk_cli.terminal.echo import hidden_typing
from lrqk_cli.terminal.graphics import canvas_of, show_picture, with_marks
from lrqk_cli.terminal.graphics_query import Graphics, is_multiplexed, query_graphics
from lrqk_cli.terminal.sources_view import sources_view


def _sources(ctx: CommandContext, argument: str) -> None:
    session = ctx.session
    word, _, number = argument.partition(" ")
    if word == "--show":
        _show(ctx, number.strip() or "1")
        return
    if argument:
        if argument not in ("on", "off"):
            raise UsageError(
                f"/sources does not know '{argument}'.", "Type /sources, /sources on, off, or --show."
            )
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


def _show(ctx: CommandContext, number: str) -> None:
    """Draw the page of a source in the terminal; show what cannot be drawn as text, as /open does."""
    from lrqk_cli.documents.drawing import can_draw
    from lrqk_cli.webpage.illustrations import Illustrations, documents_by_path, excerpt

    source = _source_number(ctx, number)
    path, page, passage = source.document.path, source.page, source.passage
    if page is not None and can_draw():
        graphics = _graphics(ctx, number)
        with hidden_typing():
            drawn = Illustrations([source], ctx.limits, canvas=canvas_of(ctx.console, graphics))
            if drawing := drawn.drawings.get((path, page)):
                ctx.say(source_label(source))
                picture = with_marks(drawing, drawn.marks((path, page), passage))
                show_picture(ctx.console, picture, graphics)
                return
    elif page is not None:
        say_how_to_draw(ctx)
    around = excerpt(documents_by_path(ctx.session.conversation).get(path), page, passage)
    ctx.say(source_label(source))
    ctx.say(Text.assemble(around.before, (around.passage, "reverse"), around.after))


def _graphics(ctx: CommandContext, number: str) -> Graphics:
    """Return how the terminal shows pictures.

    Raises:
        UsageError: it does not.
    """
    graphics = query_graphics(ctx.console)
    if graphics is not None:
        return graphics
    otherwise = f"/open {number} shows the page in the browser."
    if is_multiplexed():
        raise UsageError(
            "The terminal multiplexer passes no pictures on.",
            f"tmux 3.4 and later does, if it was built with sixels; {otherwise}",
        )
    raise UsageError("This terminal shows no pictures.", otherwise)


def say_how_to_draw(ctx: CommandContext) -> None:
    """Say that pages are shown as text, and what would draw them."""
    ctx.say("Pages are shown as text; to draw them: pip install 'lrqk[pages]'")


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
        hint = "Ask again." if ctx.session.notes_sources else "Type /sources on, and ask again."
        raise UsageError("The newest answer has no sources.", hint)
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
    Command(
        "/sources",
        "Show the pages an answer rests on; '--show 2' draws one.",
        _sources,
        "[on|off]",
        "text",
    ),
    Command("/open", "Open the page of a source, by its place in /sources.", _open, "[N]", "text"),
)
