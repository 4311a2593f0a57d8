"""The state on which the commands of an interactive chat act."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from lrqk_cli.chat.archive import Archive, make_archive
from lrqk_cli.chat.chat import Chat, ReadingEvent, never
from lrqk_cli.chat.chat_session import ChatSession
from lrqk_cli.chat.events import Answer, ReasoningDelta, TextDelta
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.config import LrqkConfig
from lrqk_cli.documents import PageSelection
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.locations import Location
from lrqk_cli.terminal.view import View

ChatEvent = ReadingEvent | ReasoningDelta | TextDelta | Answer
ReadDocuments = Callable[[Sequence[Location], PageSelection | None], Sequence[DocumentLike]]
LookUp = Callable[[str, Archive, Chat], None]


@dataclass(frozen=True, slots=True)
class ChatExit:
    """How a chat ends.

    Attributes:
        model: the model to continue with; None to leave.
        archive: the conversation to continue.
    """

    model: str | None = None
    archive: Archive | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """The initial text of the next input line.

    Attributes:
        text: an earlier question.
        replaces: whether entering the line takes that question back.
    """

    text: str
    replaces: bool


@dataclass
class CommandContext:
    """The objects that a command may use.

    Attributes:
        session: the conversation.
        model: the user's name of the model.
        attention: the mode that the user set: ``auto``, or the one in force.
        view: the view on stderr.
        console: the terminal on stdout.
        show: shows the events of a session, until they end or Ctrl-C stops them.
        read_documents: reads files and URLs, with a bar and warnings.
        look_up: checks that a conversation can continue with another model, as far as possible while this
            session's model is loaded.
        cancelled: returns whether Ctrl-C was pressed while events are shown.
        limits: of the process that draws pages.
        pages: the pages that /file reads of a document; None for all.
        draft: the initial text of the next line.
        chat_exit: set to end the chat.
        own_files: the files that this conversation was saved to or loaded from.
        chat_session: where the conversation is recorded.
        record: records it as it stands.
        tokenizer_id: returns what identifies the tokenizer of a saved answer's tokens; None if unknown.
        threads: CPU threads that compute; None if unknown.
        endpoint: the address of the server that answers; None for this process.
    """

    session: Chat
    model: str
    view: View
    console: Console
    read_documents: ReadDocuments
    look_up: LookUp
    show: Callable[[Generator[ChatEvent, None, None]], None] = field(init=False)
    cancelled: Callable[[], bool] = never
    limits: ReadLimits = field(default_factory=ReadLimits)
    pages: PageSelection | None = None
    draft: Draft | None = None
    chat_exit: ChatExit | None = None
    attention: str = "auto"
    own_files: frozenset[Path] = frozenset()
    threads: int | None = None
    endpoint: str | None = None
    chat_session: ChatSession = field(default_factory=lambda: ChatSession(None))
    record: Callable[[], None] = lambda: None
    tokenizer_id: Callable[[], str | None] = lambda: None

    @property
    def config(self) -> LrqkConfig | None:
        """The settings of the attention in force; None if a server has its own."""
        return self.session.config

    def checkpoint(self) -> Callable[[], None]:
        """Record conversation and settings; return a function that restores them."""
        session, config = self.session, self.config
        conversation, generation = session.conversation.copy(), session.generation
        notes_sources, pages, own_files = session.notes_sources, self.pages, self.own_files
        wanted = self.chat_session.wanted

        def restore() -> None:
            self.draft = self.chat_exit = None
            self.pages, self.own_files, self.chat_session.wanted = pages, own_files, wanted
            session.generation = generation
            session.restore(conversation)
            session.note_sources(notes_sources)
            standing = session.config
            if config is not None and standing is not None:
                # Where memory has run out meanwhile, the hot set may be too small for all of before.
                before = replace(standing, tail=config.tail, top_k=min(config.top_k, standing.hot))
                if before != standing:
                    session.adjust(before)

        return restore

    def archive(self, tokenizer: str | None = None) -> Archive:
        """Return the conversation as it is saved; ``tokenizer`` see ``make_archive``."""
        session = self.session
        settings = session.generation, self.config, tokenizer, self.endpoint, self.chat_session.wanted
        return make_archive(session.conversation, self.model, *settings)

    def say(self, text: str | Text = "") -> None:
        """Print a line of a command's output."""
        self.view.console.print(text if isinstance(text, Text) else Text(text))

    def say_what_is_unread(self) -> None:
        """Say so if the next question reads the conversation again."""
        unread = self.session.unread
        if self.session.is_read_again and self.session.conversation.entries:
            self.say(f"The {unread:,} tokens of the conversation are read again with the next question.")
