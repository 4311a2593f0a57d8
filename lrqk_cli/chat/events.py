"""The events that a conversation yields, beside the engine's ``PrefillProgress``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lrqk_cli.engine.events import FinishReason, MemoryUse, TokenLogprobs
from lrqk_cli.telemetry.stats import DecodeTotals

AnswerEnd = FinishReason | Literal["interrupted"]


@dataclass(frozen=True, slots=True)
class Notice:
    """A warning for the user, one sentence."""

    message: str


@dataclass(frozen=True, slots=True)
class Remark:
    """A message for the user that is no warning, one sentence."""

    message: str


@dataclass(frozen=True, slots=True)
class Reused:
    """Tokens that need not be read, because they were read before.

    Attributes:
        tokens: how many.
        total: tokens that would otherwise have been read.
    """

    tokens: int
    total: int


Message = Notice | Remark | Reused


@dataclass(frozen=True, slots=True)
class TextDelta:
    """One more token of the answer; ``text`` is empty while a character is incomplete.

    Attributes:
        logprobs: None unless they were asked for.
    """

    text: str
    logprobs: TokenLogprobs | None = None


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """One more token of the reasoning before the answer; ``text`` is empty while it may be its end."""

    text: str


@dataclass(frozen=True, slots=True)
class PageSpan:
    """The tokens of one page in the context.

    Attributes:
        document: index of the document.
        page: its number in the document.
        start, end: its first token, and the token after its last.
        by_ocr: its text was recognised on a picture, and may have errors.
    """

    document: int
    page: int
    start: int
    end: int
    by_ocr: bool = False


@dataclass(frozen=True, slots=True)
class DocumentUse:
    """The tokens of one document in the context.

    Attributes:
        title: how messages name it.
        path: its file.
        pages: number of its pages in the context.
        start, end: its first token in the context, and the token after its last; page marks included.
        is_estimate: only the server that reads it knows its tokens.
    """

    title: str
    path: str
    pages: int
    start: int
    end: int
    is_estimate: bool = False

    @property
    def tokens(self) -> int:
        """The number of its tokens."""
        return self.end - self.start

    @property
    def size(self) -> str:
        """The number of its tokens, in words."""
        return f"{'about ' * self.is_estimate}{self.tokens:,} tokens"


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall times of one answer.

    Attributes:
        prefill_tokens: tokens read for this answer, unread documents included.
        prefill_s: seconds to read them.
        ttft_s: seconds from the question to the first token; None without one.
    """

    prefill_tokens: int
    prefill_s: float
    ttft_s: float | None

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prefill speed; 0 if no token was read."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s else 0.0


@dataclass(frozen=True, slots=True)
class SourcePage:
    """A page that an answer rests on.

    Attributes:
        document: the page's document.
        page: its number; None for a stretch of a document without pages.
        share: its part of the attention that counts, see ``chat.sources``; in [0, 1].
        passage: the sentence with the most of it, shortened if it is long.
        by_ocr: see ``PageSpan``.
    """

    document: DocumentUse
    page: int | None
    share: float
    passage: str
    by_ocr: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """How the attention of an answer spreads over a document.

    Attributes:
        heat: the attention that counts, for each of some equal parts of the document, in order.
    """

    document: DocumentUse
    heat: list[float]


@dataclass(frozen=True, slots=True)
class AnswerSources:
    """The sources of an answer.

    Attributes:
        pages: best first; empty without documents.
        strips: one for each document.
    """

    pages: list[SourcePage]
    strips: list[Strip]


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer.

    Attributes:
        finish_reason: the engine's reason, or ``interrupted``.
        prompt_tokens: tokens in the context before answer and reasoning.
        new_tokens: tokens of the answer, without a stop token.
        memory: bytes in use at its end; None if another machine answered.
        cache: counters of its decode steps.
        sources: the pages it rests on; None while sources are off.
        reasoning: what the model thought before it; empty without.
        reasoning_tokens: tokens of the reasoning, with the marks around it.
    """

    text: str
    finish_reason: AnswerEnd
    prompt_tokens: int
    new_tokens: int
    timing: Timing
    memory: MemoryUse | None
    cache: DecodeTotals
    sources: AnswerSources | None = None
    reasoning: str = ""
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as the conversation keeps it.

    Attributes:
        finish_reason: see ``Answer``.
        new_tokens: number of its tokens, without a stop token.
    """

    text: str
    finish_reason: AnswerEnd
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Status:
    """Context, memory and counters of a conversation, for a status line.

    Attributes:
        used, context: tokens in the context, and the most it holds, None if that is not known.
        memory: bytes in use; None if another machine answers.
        cache: counters of the answer in progress, else of the last answer.
        recent: counters of the last steps.
    """

    used: int
    context: int | None
    memory: MemoryUse | None
    cache: DecodeTotals
    recent: DecodeTotals = field(default_factory=DecodeTotals)
