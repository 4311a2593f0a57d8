"""A conversation about documents: which tokens are in the context, and what was said."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from lrqk_cli.chat.events import (
    Answer,
    AnswerEnd,
    DocumentUse,
    Notice,
    PageSpan,
    Status,
    TextDelta,
    Timing,
)
from lrqk_cli.chat.fitting import check_fit
from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.events import MemoryUse, PrefillProgress, Step
from lrqk_cli.telemetry.stats import DecodeTotals


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


class PromptFormat(Protocol):
    """A chat template, cut into the pieces that a conversation is made of."""

    def opening(self) -> list[int]:
        """What stands before the first user text."""

    def text(self, text: str, /) -> list[int]:
        """Plain text, in which no control token acts as such."""

    def closing(self) -> list[int]:
        """What stands between a user's text and the answer."""

    def between(self) -> list[int]:
        """What stands between an answer and the next user text."""


class TextStream(Protocol):
    """Turns tokens into text, holding back characters that are not complete."""

    def push(self, token: int, /) -> str:
        """Text that this token completes."""

    def flush(self) -> str:
        """Text that was held back."""


class EngineLike(Protocol):
    """A model with its cache. ``length`` is the truth about what is in the context."""

    @property
    def length(self) -> int:
        """Tokens in the cache."""

    @property
    def context(self) -> int:
        """Tokens that the cache holds at most."""

    def prefill(self, tokens: Sequence[int]) -> Iterator[PrefillProgress]:
        """Append tokens, segment by segment."""

    def generate(self, generation: GenerationConfig, stop_ids: Collection[int]) -> Iterator[Step]:
        """Generate tokens one by one."""

    def memory(self) -> MemoryUse:
        """Bytes in use."""


def never() -> bool:
    """The default of ``cancelled``: nobody interrupts."""
    return False


class Session:
    """One conversation.

    ``transcript`` is the text as it is meant to be, in tokens; the engine holds its first ``engine.length``
    tokens. Whatever an interrupt leaves out goes in before the next question, so nothing is lost or
    doubled.

    Args:
        engine: holds the context; must be empty.
        prompt: the model's chat format, with the system text in its opening.
        documents: they stand at the head of the first user turn.
        generation: how answers are drawn.
        stop_ids: tokens that end an answer.
        trained_context: tokens the model was trained on; a longer text gives one warning.
        new_stream: makes the decoder of one answer's tokens.
    """

    def __init__(
        self,
        engine: EngineLike,
        prompt: PromptFormat,
        documents: Sequence[DocumentLike],
        generation: GenerationConfig,
        *,
        stop_ids: Collection[int],
        trained_context: int,
        new_stream: Callable[[], TextStream],
    ) -> None:
        self.engine = engine
        self.generation = generation
        self.documents: list[DocumentUse] = []
        self.page_spans: list[PageSpan] = []
        self.transcript = list(prompt.opening())
        self._prompt = prompt
        self._stop_ids = stop_ids
        self._new_stream = new_stream
        self._trained_context = trained_context
        self._warned = False
        self._turn_is_open = True
        self._first_turn = True
        self._cache = DecodeTotals()
        for document in documents:
            self._add(document)

    def read(self, cancelled: Callable[[], bool] = never) -> Iterator[PrefillProgress | Notice]:
        """Read the documents ahead of the first question, unless ``cancelled`` turns true.

        Raises:
            ContextLengthError: they leave no room for an answer; nothing has gone in.
        """
        yield from self._check(self._prompt.closing())
        yield from self._catch_up(cancelled)

    def ask(
        self, question: str, cancelled: Callable[[], bool] = never
    ) -> Iterator[PrefillProgress | Notice | TextDelta | Answer]:
        """Ask one question. The last event is the ``Answer``, whatever happened.

        ``cancelled`` is looked at after every segment and token. A question of which nothing had gone in
        is dropped then; otherwise it stays in the conversation, with the answer as far as it came.

        Raises:
            ContextLengthError: the question and an answer do not fit; the conversation is unchanged.
        """
        started = time.perf_counter()
        turn = [] if self._turn_is_open else list(self._prompt.between())
        turn += [*self._prompt.text(question), *self._prompt.closing()]
        yield from self._check(turn)
        self._cache = DecodeTotals()
        before, turn_start = self.engine.length, len(self.transcript)
        self.transcript += turn
        yield from self._catch_up(cancelled)
        prefill_s, prefilled = time.perf_counter() - started, self.engine.length - before
        timing = Timing(prefilled, prefill_s, None)
        if self.engine.length <= turn_start:
            del self.transcript[turn_start:]
            yield self._answer("", "interrupted", 0, timing)
            return
        self._turn_is_open = self._first_turn = False
        if cancelled() or self.engine.length < len(self.transcript):
            yield self._answer("", "interrupted", 0, timing)
            return
        yield from self._generate(started, timing, cancelled)

    def status(self) -> Status:
        """Where the conversation stands now."""
        return Status(self.engine.length, self.engine.context, self.engine.memory(), self._cache)

    def _add(self, document: DocumentLike) -> None:
        """Put a document at the end of the open user turn and note where its pages lie."""
        start, index = len(self.transcript), len(self.documents)
        numbers = set()
        for section in document.sections():
            section_start = len(self.transcript)
            self.transcript += self._prompt.text(section.text)
            if section.page is not None:
                numbers.add(section.page)
                self.page_spans.append(PageSpan(index, section.page, section_start, len(self.transcript)))
        end = len(self.transcript)
        self.documents.append(DocumentUse(document.title, str(document.path), len(numbers), start, end))

    def _check(self, turn: Sequence[int]) -> Iterator[Notice]:
        needed = len(self.transcript) + len(turn)
        documents = self.documents if self._first_turn else []
        room = self.generation.max_new_tokens or 1
        check_fit(needed, room, self.engine.context, documents, self.page_spans)
        if needed > self._trained_context and not self._warned:
            self._warned = True
            yield Notice(
                f"The text has {needed:,} tokens, but the model was trained on at most "
                f"{self._trained_context:,}. Answers may be worse."
            )

    def _catch_up(self, cancelled: Callable[[], bool]) -> Iterator[PrefillProgress]:
        """Put in what the transcript has and the engine has not, until ``cancelled``."""
        missing = self.transcript[self.engine.length :]
        if not missing or cancelled():
            return
        yield PrefillProgress(0, len(missing), 0.0)
        for progress in self.engine.prefill(missing):
            yield progress
            if cancelled():
                return

    def _generate(
        self, started: float, timing: Timing, cancelled: Callable[[], bool]
    ) -> Iterator[TextDelta | Answer]:
        stream, parts, tokens = self._new_stream(), list[str](), 0
        end: AnswerEnd = "interrupted"
        for number, step in enumerate(self.engine.generate(self.generation, self._stop_ids)):
            if number == 0:
                timing = replace(timing, ttft_s=time.perf_counter() - started)
            else:  # the prefill pays for the first token
                self._cache.add(step.stats)
            if step.finish_reason != "stop":
                tokens += 1
                self.transcript.append(step.token)
                parts.append(stream.push(step.token))
                yield TextDelta(parts[-1])
            if step.finish_reason is not None:
                end = step.finish_reason
            elif cancelled():
                break
        if rest := stream.flush():
            parts.append(rest)
            yield TextDelta(rest)
        yield self._answer("".join(parts), end, tokens, timing)

    def _answer(self, text: str, end: AnswerEnd, tokens: int, timing: Timing) -> Answer:
        prompt_tokens = len(self.transcript) - tokens
        return Answer(text, end, prompt_tokens, tokens, timing, self.engine.memory(), self._cache)
