"""What was said, as tokens: documents and exchanges, of which the last ones can be taken away."""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lrqk_cli.chat.events import AnswerSources, DocumentUse, PageSpan, Reply
from lrqk_cli.chat.protocols import DocumentLike

if TYPE_CHECKING:
    from lrqk_cli.engine.rewind_points import EngineRewindPoint
    from lrqk_cli.models.prompt import ChatPrompt


@dataclass(eq=False)
class Entry:
    """A part of a conversation that can be taken away as a whole.

    Attributes:
        start: tokens before it.
        in_open_turn: it came within a user's turn that had already begun.
        rewind_point: the engine's point before it; None where none has been kept.
    """

    start: int
    in_open_turn: bool
    rewind_point: EngineRewindPoint | None = field(default=None, init=False)


@dataclass(eq=False)
class DocumentEntry(Entry):
    """A document.

    Attributes:
        document: what was read.
        use: what it takes of the context.
        pages: where its pages lie.
    """

    document: DocumentLike
    use: DocumentUse
    pages: list[PageSpan]


@dataclass(eq=False)
class Exchange(Entry):
    """A question and its answer.

    Attributes:
        question: as it was asked.
        answer_start: tokens before the answer.
        answer: None until it is finished.
        sources: what the answer rests on; None where that was not noted.
    """

    question: str
    answer_start: int
    answer: Reply | None = None
    sources: AnswerSources | None = None


class Conversation:
    """The text as it is meant to be.

    A user's turn holds documents and one question; documents may come before any question.

    Args:
        prompt: pieces of the chat template.

    Attributes:
        tokens: all of it.
        entries: its parts after the opening.
        turn_is_open: a user's turn has begun, and its question has not been asked.
    """

    def __init__(self, prompt: ChatPrompt) -> None:
        self.prompt = prompt
        self.tokens = prompt.opening()
        self.entries: list[Entry] = []
        self.turn_is_open = True

    @property
    def documents(self) -> list[DocumentUse]:
        """What each document takes of the context."""
        return [entry.use for entry in self._document_entries()]

    @property
    def page_spans(self) -> list[PageSpan]:
        """Where the pages of all documents lie."""
        return [span for entry in self._document_entries() for span in entry.pages]

    @property
    def exchanges(self) -> list[Exchange]:
        """Questions and answers."""
        return [entry for entry in self.entries if isinstance(entry, Exchange)]

    def turn(self, question: str) -> list[int]:
        """Return what a question would add, up to where its answer begins."""
        return [*self._begin(), *self.prompt.text(question), *self.prompt.closing()]

    def add_document(self, document: DocumentLike) -> DocumentEntry:
        """Put a document at the end of the user's turn, which it begins if need be."""
        begin, index = self._begin(), len(self.documents)
        start, was_open = len(self.tokens), self.turn_is_open
        self.tokens += begin
        first, pages = len(self.tokens), list[PageSpan]()
        for section in document.sections():
            section_start = len(self.tokens)
            self.tokens += self.prompt.text(section.text)
            if section.page is not None:
                pages.append(PageSpan(index, section.page, section_start, len(self.tokens)))
        count = len({span.page for span in pages})
        use = DocumentUse(document.title, str(document.path), count, first, len(self.tokens))
        entry = DocumentEntry(start, was_open, document, use, pages)
        self.entries.append(entry)
        self.turn_is_open = True
        return entry

    def add_question(self, question: str) -> Exchange:
        """Put a question at the end; its answer is to follow."""
        start, was_open = len(self.tokens), self.turn_is_open
        self.tokens += self.turn(question)
        entry = Exchange(start, was_open, question, len(self.tokens))
        self.entries.append(entry)
        self.turn_is_open = False
        return entry

    def cut(self, entry: Entry) -> None:
        """Take away an entry and all after it."""
        del self.entries[self.entries.index(entry) :]
        del self.tokens[entry.start :]
        self.turn_is_open = entry.in_open_turn

    def with_prompt(self, prompt: ChatPrompt) -> Conversation:
        """Return the same conversation with other pieces around it; its answers keep their tokens."""
        moved = Conversation(prompt)
        for number, entry in enumerate(self.entries, start=1):
            if isinstance(entry, DocumentEntry):
                moved.add_document(entry.document)
            elif isinstance(entry, Exchange):
                exchange = moved.add_question(entry.question)
                exchange.answer, exchange.sources = entry.answer, entry.sources
                end = self.entries[number].start if number < len(self.entries) else len(self.tokens)
                moved.tokens += self.tokens[entry.answer_start : end]
        return moved

    def copy(self) -> Conversation:
        """Return the same conversation, which stays as it is while this one goes on."""
        copied = copy(self)
        copied.tokens, copied.entries = [*self.tokens], [*self.entries]
        return copied

    def _begin(self) -> list[int]:
        return [] if self.turn_is_open else self.prompt.between()

    def _document_entries(self) -> Iterator[DocumentEntry]:
        return (entry for entry in self.entries if isinstance(entry, DocumentEntry))
