"""Exports of a conversation: Markdown to read, JSON to process. Documents appear by name only."""

from __future__ import annotations

from collections.abc import Sequence

from lrqk_cli.chat import printable
from lrqk_cli.chat.archive import Archive, SavedDocument, SavedExchange
from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Exchange
from lrqk_cli.chat.report import source_reports
from lrqk_cli.chat.summary import sources_line

ENDINGS = {
    "length": "The answer stopped at the limit of new tokens.",
    "context": "The answer stopped because the context was full.",
    "interrupted": "The answer was interrupted.",
}


def to_markdown(conversation: Conversation, model: str) -> str:
    """Return Markdown with the questions as quotes and the answers unchanged."""
    entries = [
        name_document(entry) if isinstance(entry, DocumentEntry) else entry
        for entry in conversation.entries
        if isinstance(entry, DocumentEntry | Exchange)
    ]
    return _markdown(model, conversation.prompt.system, entries)


def archive_to_markdown(archive: Archive) -> str:
    """Return the Markdown of a saved conversation; its documents have no numbers of tokens."""
    entries = [_name_saved(entry) if isinstance(entry, SavedDocument) else entry for entry in archive.entries]
    return _markdown(archive.model, archive.system, entries)


def archive_messages(archive: Archive) -> list[dict[str, object]]:
    """Return the documents and messages of a saved conversation, as ``to_json`` lists them."""
    items = list[dict[str, object]]()
    for entry in archive.entries:
        if isinstance(entry, SavedDocument):
            items.append(
                {"role": "document", "path": entry.path, "title": entry.title, "pages": _pages(entry)}
            )
        else:
            items += _messages(entry)
    return items


def name_document(entry: DocumentEntry) -> str:
    """Return a line that names a document, with its size."""
    pages = f", {entry.use.pages:,} pages" if entry.pages else ""
    return f"{entry.use.title}{pages}, {entry.use.size}"


def to_json(conversation: Conversation, model: str) -> str:
    """Return one object: model, system text, and a list of documents and messages in order."""
    items = list[dict[str, object]]()
    for entry in conversation.entries:
        if isinstance(entry, DocumentEntry):
            use = entry.use
            items.append(
                {
                    "role": "document",
                    "path": use.path,
                    "title": use.title,
                    "pages": use.pages,
                    "tokens": use.tokens,
                }
            )
        elif isinstance(entry, Exchange):
            items += _messages(entry)
    plain = {"model": model, "system": conversation.prompt.system, "messages": items}
    return printable.to_json(plain, indent=2) + "\n"


def _markdown(model: str, system: str | None, entries: Sequence[str | Exchange | SavedExchange]) -> str:
    """Return Markdown; documents are given by their lines."""
    parts = [f"# A conversation with {model}"]
    if system:
        parts.append(f"Instructions: {system}")
    for entry in entries:
        if isinstance(entry, str):
            parts.append(f"*{entry}*")
            continue
        parts += ["## Question", _quoted(entry.question), "## Answer"]
        if entry.answer is not None:
            parts.append(entry.answer.text.strip())
            if ending := ENDINGS.get(entry.answer.finish_reason):
                parts.append(f"*{ending}*")
        if isinstance(entry, Exchange) and entry.sources is not None:
            line = sources_line(entry.sources)
            parts.append(f"*{line}*" if line else "")
    return printable.printable("\n\n".join(part for part in parts if part) + "\n")


def _messages(exchange: Exchange | SavedExchange) -> list[dict[str, object]]:
    found: list[dict[str, object]] = [{"role": "user", "content": exchange.question}]
    if (answer := exchange.answer) is not None:
        found.append({"role": "assistant", "content": answer.text, "finish_reason": answer.finish_reason})
        if isinstance(exchange, Exchange) and exchange.sources is not None:
            found[-1]["sources"] = source_reports(exchange.sources)
    return found


def _name_saved(document: SavedDocument) -> str:
    pages = _pages(document)
    return f"{document.title}{f', {pages:,} pages' if pages else ''}"


def _pages(document: SavedDocument) -> int:
    return len({part.page for part in document.parts} - {None})


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
