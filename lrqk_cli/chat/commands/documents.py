"""Commands about documents."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.table import Table

from lrqk_cli.chat.commands.registry import Command
from lrqk_cli.chat.desk import Desk
from lrqk_cli.documents import PageSelection
from lrqk_cli.documents.document import format_numbers
from lrqk_cli.errors import UsageError


def split_paths(text: str) -> list[Path]:
    """Read paths as a shell does: quotes and backslashes keep blanks.

    Raises:
        UsageError: a quote is not closed.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError("A quotation mark is not closed.", "Close it, or leave it out.") from error
    return [Path(word).expanduser() for word in words]


def _file(desk: Desk, argument: str) -> None:
    for document in desk.read_documents(split_paths(argument), desk.pages):
        entry = desk.session.add(document)
        desk.say(f"Added {entry.use.title}, {entry.use.tokens:,} tokens.")
    desk.show(desk.session.read(desk.cancelled))


def _files(desk: Desk, _: str) -> None:
    documents = desk.session.documents
    if not documents:
        raise UsageError("There are no documents.", "Add one with /file PATH.")
    table = _table("Document", "Pages", "Tokens", "From token")
    for use in documents:
        table.add_row(use.title, f"{use.pages:,}" if use.pages else "", f"{use.tokens:,}", f"{use.start:,}")
    desk.view.console.print(table)


def _pages(desk: Desk, argument: str) -> None:
    if argument:
        desk.pages = None if argument == "all" else PageSelection.parse(argument)
        desk.say(f"/file reads {f'pages {desk.pages}' if desk.pages else 'all pages'} from now on.")
        return
    spans, documents = desk.session.page_spans, desk.session.documents
    if not spans:
        raise UsageError("No document has pages.", "Add one with /file PATH.")
    table = _table("Document", "Pages", "Tokens a page")
    for index, use in enumerate(documents):
        own = [span for span in spans if span.document == index]
        if own:
            sizes = [span.end - span.start for span in own]
            numbers = format_numbers([span.page for span in own])
            table.add_row(use.title, numbers, f"{min(sizes):,} to {max(sizes):,}")
    desk.view.console.print(table)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 or heading == "Pages" else "right")
    return table


COMMANDS = (
    Command("/file", "Add documents to the conversation.", _file, "PATH...", "path"),
    Command("/files", "List the documents.", _files),
    Command("/pages", "Show the pages, or choose those that /file reads.", _pages, "[3-20|all]", "pages"),
)
