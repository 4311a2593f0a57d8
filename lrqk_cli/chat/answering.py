"""One answer, and the reasoning before it, token by token."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from typing import TYPE_CHECKING, cast

from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.chat.events import Answer, AnswerEnd, AnswerSources, ReasoningDelta, TextDelta, Timing
from lrqk_cli.chat.reasoning import Phase, ReasoningSplitter
from lrqk_cli.config import GenerationConfig
from lrqk_cli.engine.events import Step, TokenLogprobs
from lrqk_cli.telemetry.stats import DecodeTotals

if TYPE_CHECKING:
    from lrqk_cli.engine.generate import Engine
    from lrqk_cli.engine.sampling import TokenConstraint
    from lrqk_cli.models.prompt import ChatPrompt, Detokenizer

# The part of the free context that reasoning leaves to an answer without a limit.
_ANSWER_SHARE = 4
# A model that writes more blank tokens before its answer writes nothing else.
_MOST_BLANKS = 8


class AnswerRun:
    """One answer while it is generated.

    The engine generates it in parts, since reasoning and answer have limits and stop tokens of their own:
    ``next_part`` gives the settings of a call of the engine, whose steps go to ``take`` until
    ``is_part_over``; at the end ``flush`` gives what is left.

    Args:
        conversation: ends with a question, which the engine has read; gets all tokens that the engine gets.
        generation: ``max_new_tokens`` limits the answer, and ``think`` the reasoning.
        stop_ids: tokens that end an answer.
        stream: decodes the tokens of the answer.
        constraint: of the answer, behind the reasoning; None without one.

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
        constraint: TokenConstraint | None = None,
    ) -> None:
        self.end: AnswerEnd | None = None
        self.answer: list[int] = []
        self.first_token_at: float | None = None
        self.text = self.reasoning = ""
        self._engine = engine
        # An engine of this process gets its conversations in the format of its model.
        self._prompt, self._transcript = cast("ChatPrompt", conversation.prompt), conversation.tokens
        self._prompt_tokens = len(conversation.tokens)
        self._generation = generation
        self._stop_ids = frozenset(stop_ids)
        self._stream = stream
        self._constraint = constraint
        marks = self._prompt.reasoning
        self._splitter = None if marks is None else ReasoningSplitter(self._prompt, marks)
        self._part = self._phase
        self._parts = self._blanks = 0
        # Marks that are put ahead of the next part: behind reasoning that has hit its limit, for example.
        self._forced: list[int] = []
        # Of the tokens that may be the beginning of an answer.
        self._undecided: list[TokenLogprobs | None] = []

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end this part; the end mark of reasoning may have one that ends an answer."""
        if self._part == "answer":
            return self._stop_ids
        return self._stop_ids.difference(self._prompt.reasoning_end())

    @property
    def constraint(self) -> TokenConstraint | None:
        """What this part has to obey."""
        return self._constraint if self._part == "answer" else None

    @property
    def is_part_over(self) -> bool:
        """Whether the engine is to generate no more with the settings of this part."""
        return self.end is not None or self._phase != self._part

    def next_part(self) -> GenerationConfig | None:
        """Return the settings to generate the next part with; None if there is nothing left to generate."""
        if self._constraint is not None and self._phase == "undecided":
            self._decide()
        if self.end is None and self._phase == "reasoning" and not self._has_room():
            self._cut_reasoning()
        self._put_forced()
        if self.end is None and not self._has_room():
            self.end = "length"
        if self.end is not None:
            return None
        self._part, self._parts = self._phase, self._parts + 1
        seed = self._generation.seed
        if seed is not None and self._parts > 1:  # no part draws what another drew
            seed = (seed + self._parts) % (1 << 63)
        return replace(self._generation, max_new_tokens=self._limit(), seed=seed)

    def take(self, step: Step) -> Iterator[TextDelta | ReasoningDelta]:
        """Take a step of the engine."""
        if self.first_token_at is None:
            self.first_token_at = time.perf_counter()
        if step.finish_reason != "stop":
            self._transcript.append(step.token)
            yield from self._split(step)
        if step.finish_reason != "length":
            self.end = step.finish_reason
        elif self._phase == "reasoning":
            yield self._reason(self._cut_reasoning())

    def flush(self) -> Iterator[TextDelta | ReasoningDelta]:
        """Give what was held back."""
        if self._splitter is not None and self._phase != "answer":
            unfinished = "".join(self._splitter.finish())
            if unfinished:
                yield self._reason(unfinished)
            yield from self._add(self._splitter.answer, self._undecided)
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
        if self._phase != "reasoning":
            return None if most is None or self._phase == "undecided" else most - len(self.answer)
        free = self._engine.context - len(self._transcript)
        free -= len(self._prompt.reasoning_end()) + (most or free // _ANSWER_SHARE)
        return min(free, self._generation.think or free)

    def _has_room(self) -> bool:
        limit = self._limit()
        return limit is None or limit > 0

    @property
    def _phase(self) -> Phase:
        return "answer" if self._splitter is None else self._splitter.phase

    def _split(self, step: Step) -> Iterator[TextDelta | ReasoningDelta]:
        if self._splitter is None or self._phase == "answer":
            yield from self._add([step.token], [step.logprobs])
            return
        if self._phase == "undecided":
            self._undecided.append(step.logprobs)
        text = self._splitter.push(step.token)
        if text or self._phase == "reasoning":
            yield self._reason(text)
        if self._constraint is None:
            # Text behind a mark, in the same token, has tokens of its own.
            logprobs = () if self._splitter.is_marked else self._undecided
            yield from self._add(self._splitter.answer, logprobs)
        elif self._splitter.phase == "answer":
            # No constraint has seen that text, so the answer begins behind it.
            self._forced = self._prompt.answer_start()

    def _add(
        self, tokens: Iterable[int], logprobs: Iterable[TokenLogprobs | None] = ()
    ) -> Iterator[TextDelta]:
        """Add tokens to the answer, which gets no more than its limit of those that were undecided.

        Blanks between a mark and the answer belong to neither.
        """
        is_marked = self._splitter is not None and self._splitter.is_marked
        for token, noted in zip(tokens, chain(logprobs, repeat(None)), strict=False):
            if len(self.answer) == self._generation.max_new_tokens:
                return
            text = self._stream.push(token)
            if is_marked and not self.answer and text.isspace() and self._blanks < _MOST_BLANKS:
                self._blanks += 1
                continue
            self.answer.append(token)
            self.text += text
            yield TextDelta(text, noted)

    def _reason(self, text: str) -> ReasoningDelta:
        self.reasoning += text
        return ReasoningDelta(text)

    def _cut_reasoning(self) -> str:
        """Let the answer begin behind an end mark of our own; return the rest of the reasoning."""
        assert self._splitter is not None
        rest, written = self._splitter.finish()
        self._forced += self._prompt.reasoning_end(written)
        return rest

    def _decide(self) -> None:
        """Write the mark of reasoning or of an answer for a model that would begin with either.

        What it wrote without a mark would be an answer that no constraint has seen.
        """
        assert self._splitter is not None
        self._forced = self._prompt.reasoning_start()
        for token in self._forced:
            self._splitter.push(token)
        if self._phase == "undecided":
            self._splitter.finish()

    def _put_forced(self) -> None:
        """Put the forced tokens into the context, if it has room for them and an answer."""
        if self._forced and len(self._transcript) + len(self._forced) >= self._engine.context:
            self.end = "context"
            return
        for token in self._forced:
            # Several waiting tokens would be read as a segment, which attends to all rows.
            self._engine.next_logits()
            self._engine.append(token)
            self._transcript.append(token)
        self._forced = []
