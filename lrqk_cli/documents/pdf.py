"""Reads PDF files with pypdf, in its plain extraction mode.

Layout mode keeps table columns apart, but it mixes the lines of two-column pages, drops text inside figures,
needs up to twice the characters, mostly spaces, and loses the word gaps of some LaTeX lines. Plain mode
follows the drawing order of a page, which is the reading order in nearly all files. Comments and highlights
are left out. Text boxes and the values of form fields are visible on the page, so they belong to its text.
Pages on which there is none are recognised from what they look like, if the extra ``ocr`` is there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from lrqk_cli.documents import ocr
from lrqk_cli.documents.document import Document, Page, format_numbers
from lrqk_cli.documents.hyphens import join_words
from lrqk_cli.documents.normalise import normalise, shown_name
from lrqk_cli.documents.pages import select_pages
from lrqk_cli.documents.pdf_text import page_text
from lrqk_cli.documents.shares import read_pages, share_count
from lrqk_cli.documents.source import Password, ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError
from lrqk_cli.memory.cpus import usable_cpus

if TYPE_CHECKING:
    from pypdf import PdfReader

# pypdf makes millions of small objects that are in no cycle. To look for cycles only after so many new ones
# takes a tenth less time.
_OBJECTS_BEFORE_COLLECTION = 100_000
_ATTEMPTS = 3
_NAMED = 5


def is_pdf(data: bytes) -> bool:
    """Whether the PDF signature is near the start; some writers put a few bytes before it."""
    return b"%PDF-" in data[:1024]


def read_pdf(source: SourceFile, options: ReadOptions) -> Document:
    """Read a PDF file.

    Raises:
        DocumentError: the file is damaged or encrypted, ends before a selected page, or has no text.
    """
    reader, password, page_count = _open(source, options.password)
    numbers = select_pages(options.pages, page_count, source.title)
    with _few_collections():
        found = read_pages(partial(_text_of, reader), numbers, options.on_page)
    texts = dict(zip(numbers, found, strict=True))
    scans = _read_scans(source, password, [number for number in numbers if not texts[number]], options)
    joined = join_words([texts[number] or scans.get(number, "") for number in numbers])
    pages = [Page(number, text, number in scans) for number, text in zip(numbers, joined, strict=True)]
    empty = [number for number in numbers if not texts[number] and number not in scans]
    broken = [number for number in empty if texts[number] is None]
    _refuse_empty(source, empty, broken, len(pages))
    warnings = _warnings(source.title, [number for number in empty if number not in broken], broken, [*scans])
    attached = _attachments(source.title, reader)
    return Document(source.path, source.title, tuple(pages), page_count, (*warnings, *attached))


@contextmanager
def _few_collections() -> Iterator[None]:
    usual = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION, *usual[1:])
    try:
        yield
    finally:
        gc.set_threshold(*usual)


def _read_scans(
    source: SourceFile, password: str, numbers: list[int], options: ReadOptions
) -> dict[int, str]:
    """The text of those of some pages on which OCR finds any; none without the extra ``ocr``."""
    if not numbers or not ocr.is_installed():
        return {}
    count = share_count(len(numbers), least_pages=1, most=options.memory // ocr.PROCESS_BYTES)
    recognise = ocr.PageRecogniser(source.data, password, max(1, usable_cpus() // count))
    found = read_pages(recognise, numbers, options.on_scan, count)
    return {number: text for number, text in zip(numbers, found, strict=True) if text}


def _open(source: SourceFile, password: Password) -> tuple[PdfReader, str, int]:
    """An unlocked reader, the password that has unlocked it, and its number of pages."""
    from pypdf import PdfReader

    try:
        reader = PdfReader(BytesIO(source.data))
        opened_by = _unlock(reader, source, password) if reader.is_encrypted else ""
        page_count = len(reader.pages)
    except (DocumentError, MemoryError):
        raise
    except NotImplementedError as error:
        raise DocumentError(
            f"{source.title} is encrypted in a way that cannot be read.", "Save it without encryption."
        ) from error
    # On a damaged file the parser may raise anything: KeyError, RecursionError, struct.error, ...
    except Exception as error:
        raise DocumentError(
            f"{source.title} cannot be read: the PDF file is damaged.",
            "Open it in a PDF viewer and save it again, or get another copy.",
        ) from error
    if page_count == 0:
        raise DocumentError(f"{source.title} has no pages.", "Get another copy of the file.")
    return reader, opened_by, page_count


def _unlock(reader: PdfReader, source: SourceFile, password: Password) -> str:
    """Decrypt with the empty password, as viewers do, else with the given password; return that which did."""
    if reader.decrypt(""):
        return ""
    given = 0
    for attempt in _attempts(source, password):
        if reader.decrypt(attempt):
            return attempt
        given += 1
    if given:
        raise DocumentError(
            f"{source.title} is encrypted, and the password is wrong.",
            "Check the password. Type `file` again." if callable(password) else "Check `password`.",
        )
    raise DocumentError(
        f"{source.title} is encrypted, and no password was given.",
        "Give its password with `password`.",
    )


def _attempts(source: SourceFile, password: Password) -> Iterator[str]:
    if not callable(password):
        if password is not None:
            yield password
        return
    for _ in range(_ATTEMPTS):
        answer = password(source.path)
        if not answer:
            return
        yield answer


def _text_of(reader: PdfReader, number: int) -> str | None:
    """The text of a page; None if it cannot be extracted."""
    try:
        page: Any = reader.pages[number - 1]
        return normalise(page_text(page))
    except MemoryError:
        raise
    # As in ``_open``; one broken page must not lose the others.
    except Exception:
        return None


def _refuse_empty(source: SourceFile, empty: list[int], broken: list[int], read: int) -> None:
    if len(empty) < read:
        return
    if broken == empty:
        where = f"page {empty[0]}" if read == 1 else f"any of the pages {format_numbers(empty)}"
        raise DocumentError(
            f"{source.title} is damaged: there is no text to be had from {where}.",
            "Open it in a PDF viewer and save it again, or get another copy.",
        )
    if read == 1:
        what = f"page {empty[0]}: it seems to be a scan or a picture"
    else:
        what = f"any of the pages {format_numbers(empty)}: they seem to be scans or pictures"
    raise DocumentError(f"{source.title} has no text on {what}.", _no_text_hint())


def _no_text_hint() -> str:
    if ocr.is_installed():
        return "OCR found no text either. If a person can read it, scan it anew, larger and upright."
    return "Run pip install 'lrqk[ocr]', which reads scans by OCR."


def _warnings(title: str, empty: list[int], broken: list[int], scans: list[int]) -> tuple[str, ...]:
    found = []
    if scans:
        found.append(
            f"{title}: {_pages(scans)} {_was(scans)} read by OCR, which may have misread some letters."
        )
    if empty:
        verb = "has" if len(empty) == 1 else "have"
        by = (
            "; OCR found none either"
            if ocr.is_installed()
            else "; pip install 'lrqk[ocr]' reads scans by OCR"
        )
        found.append(f"{title}: {_pages(empty)} {verb} no text{by}.")
    if broken:
        found.append(f"{title}: {_pages(broken)} could not be read and went in empty.")
    return tuple(found)


def _attachments(title: str, reader: PdfReader) -> list[str]:
    """A warning that names the files that are attached to the file; none without any."""
    try:
        # Many entries may stand for one file.
        names = list(dict.fromkeys(shown_name(attached.name) for attached in reader.attachment_list))
    except MemoryError:
        raise
    # As in ``_open``; a malformed list of attachments must not lose the pages.
    except Exception:
        return []
    if not names:
        return []
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return [f"{title}: attached files are not read: {', '.join(names[:_NAMED])}{more}."]


def _pages(numbers: list[int]) -> str:
    return f"{'page' if len(numbers) == 1 else 'pages'} {format_numbers(numbers)}"


def _was(numbers: list[int]) -> str:
    return "was" if len(numbers) == 1 else "were"
