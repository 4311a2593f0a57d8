"""Commands about documents."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from lrqk_cli.chat.events import DocumentUse, PageSpan
from lrqk_cli.documents import PageSelection
from lrqk_cli.documents.document import format_numbers
from lrqk_cli.documents.locations import DocumentUrl, Location, locate
from lrqk_cli.errors import UsageError
from lrqk_cli.system_errors import reason_of
from lrqk_cli.terminal.command_context import CommandContext
from lrqk_cli.terminal.commands.registry import Command
from lrqk_cli.user_folders import expanded


def split_locations(text: str) -> list[Location]:
    """Split a line into paths and URLs as a shell does: quotes and backslashes keep blanks.

    Raises:
        UsageError: a quote is not closed, or a word is not a possible path.
        DocumentError: a URL cannot be fetched.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError("A quotation mark is not closed.", "Close it, or leave it out.") from error
    return [_location(word) for word in words]


def one_path(text: str) -> Path:
    """Read one path, which may have blanks; handle quotes and backslashes as a shell does, if it can.

    Raises:
        UsageError: the text is not a possible path.
    """
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    return _path(words[0] if len(words) == 1 else text)


def _location(word: str) -> Location:
    place = locate(word)
    return place if isinstance(place, DocumentUrl) else _path(word)


def _path(word: str) -> Path:
    if not word or "\0" in word:
        raise UsageError(f"'{word}' is not a path.", "Check what you typed.")
    try:
        path = expanded(Path(word))
        path.exists()
    except OSError as error:
        raise UsageError(
            f"The path {_shortened(word)} cannot be used: {reason_of(error)}.", "Choose another."
        ) from error
    return path


def _shortened(word: str) -> str:
    return word if len(word) <= 60 else f"{word[:57]}..."


def _file(ctx: CommandContext, argument: str) -> None:
    places = split_locations(argument)
    try:
        documents = ctx.read_documents(places, ctx.pages)
    except UsageError as error:
        error.hint = "Type /pages all, and then /file again."
        raise
    for entry in [ctx.session.add(document) for document in documents]:
        ctx.say(f"Added {entry.use.title}, {entry.use.size}.")
    ctx.show(ctx.session.read(ctx.cancelled))


def _files(ctx: CommandContext, _: str) -> None:
    documents = ctx.session.documents
    if not documents:
        raise UsageError("There are no documents.", "Add one with /file PATH.")
    table = make_table("Document", "Pages", "Tokens", "From token")
    for use in documents:
        about = "~" * use.is_estimate
        pages = f"{use.pages:,}" if use.pages else ""
        table.add_row(use.title, pages, f"{about}{use.tokens:,}", f"{about}{use.start:,}")
    ctx.view.console.print(table)


def _pages(ctx: CommandContext, argument: str) -> None:
    if argument:
        ctx.pages = None if argument == "all" else PageSelection.parse(argument)
        ctx.say(f"/file reads {f'pages {ctx.pages}' if ctx.pages else 'all pages'} from now on.")
        return
    spans = ctx.session.page_spans
    if ctx.pages is not None:
        ctx.say(f"/file reads pages {ctx.pages}; /pages all changes that.")
    elif not spans:
        raise UsageError("No document has pages.", "Add one with /file PATH.")
    if spans:
        ctx.view.console.print(_table_of_pages(spans, ctx.session.documents))


def _table_of_pages(spans: Sequence[PageSpan], documents: Sequence[DocumentUse]) -> Table:
    names_scans = any(span.by_ocr for span in spans)
    table = make_table("Document", "Pages", "Tokens a page", *["Pages by OCR"] * names_scans)
    for index, use in enumerate(documents):
        own = [span for span in spans if span.document == index]
        if own:
            sizes = [span.end - span.start for span in own]
            numbers = format_numbers([span.page for span in own])
            scans = format_numbers([span.page for span in own if span.by_ocr])
            table.add_row(use.title, numbers, f"{min(sizes):,} to {max(sizes):,}", *[scans] * names_scans)
    return table


def make_table(*headings: str) -> Table:
    """Return a table in the style of the chat; columns of names, pages and documents are left-aligned."""
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        is_text = number == 0 or heading.startswith(("Pages", "Documents"))
        table.add_column(heading, justify="left" if is_text else "right")
    return table


COMMANDS = (
    Command("/file", "Add documents: files, folders or URLs.", _file, "PATH...", "path"),
    Command("/files", "List the documents.", _files),
    Command("/pages", "Show the pages, or choose those that /file reads.", _pages, "[3-20|all]", "pages"),
)
