"""What a conversation needs of documents, and of whoever looks on while it is opened."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from lrqk_cli.memory.planner import Plan
from lrqk_cli.models.progress import OnProgress


class SectionLike(Protocol):
    """A piece of a document's text, on one page or on none."""

    @property
    def text(self) -> str:
        """What goes into the prompt."""

    @property
    def page(self) -> int | None:
        """The page's number; None for marks around the pages."""


class DocumentLike(Protocol):
    """A document that has been read."""

    @property
    def title(self) -> str:
        """How messages name it."""

    @property
    def path(self) -> object:
        """Where it came from."""

    def sections(self) -> Sequence[SectionLike]:
        """Its text in order, marks included."""


class OpeningView(Protocol):
    """What is told of the work that comes before a conversation."""

    def note(self, message: str, /) -> None:
        """A sentence of lesser weight."""

    def planned(self, plan: Plan, /) -> None:
        """What was planned for the model's memory."""

    def pulling(self, name: str, otherwise: str = ..., /) -> AbstractContextManager[OnProgress]:
        """The stages of getting a model; ``otherwise`` says what goes on outside of them."""
