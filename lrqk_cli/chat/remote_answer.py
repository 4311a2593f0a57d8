"""One answer of a server, part by part."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from lrqk_cli.chat.conversation import Conversation
from lrqk_cli.chat.events import (
    Answer,
    AnswerEnd,
    AnswerSources,
    ReasoningDelta,
    Remark,
    SourcePage,
    Strip,
    TextDelta,
    Timing,
)
from lrqk_cli.endpoint.protocol import Chunk, TokenUsage, count_of, seconds_of
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.telemetry.stats import DecodeTotals


class RemoteAnswer:
    """One answer while it arrives.

    Args:
        conversation: ends with the question.
        started: when it was sent, by ``time.perf_counter``.

    Attributes:
        cache: counters of its steps so far; each part that arrives counts as one
            until the server has counted.
    """

    def __init__(self, conversation: Conversation, started: float) -> None:
        self.cache = DecodeTotals()
        self._conversation = conversation
        self._started = started
        self._first_at = self._newest_at = 0.0
        self._text = self._reasoning = ""
        self._pieces = [0, 0]  # of the text, of the reasoning
        self._end: str | None = None
        self._usage: TokenUsage | None = None
        self._details: Mapping[str, Any] = {}

    def take(self, chunk: Chunk) -> Iterator[PrefillProgress | Remark | TextDelta | ReasoningDelta]:
        """Take a part of the stream."""
        self._end = chunk.end or self._end
        self._usage = chunk.usage or self._usage
        if ahead := count_of(chunk.details, "ahead"):
            others = "another request" if ahead == 1 else f"up to {ahead:,} other requests"
            yield Remark(f"The server is busy, and answers {others} first.")
        elif (total := count_of(chunk.details, "total")) and not self._first_at:
            seconds = time.perf_counter() - self._started
            yield PrefillProgress(min(count_of(chunk.details, "read"), total), total, seconds)
        elif chunk.details:
            self._details = chunk.details
        if chunk.reasoning:
            self._count(1)
            self._reasoning += chunk.reasoning
            yield ReasoningDelta(chunk.reasoning)
        if chunk.text:
            self._count(0)
            self._text += chunk.text
            yield TextDelta(chunk.text)

    def result(self, *, is_stopped: bool) -> Answer:
        """Return what has arrived; ``is_stopped`` by the user."""
        known = self._usage
        usage = known or TokenUsage(len(self._conversation.tokens), 0, sum(self._pieces), self._pieces[1])
        reasoning_tokens = min(usage.reasoning or self._pieces[1], usage.completion)
        ttft = self._first_at - self._started if self._first_at else None
        read_s = seconds_of(self._details, "prefill_s")
        if read_s is None:
            read_s = ttft or 0.0
        timing = Timing(max(0, usage.prompt - usage.cached), read_s, ttft)
        self._count_steps(usage)
        end: AnswerEnd = "length" if self._end == "length" else "stop"
        if self._end is None and is_stopped:
            end = "interrupted"
        return Answer(
            text=self._text,
            finish_reason=end,
            prompt_tokens=usage.prompt,
            new_tokens=usage.completion - reasoning_tokens,
            timing=timing,
            memory=None,
            cache=self.cache,
            sources=self._sources(),
            reasoning=self._reasoning,
            reasoning_tokens=reasoning_tokens,
        )

    def _count(self, kind: int) -> None:
        now = time.perf_counter()
        self._pieces[kind] += 1
        if self._first_at:
            self.cache.steps += 1
            self.cache.seconds += now - self._newest_at
        self._first_at, self._newest_at = self._first_at or now, now

    def _count_steps(self, usage: TokenUsage) -> None:
        """Put the server's own counters in place of ours; of other servers the tokens after the first."""
        counters = self._details.get("counters")
        if isinstance(counters, dict):
            for each in fields(DecodeTotals):
                if each.name != "seconds":
                    setattr(self.cache, each.name, count_of(counters, each.name))
            self.cache.seconds = seconds_of(counters, "seconds") or 0.0
        elif self.cache.steps:
            self.cache.steps = max(1, usage.completion - 1)

    def _sources(self) -> AnswerSources | None:
        """Return the sources that lrqk's own server has told; None if it was not asked for them."""
        told, heat = self._details.get("sources"), self._details.get("heat")
        if not isinstance(told, list) or not isinstance(heat, list):
            return None
        documents = self._conversation.documents
        # Only this side has read the pages.
        scans = {(span.document, span.page) for span in self._conversation.page_spans if span.by_ocr}
        try:
            pages = [
                SourcePage(
                    documents[int(each["number"])],
                    each.get("page"),
                    float(each["share"]),
                    str(each["passage"]),
                    (int(each["number"]), each.get("page")) in scans,
                )
                for each in told
            ]
            strips = [
                Strip(document, [float(value) for value in cells])
                for document, cells in zip(documents, heat, strict=False)
            ]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            return None  # another version of lrqk tells them in another way
        return AnswerSources(pages, strips)
