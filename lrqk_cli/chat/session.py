"""A conversation about documents, together with the engine that answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lrqk_cli.chat.answering import AnswerRun
from lrqk_cli.chat.context_sync import ContextSync, ReadingEvent, never
from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Entry, Exchange
from lrqk_cli.chat.events import (
    Answer,
    DocumentUse,
    Notice,
    PageSpan,
    ReasoningDelta,
    Remark,
    Reply,
    Status,
    TextDelta,
    Timing,
)
from lrqk_cli.chat.fitting import check_fit
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.chat.sources import find_sources
from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.errors import UsageError
from lrqk_cli.telemetry.history import StepHistory
from lrqk_cli.telemetry.stats import DecodeTotals

if TYPE_CHECKING:
    from lrqk_cli.engine.generate import Engine
    from lrqk_cli.engine.prefix import PrefixKeeper
    from lrqk_cli.models.prompt import ChatPrompt, Detokenizer


class Session:
    """One conversation.

    The engine holds the first ``engine.length`` tokens of ``transcript``. Tokens that an interrupt leaves
    unread are read before the next question, so none is lost or doubled. The last documents and questions can
    be removed exactly, see ``ContextSync``; so is the reasoning of a finished answer.

    Args:
        engine: holds the context; must be empty.
        prompt: the model's chat format, with the system text in its opening; reasons as ``generation`` says.
        documents: placed at the start of the first user turn.
        generation: sampling settings of the answers.
        stop_ids: tokens that end an answer.
        trained_context: tokens the model was trained on; a longer text gives one warning.
        max_context: the most tokens that a context of this model holds.
        new_stream: makes a decoder for the tokens of one answer.
        keeper: restores and keeps documents; None for neither.

    Attributes:
        generation: sampling settings of the next answers.
        conversation: documents, questions and answers.
        history: counters of all decode steps.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: ChatPrompt,
        documents: Sequence[DocumentLike],
        generation: GenerationConfig,
        *,
        stop_ids: Collection[int],
        trained_context: int,
        max_context: int,
        new_stream: Callable[[], Detokenizer],
        keeper: PrefixKeeper | None = None,
    ) -> None:
        self.engine = engine
        self.generation = generation
        self.conversation = Conversation(prompt)
        self.history = StepHistory()
        self._context_sync = ContextSync(engine, keeper)
        self._stop_ids = stop_ids
        self._trained_context = trained_context
        self._max_context = max_context
        self._new_stream = new_stream
        self._warned = False
        self._told_of_reasoning = False
        self._notes_sources = False
        self._cache = DecodeTotals()
        for document in documents:
            self.conversation.add_document(document)

    @property
    def transcript(self) -> list[int]:
        """The tokens that the engine should hold."""
        return self.conversation.tokens

    @property
    def documents(self) -> list[DocumentUse]:
        """Each document's tokens in the context."""
        return self.conversation.documents

    @property
    def page_spans(self) -> list[PageSpan]:
        """The token spans of all pages."""
        return self.conversation.page_spans

    @property
    def notes_sources(self) -> bool:
        """Whether answers come with their sources."""
        return self._notes_sources

    def note_sources(self, wanted: bool) -> None:
        """Switch the sources of answers on or off, from the next answer on."""
        if wanted != self._notes_sources:
            self.engine.track_sources(wanted)
            self._notes_sources = wanted

    def watch_reading(self, report: Callable[[PrefillProgress], None]) -> None:
        """Call ``report`` with the progress of reading, also between the events of ``read`` and ``ask``."""
        self._context_sync.on_layer = report

    def keep_no_rewind_points(self) -> None:
        """Keep no rewind points, which saves time and memory: after a removal the rest is read again.

        A model that reasons keeps them, because its reasoning is removed after each answer.
        """
        self._context_sync.keeps_rewind_points = self.conversation.prompt.reasoning is not None

    @property
    def unread(self) -> int:
        """Tokens to read before the next answer."""
        return len(self.transcript) - self.engine.length

    def read(self, cancelled: Callable[[], bool] = never) -> Generator[ReadingEvent, None, None]:
        """Read all tokens ahead of the next question, until ``cancelled`` is true.

        Raises:
            ContextLengthError: the tokens leave no room for an answer; none has been read.
        """
        yield from self._check(len(self.transcript) + len(self.conversation.turn("")))
        yield from self._context_sync.catch_up(self.conversation, cancelled)

    def ask(
        self,
        question: str,
        cancelled: Callable[[], bool] = never,
        generation: GenerationConfig | None = None,
    ) -> Generator[ReadingEvent | TextDelta | ReasoningDelta | Answer, None, None]:
        """Ask one question. The last event is the ``Answer``, unless the engine fails.

        ``cancelled`` is checked after every segment and token. If it is true before any token of the question
        was read, the question is dropped; otherwise it stays, with the answer so far.

        Args:
            generation: sampling settings of this answer; None for those of the session.

        Raises:
            ContextLengthError: the question and an answer do not fit; the conversation is unchanged.
            Exception: whatever the engine raises; the question is dropped, and the rest is read again.
        """
        started = time.perf_counter()
        yield from self._check(len(self.transcript) + len(self.conversation.turn(question)))
        self._cache = DecodeTotals()
        exchange = self.conversation.add_question(question)
        try:
            read = 0
            for reading in self._context_sync.catch_up(self.conversation, cancelled):
                read = reading.done if isinstance(reading, PrefillProgress) else read
                yield reading
            timing = Timing(read, time.perf_counter() - started, None)
            is_kept = self.engine.length > exchange.start
            if not is_kept:
                self.conversation.cut(exchange)
            drawn = generation or self.generation
            run = AnswerRun(self.engine, self.conversation, drawn, self._stop_ids, self._new_stream())
            if is_kept and not (cancelled() or self.unread):
                yield from self._generate(exchange, run, cancelled)
                if run.first_token_at is not None:
                    timing = replace(timing, ttft_s=run.first_token_at - started)
            answer = run.result(timing, self._cache, exchange.sources)
            if is_kept:
                exchange.answer = Reply(answer.text, answer.finish_reason, answer.new_tokens)
                self._context_sync.finish(self.conversation, exchange, run.answer)
            yield answer
        except Exception:
            if exchange in self.conversation.entries:
                self.conversation.cut(exchange)
            self._context_sync.start_again(self.conversation)
            raise

    def add(self, document: DocumentLike) -> DocumentEntry:
        """Append a document to the conversation; ``read`` or the next question reads it.

        Raises:
            ContextLengthError: it leaves no room for an answer; the conversation is unchanged.
        """
        entry = self.conversation.add_document(document)
        try:
            list(self._check(len(self.transcript) + len(self.conversation.turn("")), [entry]))
        except Exception:
            self.conversation.cut(entry)
            raise
        return entry

    def drop(self) -> Entry:
        """Forget the last document or exchange, whichever came last, as if it had never been.

        Raises:
            UsageError: there is none.
        """
        if not self.conversation.entries:
            raise UsageError("There is nothing to forget.", "The conversation has not begun.")
        entry = self.conversation.entries[-1]
        self._context_sync.forget(self.conversation, entry)
        return entry

    def undo(self) -> Exchange:
        """Forget the last question and its answer, as if they had never been.

        Raises:
            UsageError: nothing was asked, or a document came after it.
        """
        last = self.conversation.entries[-1] if self.conversation.entries else None
        if isinstance(last, Exchange):
            self._context_sync.forget(self.conversation, last)
            return last
        if self.conversation.exchanges:
            raise UsageError("A document came after the last question.", "Forget it first, with /drop.")
        raise UsageError("Nothing has been asked yet.", "Ask a question first.")

    def clear(self, *, documents: bool = False) -> None:
        """Forget all questions and answers; with ``documents``, the documents too."""
        entries = self.conversation.entries
        forgotten = [entry for entry in entries if documents or isinstance(entry, Exchange)]
        if forgotten:
            later = entries[entries.index(forgotten[0]) :]
            kept = [entry.document for entry in later if isinstance(entry, DocumentEntry)]
            self._context_sync.forget(self.conversation, forgotten[0])
            for document in () if documents else kept:
                self.conversation.add_document(document)
        self.history = StepHistory()
        self._cache = DecodeTotals()

    def set_system(self, system: str | None) -> None:
        """Replace the system text; the next question reads the whole conversation again.

        Raises:
            ContextLengthError: the conversation does not fit with the new text, and is unchanged.
        """
        self.adopt(self.conversation.with_prompt(self.conversation.prompt.with_system(system)))

    def adopt(self, conversation: Conversation, generation: GenerationConfig | None = None) -> None:
        """Replace the conversation, which the next question reads, and optionally the sampling settings.

        Raises:
            ContextLengthError: the new conversation does not fit; the current one is unchanged.
            UsageError: the model is to reason, and cannot.
        """
        generation = generation or self.generation
        conversation = conversation.thinking(generation.thinks)
        needed = len(conversation.tokens) + len(conversation.turn(""))
        self._check_fit(needed, [], [], generation)
        self.conversation, self.generation = conversation, generation
        self._context_sync.start_again(conversation)

    def set_generation(self, generation: GenerationConfig) -> None:
        """Replace the sampling settings.

        Raises:
            UsageError: the model is to reason, and cannot.
        """
        self.restore(self.conversation.thinking(generation.thinks))
        self.generation = generation

    def restore(self, conversation: Conversation) -> None:
        """Go back to an earlier copy of the conversation, see ``Conversation.copy``."""
        standing, self.conversation = self.conversation, conversation
        self._context_sync.change(standing, conversation)

    def keep_turns(self, name: str) -> None:
        """Keep what the model computed for the turns, to go on from in the session ``name``."""
        self._context_sync.keep_turns(name)

    def status(self) -> Status:
        """The context, memory and counters of the conversation now."""
        engine = self.engine
        return Status(engine.length, engine.context, engine.memory(), self._cache, self.history.recent)

    def _check_fit(
        self, needed: int, uses: Sequence[DocumentUse], pages: Sequence[PageSpan], drawn: GenerationConfig
    ) -> None:
        room = drawn.max_new_tokens or 1
        check_fit(needed, room, self.engine.context, self._max_context, uses, pages)

    def _check(self, needed: int, removable: Sequence[DocumentEntry] | None = None) -> Iterator[Notice]:
        """Refuse ``needed`` tokens that do not fit; name the part of ``removable`` documents that would."""
        if removable is None and not self.conversation.exchanges:
            removable = [entry for entry in self.conversation.entries if isinstance(entry, DocumentEntry)]
        uses = [entry.use for entry in removable or ()]
        entries = enumerate(removable or ())
        pages = [replace(span, document=index) for index, entry in entries for span in entry.pages]
        self._check_fit(needed, uses, pages, self.generation)
        if needed > self._trained_context and not self._warned:
            self._warned = True
            yield Notice(
                f"The text has {needed:,} tokens, but the model was trained on at most "
                f"{self._trained_context:,}. Answers may be worse."
            )

    def _generate(
        self, exchange: Exchange, run: AnswerRun, cancelled: Callable[[], bool]
    ) -> Iterator[TextDelta | ReasoningDelta | Remark]:
        while (part := run.next_part()) is not None:
            for step in self.engine.generate(part, run.stop_ids):
                self._cache.add(step.stats)
                self.history.add(step.stats)
                for delta in run.take(step):
                    is_asked_for = self.generation.thinks or isinstance(delta, TextDelta)
                    if not is_asked_for and not self._told_of_reasoning:
                        self._told_of_reasoning = True
                        yield Remark("This model reasons in any case; --think off cannot change that.")
                    yield delta
                if step.finish_reason is None and cancelled():
                    run.end = "interrupted"
                if run.is_part_over:
                    break
        yield from run.flush()
        if (weights := self.engine.source_weights()) is not None:
            exchange.sources = find_sources(weights, self.conversation, self._new_stream)
