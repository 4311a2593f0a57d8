"""A conversation about documents, together with the engine of this process, which answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lrqk_cli.chat.answering import AnswerRun
from lrqk_cli.chat.chat import Chat, ReadingEvent, never
from lrqk_cli.chat.context_sync import ContextSync
from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Entry, Exchange
from lrqk_cli.chat.events import (
    Answer,
    Notice,
    ReasoningDelta,
    Remark,
    Reply,
    Status,
    TextDelta,
    Timing,
)
from lrqk_cli.chat.fitting import check_entries
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.chat.sources import find_sources
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.telemetry.stats import DecodeTotals

if TYPE_CHECKING:
    from lrqk_cli.engine.generate import Engine
    from lrqk_cli.engine.prefix import PrefixKeeper
    from lrqk_cli.engine.sampling import TokenConstraint
    from lrqk_cli.models.prompt import ChatPrompt, Detokenizer


class Session(Chat):
    """One conversation with an engine.

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
        max_context: the most tokens that a context of this model holds; also an attribute.
        new_stream: makes a decoder for tokens that go on with a text, or do not.
        keeper: restores and keeps documents; None for neither.
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
        new_stream: Callable[[bool], Detokenizer],
        keeper: PrefixKeeper | None = None,
    ) -> None:
        super().__init__(prompt, documents, generation)
        self.engine = engine
        self._context_sync = ContextSync(engine, keeper)
        self.stop_ids = stop_ids
        self._trained_context = trained_context
        self.max_context = max_context
        self._new_stream = new_stream
        self._warned = False
        self._told_of_reasoning = False

    def check_sources(self) -> None:
        """Refuse nothing: this engine knows what it attends to."""

    def note_sources(self, wanted: bool) -> None:
        """See ``Chat``."""
        if wanted != self._notes_sources:
            self.engine.track_sources(wanted)
            super().note_sources(wanted)

    def watch_reading(self, report: Callable[[PrefillProgress], None]) -> None:
        """See ``Chat``."""
        self._context_sync.on_layer = report

    def keep_no_rewind_points(self) -> None:
        """Keep no rewind points, which saves time and memory: after a removal the rest is read again.

        A model that reasons keeps them, because its reasoning is removed after each answer.
        """
        self._context_sync.keeps_rewind_points = self.conversation.prompt.reasoning is not None

    @property
    def config(self) -> LrqkConfig:
        """See ``Chat``."""
        return self.engine.config

    @property
    def unread(self) -> int:
        """See ``Chat``."""
        return len(self.transcript) - self.engine.length

    @property
    def is_read_again(self) -> bool:
        """See ``Chat``."""
        return self.engine.length == 0

    def read(self, cancelled: Callable[[], bool] = never) -> Generator[ReadingEvent, None, None]:
        """See ``Chat``."""
        # A conversation that goes on may have no room for a question; /undo makes some.
        if not self.conversation.exchanges:
            yield from self._check(self.conversation.length_with(""))
        yield from self._context_sync.catch_up(self.conversation, cancelled, set())

    def ask(
        self,
        question: str,
        cancelled: Callable[[], bool] = never,
        generation: GenerationConfig | None = None,
        constraint: TokenConstraint | None = None,
        top_logprobs: int | None = None,
    ) -> Generator[ReadingEvent | TextDelta | ReasoningDelta | Answer, None, None]:
        """See ``Chat``; ``cancelled`` is checked after every segment and token.

        If the engine fails, the rest of the conversation is read again.

        Args:
            constraint, top_logprobs: of the answer, without its reasoning; see ``Engine.generate``.
        """
        started = time.perf_counter()
        yield from self._check(self.conversation.length_with(question))
        self._cache = DecodeTotals()
        exchange = self.conversation.add_question(question)
        try:
            read, told = 0, set[str]()
            for reading in self._context_sync.catch_up(self.conversation, cancelled, told):
                read = reading.done if isinstance(reading, PrefillProgress) else read
                yield reading
            timing = Timing(read, time.perf_counter() - started, None)
            is_kept = self.engine.length > exchange.start
            if not is_kept:
                self.conversation.cut(exchange)
            drawn = generation or self.generation
            stream = self._new_stream(self.conversation.prompt.goes_on(self.conversation.tokens))
            run = AnswerRun(self.engine, self.conversation, drawn, self.stop_ids, stream, constraint)
            if is_kept and not (cancelled() or self.unread):
                yield from self._generate(exchange, run, cancelled, top_logprobs, told)
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

    def keep_turns(self, name: str) -> None:
        """See ``Chat``."""
        self._context_sync.keep_turns(name)

    def adjust(self, config: LrqkConfig) -> None:
        """See ``Chat``."""
        self.engine.adjust(config)

    def layer_misses(self) -> list[float]:
        """See ``Chat``."""
        return self.engine.layer_misses()

    def status(self) -> Status:
        """See ``Chat``."""
        engine = self.engine
        return Status(engine.length, engine.context, engine.memory(), self._cache, self.history.recent)

    def _check_added(self, entry: DocumentEntry) -> None:
        list(self._check(self.conversation.length_with(""), [entry]))

    def _check_adopted(
        self, conversation: Conversation, generation: GenerationConfig, *, leaves_room: bool
    ) -> None:
        needed, room = len(conversation.tokens), 0
        if leaves_room:
            needed, room = conversation.length_with(""), generation.max_new_tokens or 1
        check_entries(needed, room, self.engine.context, self.max_context, [])

    def _forget(self, entry: Entry) -> None:
        self._context_sync.forget(self.conversation, entry)

    def _change(self, standing: Conversation) -> None:
        self._context_sync.change(standing, self.conversation)

    def _start_again(self) -> None:
        self._context_sync.start_again(self.conversation)

    def _check(self, needed: int, removable: Sequence[DocumentEntry] | None = None) -> Iterator[Notice]:
        """Refuse ``needed`` tokens that do not fit; name the part of ``removable`` documents that would."""
        if removable is None and not self.conversation.exchanges:
            removable = [entry for entry in self.conversation.entries if isinstance(entry, DocumentEntry)]
        room = self.generation.max_new_tokens or 1
        check_entries(needed, room, self.engine.context, self.max_context, removable or ())
        if needed > self._trained_context and not self._warned:
            self._warned = True
            yield Notice(
                f"The text has {needed:,} tokens, but the model was trained on at most "
                f"{self._trained_context:,}. Answers may be worse."
            )

    def _generate(
        self,
        exchange: Exchange,
        run: AnswerRun,
        cancelled: Callable[[], bool],
        top_logprobs: int | None,
        told: set[str],
    ) -> Iterator[TextDelta | ReasoningDelta | Remark | Notice]:
        while (part := run.next_part()) is not None:
            try:
                for step in self.engine.generate(part, run.stop_ids, run.constraint, top_logprobs):
                    self._cache.add(step.stats)
                    self.history.add(step.stats)
                    for delta in run.take(step):
                        is_asked_for = self.generation.thinks or isinstance(delta, TextDelta)
                        if not is_asked_for and not self._told_of_reasoning:
                            self._told_of_reasoning = True
                            yield Remark("This model reasons in any case; `think` off cannot change that.")
                        yield delta
                    if step.finish_reason is None and cancelled():
                        run.end = "interrupted"
                    if run.is_part_over:
                        break
                continue
            except OutOfMemoryError as error:
                notices = [*self._context_sync.need_less(self.conversation, error, told)]
            # Out here the exception is gone, whose traceback holds tensors of the failed step.
            yield from notices
            yield from self._read_again(cancelled, told)
            if self.unread:
                run.end = "interrupted"
        yield from run.flush()
        if (weights := self.engine.source_weights()) is not None:
            exchange.sources = find_sources(weights, self.conversation, self._new_stream)

    def _read_again(self, cancelled: Callable[[], bool], told: set[str]) -> Iterator[Notice]:
        """Read the conversation within an answer, which goes on then."""
        for event in self._context_sync.catch_up(self.conversation, cancelled, told):
            if isinstance(event, Notice):
                yield event
