"""Reads text, Markdown and source code."""

from __future__ import annotations

import codecs

from lrqk_cli.documents.document import Document, Page
from lrqk_cli.documents.normalise import normalise
from lrqk_cli.documents.pages import refuse_pages
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError

# UTF-32 first, because its little-endian mark begins with that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SNIFFED_BYTES = 8192


def is_binary(data: bytes) -> bool:
    """Whether the first 8 KiB hold a NUL byte, without a byte order mark of UTF-16 or UTF-32."""
    return b"\0" in data[:SNIFFED_BYTES] and _marked_encoding(data) is None


def read_text(source: SourceFile, options: ReadOptions) -> Document:
    """Read a text file.

    Raises:
        DocumentError: the file is binary or empty.
        UsageError: ``options`` select pages.
    """
    if is_binary(source.data):
        raise DocumentError(
            f"{source.title} is not a text file.",
            "lrqk reads PDF, text, Markdown, source code, HTML, EPUB, .docx, .pptx and .xlsx files.",
        )
    text, warning = decode(source.data)
    text = normalise(text)
    if not text:
        raise DocumentError(f"{source.title} is empty.", "Choose a file that has text in it.")
    refuse_pages(options.pages, source.title)
    warnings = (f"{source.title}: {warning}",) if warning else ()
    return Document(source.path, source.title, (Page(None, text),), warnings=warnings)


def decode(data: bytes) -> tuple[str, str]:
    """Decode by the byte order mark, else as UTF-8, else as Windows-1252.

    Returns:
        The text, and a warning if the encoding was guessed or some bytes are lost; else an empty string.
    """
    marked = _marked_encoding(data)
    try:
        return data.decode(marked or "utf-8"), ""
    except UnicodeDecodeError:
        pass
    text = data.decode(marked or "utf-8", "replace")
    damaged = text.count("\ufffd")
    intact = sum(1 for char in text if ord(char) > 127) - damaged
    # Windows-1252 text hardly ever forms a valid UTF-8 sequence, so such sequences mean damaged UTF-8 and not
    # another encoding.
    if marked or intact > damaged:
        places = "1 place" if damaged == 1 else f"{damaged:,} places"
        return text, f"{places} could not be decoded and became \ufffd."
    try:
        return data.decode("cp1252"), "it is not UTF-8 and was read as Windows-1252."
    except UnicodeDecodeError:
        return data.decode("latin-1"), "it is not UTF-8 and was read as Latin-1."


def _marked_encoding(data: bytes) -> str | None:
    return next((name for mark, name in _BYTE_ORDER_MARKS if data.startswith(mark)), None)
