"""The interfaces that a conversation uses: of documents, of chat formats, and of the view of its opening."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol

from lrqk_cli.memory.plan import Plan
from lrqk_cli.models.progress import OnProgress

if TYPE_CHECKING:
    from lrqk_cli.models.reasoning import ReasoningMarks


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


class ChatFormat(Protocol):
    """The pieces of a chat format as tokens, see ``models.prompt.ChatPrompt``."""

    @property
    def system(self) -> str | None:
        """The system text; None for the format's own default."""

    @property
    def thinks(self) -> bool:
        """Whether the model is to reason."""

    @property
    def reasoning(self) -> ReasoningMarks | None:
        """How the model marks reasoning; None if it does not reason, or not in the answer's text."""

    @property
    def counts_exactly(self) -> bool:
        """Whether there are as many tokens as the model reads, and not about as many."""

    def with_system(self, system: str | None, /) -> ChatFormat:
        """Return the same format with another system text."""

    def with_thinking(self, thinks: bool, /) -> ChatFormat:
        """Return the same format with reasoning on or off.

        Raises:
            UsageError: the format has no reasoning.
        """

    def opening(self) -> list[int]:
        """Everything before the first user content, the system text included."""

    def text(self, text: str, after: Sequence[int] = (), /) -> list[int]:
        """Encode untrusted text that follows the tokens ``after``."""

    def goes_on(self, tokens: Sequence[int], /) -> bool:
        """Whether text behind these tokens begins with no blank of the vocabulary's own."""

    def closing(self) -> list[int]:
        """From the end of a user content to where the answer begins."""

    def answered(self) -> list[int]:
        """From the end of a user content to the answer of an earlier turn."""

    def between(self) -> list[int]:
        """From the end of an answer to where the next user content begins."""

    def spells(self, tokens: Sequence[int], text: str, /) -> bool:
        """Whether tokens, which may come from a file, are an answer of exactly this text."""


class OpeningView(Protocol):
    """Shows the work that comes before a conversation."""

    def note(self, message: str, /) -> None:
        """Show a less important message."""

    def planned(self, plan: Plan, /) -> None:
        """Show the plan of the model's memory."""

    def pulling(self, name: str, otherwise: str = ..., /) -> AbstractContextManager[OnProgress]:
        """Show the stages of fetching a model; ``otherwise`` labels the work outside these stages."""
