"""What a conversation tells the outside world, beside the engine's ``PrefillProgress``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from lrqk_cli.engine.events import FinishReason, MemoryUse
from lrqk_cli.telemetry.stats import DecodeTotals

AnswerEnd = FinishReason | Literal["interrupted"]


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the user should know, one sentence."""

    message: str


@dataclass(frozen=True, slots=True)
class TextDelta:
    """One more token of the answer has been decided; ``text`` may be empty within a character."""

    text: str


@dataclass(frozen=True, slots=True)
class PageSpan:
    """Where one page of a document lies in the context.

    Attributes:
        document: index of the document.
        page: its number, as the document counts.
        start, end: first token and the one after the last.
    """

    document: int
    page: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class DocumentUse:
    """What one document takes of the context.

    Attributes:
        title: how messages name it.
        path: where it came from.
        pages: pages that went in.
        start, end: its first token in the context and the one after its last, marks included.
    """

    title: str
    path: str
    pages: int
    start: int
    end: int

    @property
    def tokens(self) -> int:
        """Tokens it takes."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Timing:
    """Wall times of one answer.

    Attributes:
        prefill_tokens: tokens that went in for this answer, documents included if they had not been read.
        prefill_s: seconds that took.
        ttft_s: seconds from the question to the first token; None if there was none.
    """

    prefill_tokens: int
    prefill_s: float
    ttft_s: float | None

    @property
    def prefill_tokens_per_s(self) -> float:
        """Prefill speed; 0 when nothing went in."""
        return self.prefill_tokens / self.prefill_s if self.prefill_s else 0.0


@dataclass(frozen=True, slots=True)
class SourcePage:
    """A page that an answer rests on.

    Attributes:
        document: which one it is of.
        page: its number; None for a stretch of a document without pages.
        share: of the attention that counts, see ``chat.sources``; in [0, 1].
        passage: the sentence that had the most of it, shortened if it is long.
    """

    document: DocumentUse
    page: int | None
    share: float
    passage: str


@dataclass(frozen=True, slots=True)
class Strip:
    """Where an answer looked in a document.

    Attributes:
        heat: the attention that counts, of each of some equal parts, in order.
    """

    document: DocumentUse
    heat: list[float]


@dataclass(frozen=True, slots=True)
class AnswerSources:
    """What an answer rests on.

    Attributes:
        pages: best first; empty without documents.
        strips: one a document.
    """

    pages: list[SourcePage]
    strips: list[Strip]


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer.

    Attributes:
        finish_reason: the engine's, or ``interrupted``.
        prompt_tokens: tokens in the context before the answer.
        new_tokens: tokens of the answer, without a stop token.
        memory: bytes in use at its end.
        cache: counters of its decode steps.
        sources: what it rests on; None where that was not noted.
    """

    text: str
    finish_reason: AnswerEnd
    prompt_tokens: int
    new_tokens: int
    timing: Timing
    memory: MemoryUse
    cache: DecodeTotals
    sources: AnswerSources | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What stays of an answer.

    Attributes:
        finish_reason: see ``Answer``.
        new_tokens: its tokens, without a stop token.
    """

    text: str
    finish_reason: AnswerEnd
    new_tokens: int


@dataclass(frozen=True, slots=True)
class Status:
    """Where a conversation stands, for a status line.

    Attributes:
        used, context: tokens in the context and the most it holds.
        memory: bytes in use.
        cache: counters of the answer in progress, else of the last one.
        recent: counters of the last steps.
    """

    used: int
    context: int
    memory: MemoryUse
    cache: DecodeTotals
    recent: DecodeTotals = field(default_factory=DecodeTotals)
