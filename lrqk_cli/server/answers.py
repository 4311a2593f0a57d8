"""Runs one chat completion: lets the engine answer, and makes its events the protocol's answers."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lrqk_cli.chat.events import Answer, ReasoningDelta, TextDelta
from lrqk_cli.engine.events import PrefillProgress, TokenLogprobs
from lrqk_cli.errors import LrqkError
from lrqk_cli.server.failures import body_of
from lrqk_cli.server.logprobs import TextOffsets, chat_logprobs, text_logprobs
from lrqk_cli.server.protocol import (
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    Choice,
    ChunkChoice,
    CompletionDetails,
    Counters,
    Delta,
    Details,
    FinishReason,
    PromptDetails,
    PromptProgress,
    QueueProgress,
    SourceEntry,
    TextChoice,
    TextCompletion,
    Usage,
)
from lrqk_cli.server.vocabulary import Vocabulary
from lrqk_cli.server.worker import EngineWorker, Finished, Job, JobEvent, Queued

_END = "data: [DONE]\n\n"


@dataclass
class Reception:
    """The events of a job, which its thread sends and a coroutine receives."""

    _events: asyncio.Queue[JobEvent] = field(default_factory=asyncio.Queue)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def send(self, event: JobEvent) -> None:
        """Pass on an event; from any thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Queued | PrefillProgress | ReasoningDelta | TextDelta | Finished]:
        """Yield events up to the end.

        Raises:
            LrqkError: the job failed.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, LrqkError):
                raise event
            yield event
            if isinstance(event, Finished):
                return


@dataclass
class Completion:
    """A chat completion on its way.

    Args:
        model: the name of the model.
        worker: answers the job.
        vocabulary: tells the tokens of log probabilities.
    """

    model: str
    worker: EngineWorker
    job: Job
    reception: Reception
    vocabulary: Vocabulary
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def whole(self) -> ChatCompletion | TextCompletion:
        """Return the finished answer; a cancelled caller cancels the job.

        Raises:
            LrqkError: the job failed.
        """
        noted = list[TokenLogprobs]()
        try:
            async for event in self.reception.events():
                if isinstance(event, Finished):
                    return self._completion(event, noted)
                if isinstance(event, TextDelta) and event.logprobs is not None:
                    noted.append(event.logprobs)
        finally:
            self.worker.cancel(self.job)
        raise AssertionError("A job ends with its answer or a failure.")

    async def stream(self, *, includes_usage: bool, shows_progress: bool) -> AsyncGenerator[str, None]:
        """Yield the events of a stream; a caller who stops reading cancels the job.

        Raises:
            LrqkError: the job failed before it had begun; a later failure is an event.
        """
        has_begun = False
        try:
            async for event in self.reception.events():
                if not has_begun:
                    has_begun = True
                    yield self._chunk(Delta(role="assistant", content=""))
                if isinstance(event, Queued) and shows_progress:
                    yield self._chunk(None, details=QueueProgress(ahead=event.ahead))
                elif isinstance(event, Queued):
                    yield f": {event.ahead} requests are answered first\n\n"
                elif isinstance(event, PrefillProgress) and shows_progress:
                    yield self._chunk(None, details=PromptProgress(read=event.done, total=event.total))
                elif isinstance(event, PrefillProgress):
                    yield f": read {event.done} of {event.total} tokens\n\n"
                elif isinstance(event, ReasoningDelta):
                    if event.text:
                        yield self._chunk(Delta(reasoning_content=event.text))
                elif isinstance(event, TextDelta):
                    if event.text or event.logprobs:
                        yield self._chunk(Delta(content=event.text), noted=event.logprobs)
                else:
                    yield self._chunk(Delta(), finish=_reason(event), details=details_of(event.answer))
                    if includes_usage:
                        yield self._chunk(None, usage=usage_of(event.answer))
                    yield _END
        except LrqkError as error:
            if not has_begun:
                raise
            yield f"data: {body_of(error).model_dump_json()}\n\n"
        finally:
            self.worker.cancel(self.job)

    def _completion(self, end: Finished, noted: Sequence[TokenLogprobs]) -> ChatCompletion | TextCompletion:
        logprobs = chat_logprobs(noted, self.vocabulary) if self._tells_logprobs else None
        choices = [Choice(message=_message(end), finish_reason=_reason(end), logprobs=logprobs)]
        return ChatCompletion(choices=choices, **self._frame(usage_of(end.answer), details_of(end.answer)))

    def _chunk(
        self,
        delta: Delta | None,
        *,
        finish: FinishReason | None = None,
        usage: Usage | None = None,
        details: Details | PromptProgress | QueueProgress | None = None,
        noted: TokenLogprobs | None = None,
    ) -> str:
        part = self._part(delta, finish, self._frame(usage, details), noted)
        # Clients expect a field only where it says something, but for the reason of an end.
        fields = part.model_dump(exclude_none=True)
        for choice in fields["choices"]:
            choice.setdefault("finish_reason", None)
        return f"data: {json.dumps(fields, ensure_ascii=False)}\n\n"

    def _part(
        self,
        delta: Delta | None,
        finish: FinishReason | None,
        frame: dict[str, Any],
        noted: TokenLogprobs | None,
    ) -> ChatChunk | TextCompletion:
        """Return a part of the stream, without a choice if ``delta`` is None."""
        logprobs = None if noted is None else chat_logprobs([noted], self.vocabulary)
        choice = delta and ChunkChoice(delta=delta, finish_reason=finish, logprobs=logprobs)
        return ChatChunk(choices=[choice] if choice else [], **frame)

    @property
    def _tells_logprobs(self) -> bool:
        return self.job.top_logprobs is not None

    def _frame(
        self, usage: Usage | None, details: Details | PromptProgress | QueueProgress | None
    ) -> dict[str, Any]:
        """Return what stands around the choices."""
        return {
            "id": self.id,
            "created": self.created,
            "model": self.model,
            "usage": usage,
            "lrqk": details,
        }


@dataclass
class Continuation(Completion):
    """A text that the model goes on with, on its way."""

    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    _offsets: TextOffsets = field(default_factory=TextOffsets)

    def _completion(self, end: Finished, noted: Sequence[TokenLogprobs]) -> TextCompletion:
        logprobs = text_logprobs(noted, self.vocabulary, self._offsets) if self._tells_logprobs else None
        choices = [TextChoice(text=end.text, finish_reason=_reason(end), logprobs=logprobs)]
        return TextCompletion(choices=choices, **self._frame(usage_of(end.answer), details_of(end.answer)))

    def _part(
        self,
        delta: Delta | None,
        finish: FinishReason | None,
        frame: dict[str, Any],
        noted: TokenLogprobs | None,
    ) -> TextCompletion:
        logprobs = None if noted is None else text_logprobs([noted], self.vocabulary, self._offsets)
        choice = delta and TextChoice(text=delta.content or "", finish_reason=finish, logprobs=logprobs)
        return TextCompletion(choices=[choice] if choice else [], **frame)


def usage_of(answer: Answer) -> Usage:
    """Return the tokens of an answer and its reasoning."""
    cached = answer.prompt_tokens - answer.timing.prefill_tokens
    generated = answer.new_tokens + answer.reasoning_tokens
    return Usage(
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=generated,
        total_tokens=answer.prompt_tokens + generated,
        prompt_tokens_details=PromptDetails(cached_tokens=max(0, cached)),
        completion_tokens_details=CompletionDetails(reasoning_tokens=answer.reasoning_tokens),
    )


def details_of(answer: Answer) -> Details:
    """Return what the protocol has no field for."""
    cache, sources, memory = answer.cache, answer.sources, answer.memory
    assert memory is not None  # the engine is of this process
    numbers = {strip.document: number for number, strip in enumerate(sources.strips if sources else ())}
    return Details(
        prefill_s=answer.timing.prefill_s,
        ttft_s=answer.timing.ttft_s,
        decode_tokens_per_s=cache.tokens_per_second,
        miss_rate=cache.miss_rate if cache.rows_wanted else None,
        device_bytes=memory.device_bytes,
        host_kv_bytes=memory.host_kv_bytes,
        counters=Counters(**asdict(cache)),
        sources=None
        if sources is None
        else [
            SourceEntry(
                document=each.document.title,
                number=numbers[each.document],
                page=each.page,
                share=round(each.share, 4),
                passage=each.passage,
                by_ocr=each.by_ocr,
            )
            for each in sources.pages
        ],
        heat=None if sources is None else [strip.heat for strip in sources.strips],
    )


def _message(end: Finished) -> AssistantMessage:
    return AssistantMessage(content=end.text, reasoning_content=end.answer.reasoning or None)


def _reason(end: Finished) -> FinishReason:
    is_cut = end.answer.finish_reason in ("length", "context") and not end.is_stopped
    return "length" if is_cut else "stop"
