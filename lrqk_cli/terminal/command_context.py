"""What the commands of an interactive chat act on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.context_sync import never
from lrqk_cli.chat.events import Answer, Notice, TextDelta
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.chat.session import Session
from lrqk_cli.config import LrqkConfig
from lrqk_cli.documents import PageSelection
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.terminal.view import View

ChatEvent = PrefillProgress | Notice | TextDelta | Answer
ReadDocuments = Callable[[Sequence[Path], PageSelection | None], Sequence[DocumentLike]]
LookUp = Callable[[str, Archive, Session], None]


@dataclass(frozen=True, slots=True)
class ChatExit:
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
class CommandContext:
    """Everything that a command may need.

    Attributes:
        session: the conversation.
        model: what the user calls the model.
        settings: of the attention, in force.
        attention: the mode as it was asked for: ``auto``, or the one in ``settings``.
        view: on stderr.
        console: on stdout, a terminal.
        show: shows what a session does, until it has done it or is interrupted.
        read_documents: reads files, with a bar and warnings.
        look_up: makes sure that a conversation can go on with another model, as far as can be told while
            this session's is still there.
        cancelled: tells whether Ctrl-C was pressed while something is shown.
        pages: what /file reads of a document; None for all.
        draft: for the next line.
        chat_exit: set to end the chat.
        own_files: those that this conversation was written to or came from.
        threads: of the CPU that compute; None if it is not known.
    """

    session: Session
    model: str
    settings: LrqkConfig
    view: View
    console: Console
    read_documents: ReadDocuments
    look_up: LookUp
    show: Callable[[Generator[ChatEvent, None, None]], None] = field(init=False)
    cancelled: Callable[[], bool] = never
    pages: PageSelection | None = None
    draft: Draft | None = None
    chat_exit: ChatExit | None = None
    attention: str = "auto"
    own_files: frozenset[Path] = frozenset()
    threads: int | None = None

    def checkpoint(self) -> Callable[[], None]:
        """Note how things stand; return what brings them back."""
        session, settings = self.session, self.settings
        conversation, generation = session.conversation.copy(), session.generation
        notes_sources, pages, own_files = session.notes_sources, self.pages, self.own_files

        def restore() -> None:
            self.draft = self.chat_exit = None
            self.pages, self.own_files = pages, own_files
            session.generation = generation
            session.restore(conversation)
            session.note_sources(notes_sources)
            if self.settings != settings:
                session.engine.adjust(settings)
                self.settings = settings

        return restore

    def say(self, text: str | Text = "") -> None:
        """Print a line that was asked for."""
        self.view.console.print(text if isinstance(text, Text) else Text(text))

    def say_what_is_unread(self) -> None:
        """Tell that all is read again with the next question, where the engine holds nothing of it."""
        unread = self.session.unread
        if self.session.engine.length == 0 and self.session.conversation.entries:
            self.say(f"The {unread:,} tokens of the conversation are read again with the next question.")
