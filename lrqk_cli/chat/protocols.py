"""The interfaces that a conversation uses: of documents, and of the view that shows its opening."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from lrqk_cli.memory.plan import Plan
from lrqk_cli.models.progress import OnProgress


class SectionLike(Protocol):
    """A piece of a document's text, on one page or on none."""

    @property
    def text(self) -> str:
        """The text for the prompt."""

    @property
    def page(self) -> int | None:
        """The number of the page; None for marks around the pages."""

    @property
    def by_ocr(self) -> bool:
        """Whether the text was recognised on a picture of the page."""


class DocumentLike(Protocol):
    """A document that has been read."""

    @property
    def title(self) -> str:
        """The name in messages."""

    @property
    def path(self) -> object:
        """The file's path."""

    def sections(self) -> Sequence[SectionLike]:
        """The sections in order, marks included."""


class OpeningView(Protocol):
    """Shows the work that comes before a conversation."""

    def note(self, message: str, /) -> None:
        """Show a less important message."""

    def planned(self, plan: Plan, /) -> None:
        """Show the plan of the model's memory."""

    def pulling(self, name: str, otherwise: str = ..., /) -> AbstractContextManager[OnProgress]:
        """Show the stages of fetching a model; ``otherwise`` labels the work outside these stages."""
