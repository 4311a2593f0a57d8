"""Documents that have been read: pages of clean text, and their form in a prompt."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from lrqk_cli.documents.locations import Location

_BETWEEN_PAGES = "\n\n"
_NO_TEXT = "(no text on this page)"
# What a prompt has ahead of a page.
PAGE_MARK = "[Page {}]\n"
_DELIMITER = re.compile(r"<(?=\s*(?:/\s*)?document\b)", re.IGNORECASE)
_PAGE_MARK = re.compile(r"^([ \t]*)\[(Page [0-9]+)\]", re.IGNORECASE | re.MULTILINE)
# Small models repeat entities such as &quot; in answers, so look-alikes replace the delimiters.
_TITLE = str.maketrans({'"': "'", "<": "‹", ">": "›"})


@dataclass(frozen=True, slots=True)
class Span:
    """A half-open range of characters."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page.

    Attributes:
        number: its number in the file, from 1; None for the body of a document without pages.
        text: its normalised text; empty if the page has only pictures.
        by_ocr: the text was recognised on a picture of the page, and may have errors.
    """

    number: int | None
    text: str
    by_ocr: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of the prompt.

    Attributes:
        text: the text for the prompt, marks included.
        page: number of its page; None for marks around the pages and for documents without pages.
        by_ocr: see ``Page``.
    """

    text: str
    page: int | None
    by_ocr: bool = False


@dataclass(frozen=True)
class Document:
    """A document that has been read.

    Attributes:
        path: its file, or where it was fetched; ``-`` for standard input.
        title: its name in prompts and messages.
        pages: the selected pages, in order; one page without a number if ``paginated`` is false.
        page_count: pages of the file, selected or not; 0 if it has none.
        warnings: warnings for the user, one plain sentence each.
    """

    path: Location
    title: str
    pages: tuple[Page, ...]
    page_count: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def paginated(self) -> bool:
        """Whether the pages have numbers."""
        return self.page_count > 0

    @cached_property
    def text(self) -> str:
        """The pages as one text, without marks."""
        return _BETWEEN_PAGES.join(page.text for page in self.pages)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The characters of each of ``pages`` in ``text``."""
        spans, start = [], 0
        for page in self.pages:
            spans.append(Span(start, start + len(page.text)))
            start += len(page.text) + len(_BETWEEN_PAGES)
        return tuple(spans)

    @property
    def empty_pages(self) -> tuple[int, ...]:
        """Numbers of the pages that have no text."""
        return tuple(page.number for page in self.pages if page.number is not None and not page.text)

    def sections(self) -> list[Section]:
        """The document for a prompt: a header, one section a page, a footer.

        Text that looks like these marks is changed visibly: ``</document>`` to ``<\\/document>``,
        a line that begins with ``[Page 3]`` to ``(Page 3)``.
        """
        body = [Section(_page_section(page), page.number, page.by_ocr) for page in self.pages]
        return [Section(self._header(), None), *body, Section("</document>\n\n", None)]

    def _header(self) -> str:
        title = " ".join(self.title.translate(_TITLE).split())
        if not self.paginated:
            return f'<document title="{title}">\n'
        count = str(self.page_count)
        if len(self.pages) < self.page_count:
            numbers = [page.number for page in self.pages if page.number is not None]
            count = f"{format_numbers(numbers)} of {count}"
        return f'<document title="{title}" pages="{count}">\n'


def format_numbers(numbers: list[int] | tuple[int, ...]) -> str:
    """Ascending numbers as ranges: ``3-5, 9``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _page_section(page: Page) -> str:
    text = _DELIMITER.sub(r"<\\", page.text)
    if page.number is None:
        return f"{text}\n"
    text = _PAGE_MARK.sub(r"\1(\2)", text)
    return f"{PAGE_MARK.format(page.number)}{text or _NO_TEXT}\n\n"
