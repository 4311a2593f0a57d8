"""Selections of pages, such as ``3-20,25``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lrqk_cli.errors import DocumentError, UsageError

_RANGE = re.compile(r"\s*(?P<first>[0-9]{1,9})?\s*(?:(?P<dash>[-\u2013])\s*(?P<last>[0-9]{1,9})?\s*)?")
_HINT = "Write page numbers from 1 and ranges, such as 3-20,25 or 12- for page 12 to the end."


@dataclass(frozen=True, slots=True)
class PageSelection:
    """Pages and ranges of pages.

    Attributes:
        ranges: first and last page, both included; last is None for "to the end".
        waits: it is for documents with pages alone; others are read whole, and not refused.
    """

    ranges: tuple[tuple[int, int | None], ...]
    waits: bool = False

    @classmethod
    def parse(cls, text: str, *, waits: bool = False) -> PageSelection:
        """Read ``3-20,25``; ``3-`` and ``-20`` are open at one end.

        Raises:
            UsageError: the text names no pages.
        """
        return cls(tuple(_parse_range(part, text) for part in text.split(",")), waits)

    def __str__(self) -> str:
        """The selection as ``parse`` reads it."""
        return ",".join(_format_range(first, last) for first, last in self.ranges)

    def numbers(self, page_count: int, title: str) -> list[int]:
        """The selected page numbers of a document, ascending, each once.

        Raises:
            DocumentError: the document ends before a selected page.
        """
        beyond = max(last or first for first, last in self.ranges)
        if beyond > page_count:
            pages = "1 page" if page_count == 1 else f"{page_count:,} pages"
            raise DocumentError(
                f"Page {beyond} was asked for, but {title} has {pages}.",
                f"Choose pages from 1 to {page_count} with `pages`.",
            )
        chosen: set[int] = set()
        for first, last in self.ranges:
            chosen.update(range(first, (last or page_count) + 1))
        return sorted(chosen)


def select_pages(pages: PageSelection | None, page_count: int, title: str) -> list[int]:
    """The page numbers to read; all of them without a selection.

    Raises:
        DocumentError: the document ends before a selected page.
    """
    return list(range(1, page_count + 1)) if pages is None else pages.numbers(page_count, title)


def refuse_pages(pages: PageSelection | None, title: str) -> None:
    """Refuse a page selection for a document without pages.

    Raises:
        UsageError: ``pages`` is a selection that does not wait.
    """
    if pages is not None and not pages.waits:
        raise UsageError(
            f"`pages` {pages} was asked for, but {title} has no pages.",
            "Leave `pages` out, or give it with PDF files and slides only.",
        )


def _parse_range(part: str, text: str) -> tuple[int, int | None]:
    match = _RANGE.fullmatch(part)
    if match is None or not (match["first"] or match["last"]):
        raise UsageError(f"`pages` '{text}' names no pages.", _HINT)
    first = int(match["first"] or 1)
    last = int(match["last"]) if match["last"] else None
    if match["dash"] is None:
        last = first
    if first == 0 or last == 0:
        raise UsageError(f"`pages` '{text}' asks for page 0, but pages are counted from 1.", _HINT)
    if last is not None and last < first:
        raise UsageError(
            f"`pages` '{text}' has a range that runs backwards, from {first} to {last}.",
            f"Write {last}-{first}.",
        )
    return first, last


def _format_range(first: int, last: int | None) -> str:
    if last is None:
        return f"{first}-"
    return str(first) if first == last else f"{first}-{last}"
