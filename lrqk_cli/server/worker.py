"""The thread that owns the engine and answers one request after the other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from traceback import format_exc
from typing import TYPE_CHECKING

from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.chat.events import Answer, ReasoningDelta, TextDelta
from lrqk_cli.chat.protocols import ChatFormat
from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.errors import LrqkError, UsageError
from lrqk_cli.memory.exhaustion import out_of_memory
from lrqk_cli.server.dialogue import Dialogue, continued
from lrqk_cli.server.fair_queue import FairQueue, QueueFullError
from lrqk_cli.server.stopping import StopTexts
from lrqk_cli.server.vocabulary import GrammarConstraint

if TYPE_CHECKING:
    from lrqk_cli.chat.session import Session

# Chat formats with a system text that are kept, because making one takes a process.
_PROMPTS = 16


class BusyError(LrqkError):
    """Too many requests wait."""


class ClosingError(LrqkError):
    """The server ends before it has answered."""

    def __init__(self) -> None:
        super().__init__("The server ends.", "Ask again when it is there again.")


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer.

    Attributes:
        is_stopped: a stop text ended it, which it does not contain.
    """

    answer: Answer
    text: str
    is_stopped: bool


@dataclass(frozen=True, slots=True)
class Queued:
    """A job waits; ``ahead`` jobs at most are answered before it."""

    ahead: int


JobEvent = Queued | PrefillProgress | ReasoningDelta | TextDelta | Finished | LrqkError


@dataclass(eq=False)
class Job:
    """A question that waits for its answer.

    Attributes:
        owner: whose turn it takes.
        dialogue: messages, or a text that the model goes on with.
        emit: called with each event, in the engine's thread; the last one is ``Finished`` or the failure.
        stops: texts that end the answer.
        notes_sources: the answer comes with its sources.
        constraint, top_logprobs: see ``Session.ask``.
        is_cancelled: its answer is not wanted any more; see ``EngineWorker.cancel``.
    """

    owner: str
    dialogue: Dialogue | str
    generation: GenerationConfig
    emit: Callable[[JobEvent], None]
    stops: tuple[str, ...] = ()
    notes_sources: bool = False
    constraint: GrammarConstraint | None = None
    top_logprobs: int | None = None
    is_cancelled: threading.Event = field(default_factory=threading.Event)


class EngineWorker:
    """Answers jobs with one session, in a thread of its own.

    The engine goes on with the conversation that it holds as far as a job's messages agree with it.

    Args:
        session: nobody else may use it meanwhile.
        limit: jobs that may wait; see ``FairQueue``.
        plain: the format of texts that the model goes on with.
        report: called with the traceback of a failure that nobody expected.

    Attributes:
        reasons: whether the model can reason before it answers.
    """

    def __init__(
        self, session: Session, limit: int, plain: ChatFormat, report: Callable[[str], None]
    ) -> None:
        self.queue = FairQueue[Job](limit)
        self._session = session
        self._plain = plain
        self._report = report
        self._running: Job | None = None
        self._is_closing = False
        prompt = session.conversation.prompt
        self.reasons = _reasons(prompt)
        self._prompt_of: Callable[[str | None], ChatFormat] = lru_cache(_PROMPTS)(prompt.with_system)
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether jobs are answered."""
        return self._thread.is_alive() and not self._is_closing

    def submit(self, job: Job) -> None:
        """Let a job wait for its turn.

        Raises:
            BusyError: too many wait.
            ClosingError: nothing is answered any more.
        """
        if not self.is_alive:
            raise ClosingError
        if ahead := len(self.queue) + (self._running is not None):
            job.emit(Queued(ahead))
        try:
            self.queue.put(job.owner, job)
        except QueueFullError:
            raise BusyError("Too many requests wait.", "Ask again later.") from None

    def cancel(self, job: Job) -> None:
        """End a job that nobody wants any more: its place in the queue is free, its answer stops."""
        job.is_cancelled.set()
        self.queue.remove(job.owner, job)

    def close(self) -> None:
        """Stop the running answer within a step, and answer nothing more; all that wait fail."""
        self._is_closing = True
        for job in self.queue.close():
            job.emit(ClosingError())
        self._thread.join()

    def _run(self) -> None:
        while (job := self.queue.take()) is not None:
            if job.is_cancelled.is_set():
                continue
            self._running = job
            try:
                self._answer(job)
            except LrqkError as error:
                job.emit(error)
            except Exception as error:  # whatever it is, the next request may succeed
                job.emit(out_of_memory(error) or self._unexpected())
            self._running = None

    def _unexpected(self) -> LrqkError:
        self._report(format_exc())
        return LrqkError("The engine failed while it answered.", "Ask again; the server's log has more.")

    def _answer(self, job: Job) -> None:
        session, stops = self._session, StopTexts(job.stops)

        def is_cancelled() -> bool:
            return self._is_closing or stops.is_hit or job.is_cancelled.is_set()

        conversation, question = self._begun(job)
        session.restore(conversation.thinking(job.generation.thinks))
        session.generation = job.generation
        session.note_sources(job.notes_sources)
        session.watch_reading(job.emit)
        parts = []
        for event in session.ask(
            question, is_cancelled, constraint=job.constraint, top_logprobs=job.top_logprobs
        ):
            if isinstance(event, PrefillProgress | ReasoningDelta):
                job.emit(event)
            elif isinstance(event, TextDelta):
                parts.append(stops.push(event.text))
                job.emit(TextDelta(parts[-1], None if stops.is_hit else event.logprobs))
            elif isinstance(event, Answer):
                if self._is_closing and event.finish_reason == "interrupted" and not stops.is_hit:
                    raise ClosingError
                if job.constraint is not None:
                    job.constraint.check()
                parts.append(stops.flush())
                job.emit(TextDelta(parts[-1]))
                job.emit(Finished(event, "".join(parts), stops.is_hit))

    def _begun(self, job: Job) -> tuple[Conversation, str]:
        """Return the conversation before a job's question, and the question."""
        if isinstance(job.dialogue, str):
            return Conversation(self._plain), job.dialogue
        standing = self._session.conversation
        if standing.prompt is self._plain:
            standing = Conversation(self._prompt_of(job.dialogue.system))
        return continued(standing, job.dialogue, self._prompt_of), job.dialogue.question


def _reasons(prompt: ChatFormat) -> bool:
    try:
        prompt.with_thinking(True)
    except UsageError:
        return False
    return True
