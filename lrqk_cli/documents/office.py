"""Word, PowerPoint, Excel, HTML and EPUB files, through markitdown from the extra ``office``."""

from __future__ import annotations

import re
from io import BytesIO

from lrqk_cli.documents.document import Document, Page
from lrqk_cli.documents.normalise import normalise
from lrqk_cli.documents.pages import refuse_pages, select_pages
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError

_CONVERTERS = {
    ".docx": "DocxConverter",
    ".pptx": "PptxConverter",
    ".xlsx": "XlsxConverter",
    ".html": "HtmlConverter",
    ".htm": "HtmlConverter",
    ".xhtml": "HtmlConverter",
    ".epub": "EpubConverter",
}
OFFICE_SUFFIXES = frozenset(_CONVERTERS)
UNSUPPORTED_SUFFIXES = frozenset(
    {".doc", ".ppt", ".xls", ".odt", ".odp", ".ods", ".rtf", ".pages", ".numbers", ".key", ".mobi", ".azw3"}
)
_SLIDE = re.compile(r"<!-- Slide number: ([0-9]+) -->")
# Blanks and a byte order mark may come before the first tag.
_HTML = re.compile(rb"[\s\xef\xbb\xbf]*(?:<\?xml[^>]*>\s*)?<(?:!doctype html|html)\b", re.IGNORECASE)
_ZIP_MEMBERS = (
    (b"word/", ".docx"),
    (b"ppt/", ".pptx"),
    (b"xl/", ".xlsx"),
    (b"application/epub+zip", ".epub"),
)


def sniff_office(data: bytes) -> str | None:
    """The suffix of the office format of the bytes, for input without a name; None for other formats."""
    if _HTML.match(data):
        return ".html"
    if data.startswith(b"PK\x03\x04"):
        return next((suffix for member, suffix in _ZIP_MEMBERS if member in data), None)
    return None


def refuse_unsupported(source: SourceFile) -> None:
    """Refuse a known format that lrqk cannot read.

    Raises:
        DocumentError: the file has the suffix of such a format.
    """
    if source.suffix in UNSUPPORTED_SUFFIXES:
        raise DocumentError(
            f"{source.title} cannot be read: lrqk has no reader for {source.suffix} files.",
            "Save it as PDF or in a newer format, such as .docx, .pptx, .xlsx or .epub.",
        )


def read_office(source: SourceFile, options: ReadOptions) -> Document:
    """Convert a file to Markdown. Slides count as pages; the other formats have none.

    Raises:
        DocumentError: the extra ``office`` is not installed, the file is damaged or has no text, or it ends
            before a selected slide.
        UsageError: ``options`` select pages of a document without pages.
    """
    suffix = source.suffix if source.suffix in OFFICE_SUFFIXES else sniff_office(source.data) or ".html"
    if suffix == ".pptx":
        return _slides(source, options, _convert(source, suffix))
    refuse_pages(options.pages, source.title)
    text = normalise(_convert(source, suffix))
    if not text:
        raise _no_text(source)
    return Document(source.path, source.title, (Page(None, text),))


def _convert(source: SourceFile, suffix: str) -> str:
    """Convert the file to Markdown.

    Chooses the converter itself, because ``MarkItDown`` would read a damaged .docx as plain text.
    """
    try:
        from markitdown import MissingDependencyException, StreamInfo, converters
    except ImportError as error:
        raise _missing_extra(source, suffix) from error
    try:
        converter = getattr(converters, _CONVERTERS[suffix])()
        declared = StreamInfo(extension=suffix, charset=source.charset)
        converted = converter.convert(BytesIO(source.data), declared)
    except MissingDependencyException as error:
        raise _missing_extra(source, suffix) from error
    except MemoryError:
        raise
    # The converters use five libraries, each with its own exceptions.
    except Exception as error:
        raise DocumentError(
            f"{source.title} cannot be read: it is damaged, encrypted or not a {suffix} file.",
            "Open it in its own program and save it again, or save it as PDF.",
        ) from error
    return str(converted.markdown)


def _slides(source: SourceFile, options: ReadOptions, markdown: str) -> Document:
    """A document with one page a slide, split at the comments that markitdown puts before each slide."""
    parts = _SLIDE.split(markdown)
    texts = {int(number): normalise(text) for number, text in zip(parts[1::2], parts[2::2], strict=True)}
    count = max(texts, default=0)
    if not any(texts.values()):
        raise _no_text(source)
    numbers = select_pages(options.pages, count, source.title)
    pages = tuple(Page(number, texts.get(number, "")) for number in numbers)
    return Document(source.path, source.title, pages, count)


def _missing_extra(source: SourceFile, suffix: str) -> DocumentError:
    return DocumentError(
        f"{source.title} cannot be read: the reader of {suffix} files is not installed.",
        "Run pip install 'lrqk[office]', or save the file as PDF.",
    )


def _no_text(source: SourceFile) -> DocumentError:
    return DocumentError(f"{source.title} has no text.", "Choose a file that has text in it.")
