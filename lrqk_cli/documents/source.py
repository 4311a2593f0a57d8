"""The input of a reader: a file's bytes and the options of reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lrqk_cli.documents.locations import Location
from lrqk_cli.documents.pages import PageSelection

Password = str | Callable[[Location], str | None] | None


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The bytes of one file.

    Attributes:
        path: the file, or where it was fetched; ``-`` for standard input.
        title: its name in prompts and messages.
        declared_suffix: of the type that a server declares; empty for the suffix of the path.
        charset: the encoding that a server declares.
    """

    path: Location
    title: str
    data: bytes = field(repr=False)
    declared_suffix: str = ""
    charset: str | None = None

    @property
    def suffix(self) -> str:
        """The file's suffix in lower case, with its dot."""
        return self.declared_suffix or self.path.suffix.lower()


def no_progress(done: int, total: int) -> None:
    """An ``on_page`` that does nothing."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """The options of reading a file.

    Attributes:
        pages: the pages to read; None for all.
        password: for encrypted files; a function is called for it, and again while it is wrong.
        on_page: called with the pages done and the pages to read of this file.
        on_scan: called so for its pages that are read by OCR, after the others.
        memory: bytes that reading may use.
    """

    pages: PageSelection | None = None
    password: Password = None
    on_page: Callable[[int, int], None] = no_progress
    on_scan: Callable[[int, int], None] = no_progress
    memory: int = 2 << 30
