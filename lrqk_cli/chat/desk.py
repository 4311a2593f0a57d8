"""What the commands of an interactive chat act on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.events import Answer, Notice, TextDelta
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.chat.rendering import View
from lrqk_cli.chat.session import Session, never
from lrqk_cli.config import LrqkConfig
from lrqk_cli.documents import PageSelection
from lrqk_cli.engine.events import PrefillProgress

ChatEvent = PrefillProgress | Notice | TextDelta | Answer
ReadDocuments = Callable[[Sequence[Path], PageSelection | None], Sequence[DocumentLike]]


@dataclass(frozen=True, slots=True)
class Departure:
    """How a chat ends.

    Attributes:
        model: the model to go on with; None to leave.
        archive: the conversation to go on with.
    """

    model: str | None = None
    archive: Archive | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """What stands on the next line before the user has typed anything.

    Attributes:
        text: a question that was asked before.
        replaces: it is taken back when the line is entered.
    """

    text: str
    replaces: bool


@dataclass
class Desk:
    """Everything that a command may need.

    Attributes:
        session: the conversation.
        model: what the user calls the model.
        settings: of the attention, in force.
        view: on stderr.
        console: on stdout, a terminal.
        show: shows what a session does, until it has done it or is interrupted.
        read_documents: reads files, with a bar and warnings.
        cancelled: tells whether Ctrl-C was pressed while something is shown.
        pages: what /file reads of a document; None for all.
        draft: for the next line.
        departure: set to end the chat.
        threads: of the CPU that compute; None if it is not known.
    """

    session: Session
    model: str
    settings: LrqkConfig
    view: View
    console: Console
    read_documents: ReadDocuments
    show: Callable[[Iterable[ChatEvent]], None] = field(init=False)
    cancelled: Callable[[], bool] = never
    pages: PageSelection | None = None
    draft: Draft | None = None
    departure: Departure | None = None
    threads: int | None = None

    def say(self, text: str | Text = "") -> None:
        """Print a line that was asked for."""
        self.view.console.print(text if isinstance(text, Text) else Text(text))

    def say_what_is_unread(self) -> None:
        """Tell that all is read again with the next question, where the engine holds nothing of it."""
        unread = self.session.unread
        if self.session.engine.length == 0 and self.session.conversation.entries:
            self.say(f"The {unread:,} tokens of the conversation are read again with the next question.")
