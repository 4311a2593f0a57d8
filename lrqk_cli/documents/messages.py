"""Messages between the reader process and its parent: JSON, one message a line.

The reader process sends nothing else: it has parsed untrusted files, and must not be able to make its parent
run code.
"""

from __future__ import annotations

import json
from typing import Any

from lrqk_cli.documents.document import Document, Page
from lrqk_cli.documents.locations import Location
from lrqk_cli.errors import DocumentError, LrqkError, UsageError

Message = dict[str, Any]

_ERRORS: dict[str, type[LrqkError]] = {kind.__name__: kind for kind in (DocumentError, UsageError)}


def encode(message: Message) -> bytes:
    """One line in ASCII; escapes keep the lone surrogates of file names."""
    return json.dumps(message).encode("ascii") + b"\n"


def decode(line: bytes) -> Message:
    """The inverse of ``encode``."""
    message: Message = json.loads(line)
    return message


def from_document(document: Document) -> Message:
    """A document as a message, without its path and title, which the parent knows."""
    pages = [[page.number, page.text, page.by_ocr] for page in document.pages]
    return {"pages": pages, "page_count": document.page_count, "warnings": document.warnings}


def to_document(path: Location, title: str, message: Message) -> Document:
    """The inverse of ``from_document``."""
    pages = tuple(Page(number, text, by_ocr) for number, text, by_ocr in message["pages"])
    return Document(path, title, pages, message["page_count"], tuple(message["warnings"]))


def from_error(error: DocumentError | UsageError) -> Message:
    """An error as a message."""
    return {"kind": type(error).__name__, "message": error.message, "hint": error.hint}


def to_error(message: Message) -> LrqkError:
    """The inverse of ``from_error``."""
    return _ERRORS[message["kind"]](message["message"], message["hint"])
