"""What a reader is given, and what it tells while it reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from lrqk_cli.documents.pages import PageSelection

STDIN = Path("-")

Password = str | Callable[[Path], str | None] | None


@dataclass(frozen=True, slots=True)
class SourceFile:
    """The bytes of one file.

    Attributes:
        path: where they came from; ``-`` for standard input.
        title: how prompts and messages name the file.
    """

    path: Path
    title: str
    data: bytes = field(repr=False)

    @property
    def suffix(self) -> str:
        """The file's suffix in lower case, with its dot."""
        return self.path.suffix.lower()


def no_progress(done: int, total: int) -> None:
    """An ``on_page`` for those who do not want to know."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What was asked for, beside the file.

    Attributes:
        pages: the pages to read; None for all.
        password: for encrypted files; a function is asked for it, and again while it is wrong.
        on_page: told pages done and pages to read, of this file.
    """

    pages: PageSelection | None = None
    password: Password = None
    on_page: Callable[[int, int], None] = no_progress
