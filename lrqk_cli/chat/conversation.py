"""A conversation as tokens: documents and exchanges, of which the last ones can be removed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from lrqk_cli.chat.events import AnswerSources, DocumentUse, PageSpan, Reply
from lrqk_cli.chat.protocols import ChatFormat, DocumentLike

if TYPE_CHECKING:
    from lrqk_cli.engine.rewind_points import EngineRewindPoint


@dataclass(eq=False)
class Entry:
    """A part of a conversation that can be removed as a whole.

    Attributes:
        start: tokens before it.
        in_open_turn: the user's turn had already begun before it.
        rewind_point: the engine's rewind point before it; None if none is kept.
    """

    start: int
    in_open_turn: bool
    rewind_point: EngineRewindPoint | None = field(default=None, init=False)


@dataclass(eq=False)
class DocumentEntry(Entry):
    """A document.

    Attributes:
        use: its tokens in the context.
        pages: the token spans of its pages.
    """

    document: DocumentLike
    use: DocumentUse
    pages: list[PageSpan]


@dataclass(eq=False)
class Exchange(Entry):
    """A question and its answer.

    Attributes:
        answer_start: tokens before the answer; before what is generated while it is not finished.
        answer: None until it is finished.
        sources: the pages that the answer rests on; None while sources are off.
    """

    question: str
    answer_start: int
    answer: Reply | None = None
    sources: AnswerSources | None = None


class Conversation:
    """The documents, questions and answers, as text entries and as tokens.

    A user's turn holds documents and one question; documents may come before any question.

    Args:
        prompt: the pieces of the chat template.

    Attributes:
        tokens: the whole conversation.
        entries: its parts after the opening.
        turn_is_open: a user's turn has begun and has no question yet.
    """

    def __init__(self, prompt: ChatFormat) -> None:
        self.prompt = prompt
        self.tokens = prompt.opening()
        self.entries: list[Entry] = []
        self.turn_is_open = True

    @property
    def documents(self) -> list[DocumentUse]:
        """Each document's tokens in the context."""
        return [entry.use for entry in self._document_entries()]

    @property
    def documents_end(self) -> int:
        """Tokens up to the end of the documents before the first question; 0 without documents."""
        leading = list(takewhile(lambda entry: isinstance(entry, DocumentEntry), self.entries))
        if not leading:
            return 0
        return self.entries[len(leading)].start if len(self.entries) > len(leading) else len(self.tokens)

    @property
    def page_spans(self) -> list[PageSpan]:
        """The token spans of all pages."""
        return [span for entry in self._document_entries() for span in entry.pages]

    @property
    def exchanges(self) -> list[Exchange]:
        """Questions and answers."""
        return [entry for entry in self.entries if isinstance(entry, Exchange)]

    def turn(self, question: str) -> list[int]:
        """Return the tokens that a question would add, up to the start of its answer."""
        begin = self._begin()
        asked = self.prompt.text(question, begin or self.tokens)
        return [*begin, *asked, *self.prompt.closing()]

    def length_with(self, question: str) -> int:
        """Return the number of tokens that the conversation would have with a question."""
        return len(self.tokens) + len(self.turn(question))

    def add_document(self, document: DocumentLike) -> DocumentEntry:
        """Append a document to the user's turn; begin a turn if none is open."""
        begin, index = self._begin(), len(self.documents)
        start, was_open = len(self.tokens), self.turn_is_open
        self.tokens += begin
        first, pages = len(self.tokens), list[PageSpan]()
        for section in document.sections():
            section_start = len(self.tokens)
            self.tokens += self.prompt.text(section.text, self.tokens)
            if section.page is not None:
                end = len(self.tokens)
                pages.append(PageSpan(index, section.page, section_start, end, section.by_ocr))
        count = len({span.page for span in pages})
        is_estimate = not self.prompt.counts_exactly
        use = DocumentUse(document.title, str(document.path), count, first, len(self.tokens), is_estimate)
        entry = DocumentEntry(start, was_open, document, use, pages)
        self.entries.append(entry)
        self.turn_is_open = True
        return entry

    def add_question(self, question: str) -> Exchange:
        """Append a question; the caller appends what is generated, and at the end calls ``finish``."""
        start, was_open = len(self.tokens), self.turn_is_open
        self.tokens += self.turn(question)
        entry = Exchange(start, was_open, question, len(self.tokens))
        self.entries.append(entry)
        self.turn_is_open = False
        return entry

    def finish(self, exchange: Exchange, answer: Sequence[int]) -> None:
        """Give the last exchange the tokens of an earlier turn: its question and ``answer`` alone."""
        del self.tokens[exchange.answer_start - len(self.prompt.closing()) :]
        self.tokens += self.prompt.answered()
        exchange.answer_start = len(self.tokens)
        self.tokens += answer

    def answer_tokens(self, exchange: Exchange) -> list[int]:
        """Return the tokens between an exchange's question and the next entry."""
        following = self.entries.index(exchange) + 1
        end = self.entries[following].start if following < len(self.entries) else len(self.tokens)
        return self.tokens[exchange.answer_start : end]

    def cut(self, entry: Entry) -> None:
        """Remove an entry and all later entries."""
        del self.entries[self.entries.index(entry) :]
        del self.tokens[entry.start :]
        self.turn_is_open = entry.in_open_turn

    def with_prompt(self, prompt: ChatFormat) -> Conversation:
        """Return the same conversation in another chat format; its answers keep their tokens."""
        moved = Conversation(prompt)
        for entry in self.entries:
            if isinstance(entry, DocumentEntry):
                moved.add_document(entry.document)
            elif isinstance(entry, Exchange):
                exchange = moved.add_question(entry.question)
                exchange.answer, exchange.sources = entry.answer, entry.sources
                moved.finish(exchange, self.answer_tokens(entry))
        return moved

    def thinking(self, thinks: bool) -> Conversation:
        """Return the same conversation in the chat format with reasoning on or off.

        Raises:
            UsageError: the format has no reasoning.
        """
        return self if self.prompt.thinks == thinks else self.with_prompt(self.prompt.with_thinking(thinks))

    def copy(self) -> Conversation:
        """Return a copy that later changes of this conversation do not affect."""
        copied = copy(self)
        copied.tokens, copied.entries = [*self.tokens], [*self.entries]
        return copied

    def _begin(self) -> list[int]:
        return [] if self.turn_is_open else self.prompt.between()

    def _document_entries(self) -> Iterator[DocumentEntry]:
        return (entry for entry in self.entries if isinstance(entry, DocumentEntry))
