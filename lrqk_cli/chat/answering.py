"""Generates one answer, and the reasoning before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.chat.events import Answer, AnswerEnd, AnswerSources, ReasoningDelta, TextDelta, Timing
from lrqk_cli.chat.reasoning import Phase, ReasoningSplitter
from lrqk_cli.config import GenerationConfig
from lrqk_cli.telemetry.history import StepHistory
from lrqk_cli.telemetry.stats import DecodeTotals

if TYPE_CHECKING:
    from lrqk_cli.engine.generate import Engine
    from lrqk_cli.models.prompt import Detokenizer

# The part of the free context that reasoning leaves to an answer without a limit.
_ANSWER_SHARE = 4


class AnswerRun:
    """One answer while it is generated; appends to the conversation all tokens that the engine gets.

    Args:
        conversation: ends with a question, which the engine has read.
        generation: ``max_new_tokens`` limits the answer, and ``think`` the reasoning.
        stop_ids: tokens that end an answer.
        stream: decodes the tokens of the answer.
        counters: what adds up the counters of the steps.
        cancelled: looked at after every token.

    Attributes:
        end: why the answer ended; None before that.
        answer: its tokens, without a stop token.
        first_token_at: when the first token of all came, by ``time.perf_counter``; None before that.
        text, reasoning: what was said.
    """

    def __init__(
        self,
        engine: Engine,
        conversation: Conversation,
        generation: GenerationConfig,
        stop_ids: Collection[int],
        stream: Detokenizer,
        counters: Sequence[DecodeTotals | StepHistory],
        cancelled: Callable[[], bool],
    ) -> None:
        self.end: AnswerEnd | None = None
        self.answer: list[int] = []
        self.first_token_at: float | None = None
        self.text = self.reasoning = ""
        self._engine = engine
        self._prompt, self._transcript = conversation.prompt, conversation.tokens
        self._prompt_tokens = len(conversation.tokens)
        self._generation = generation
        self._stop_ids = frozenset(stop_ids)
        self._stream = stream
        self._counters = counters
        self._cancelled = cancelled
        marks = self._prompt.reasoning
        self._splitter = None if marks is None else ReasoningSplitter(self._prompt, marks)
        self._calls = 0

    @property
    def phase(self) -> Phase:
        """What the next token belongs to."""
        return "answer" if self._splitter is None else self._splitter.phase

    def events(self) -> Iterator[TextDelta | ReasoningDelta]:
        """Generate until the answer ends."""
        while self.end is None:
            phase, limit = self.phase, self._limit()
            end = (yield from self._generate(limit)) if limit is None or limit > 0 else "length"
            if phase == "reasoning" and end == "length":
                if self.phase == "reasoning":
                    yield from self._end_reasoning()
            else:
                self.end = end
        if self._splitter is not None and self.phase != "answer":
            unfinished = "".join(self._splitter.finish())
            if unfinished:
                yield self._reason(unfinished)
            yield from self._add(self._splitter.answer)
        if rest := self._stream.flush():
            self.text += rest
            yield TextDelta(rest)

    def result(self, timing: Timing, cache: DecodeTotals, sources: AnswerSources | None) -> Answer:
        """Return what was generated; ``timing`` and so on as in ``Answer``."""
        generated = len(self._transcript) - self._prompt_tokens
        return Answer(
            text=self.text,
            finish_reason=self.end or "interrupted",
            prompt_tokens=self._prompt_tokens,
            new_tokens=len(self.answer),
            timing=timing,
            memory=self._engine.memory(),
            cache=cache,
            sources=sources,
            reasoning=self.reasoning,
            reasoning_tokens=generated - len(self.answer) if self.reasoning else 0,
        )

    def _limit(self) -> int | None:
        """Return the most tokens to generate in this phase; None for no limit."""
        most = self._generation.max_new_tokens
        if self.phase != "reasoning":
            return None if most is None or self.phase == "undecided" else most - len(self.answer)
        free = self._engine.context - len(self._transcript)
        free -= len(self._prompt.reasoning_end()) + (most or free // _ANSWER_SHARE)
        return min(free, self._generation.think or free)

    def _generate(self, limit: int | None) -> Generator[TextDelta | ReasoningDelta, None, AnswerEnd | None]:
        """Generate until the phase changes, which returns None, or something else ends it."""
        phase = self.phase
        # The mark at the end of reasoning may begin with the token that ends an answer.
        stops = (
            self._stop_ids if phase == "answer" else self._stop_ids.difference(self._prompt.reasoning_end())
        )
        for step in self._engine.generate(self._drawn(limit), stops):
            if self.first_token_at is None:
                self.first_token_at = time.perf_counter()
            for counter in self._counters:
                counter.add(step.stats)
            if step.finish_reason != "stop":
                self._transcript.append(step.token)
                yield from self._take(step.token)
            if step.finish_reason is not None:
                return step.finish_reason
            if self._cancelled():
                break
            if self.phase != phase:
                return None
        return "interrupted"

    def _drawn(self, limit: int | None) -> GenerationConfig:
        """Return the settings of one call of the engine; with a seed no call draws what another drew."""
        seed, self._calls = self._generation.seed, self._calls + 1
        if seed is not None and self._calls > 1:
            seed = (seed + self._calls) % (1 << 63)
        return replace(self._generation, max_new_tokens=limit, seed=seed)

    def _take(self, token: int) -> Iterator[TextDelta | ReasoningDelta]:
        if self._splitter is None or self.phase == "answer":
            yield from self._add([token])
            return
        text = self._splitter.push(token)
        if text or self.phase == "reasoning":
            yield self._reason(text)
        yield from self._add(self._splitter.answer)

    def _add(self, tokens: Iterable[int]) -> Iterator[TextDelta]:
        """Add tokens to the answer; blanks between a mark and the answer belong to neither."""
        is_marked = self._splitter is not None and self._splitter.is_marked
        for token in tokens:
            text = self._stream.push(token)
            if is_marked and not self.answer and text.isspace():
                continue
            self.answer.append(token)
            self.text += text
            yield TextDelta(text)

    def _reason(self, text: str) -> ReasoningDelta:
        self.reasoning += text
        return ReasoningDelta(text)

    def _end_reasoning(self) -> Iterator[ReasoningDelta]:
        """Put the end mark behind the reasoning, so that the model goes on with its answer."""
        assert self._splitter is not None
        rest, written = self._splitter.finish()
        for token in self._prompt.reasoning_end(written):
            # Several waiting tokens would be read as a segment, which attends to all rows.
            self._engine.next_logits()
            self._engine.append(token)
            self._transcript.append(token)
        yield self._reason(rest)
