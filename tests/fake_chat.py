"""A fake engine and a fake chat format, in which a token is a character."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from lrqk_cli.chat.session import Session
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.events import FinishReason, MemoryUse, PrefillProgress, Step, TokenLogprobs
from lrqk_cli.errors import OutOfMemoryError, UsageError
from lrqk_cli.models.plain_text import PlainText
from lrqk_cli.models.reasoning import ReasoningMarks
from lrqk_cli.telemetry.stats import NO_STEPS, StepStats

STOP = ord("$")
REPORT = Path(__file__).parents[1] / "docs" / "samples" / "report.pdf"
PASSAGE = "The Brannock plant employs 412 people."
# A model that reasons does so in braces.
MARKS = ReasoningMarks("{", "}", "", are_kept=False, are_expected=True)


@dataclass(frozen=True, eq=False)
class FakeMark:
    cached: tuple[int, ...]
    nbytes: int


@dataclass
class FakeEngine:
    """Holds characters as tokens, and answers every prompt with ``answer``, of which it has ``said`` some."""

    answer: str = "Yes.$"
    context: int = 1000
    segment: int = 8
    cached: list[int] = field(default_factory=list)
    mark_bytes: int = 100
    resets: int = 0
    config: LrqkConfig = field(default_factory=LrqkConfig)
    rewinds: int = 0
    looks_at: str = ""
    tracks: bool = False
    said: int = 0

    @property
    def length(self) -> int:
        return len(self.cached)

    @property
    def text(self) -> str:
        return "".join(map(chr, self.cached))

    def adjust(self, settings: LrqkConfig) -> None:
        if settings.hot != LrqkConfig().hot:
            raise UsageError("--hot cannot change.", "Start again.")
        self.config = settings

    def track_sources(self, wanted: bool) -> None:
        self.tracks = wanted

    def source_weights(self) -> list[float] | None:
        if not self.tracks:
            return None
        start = self.text.find(self.looks_at) if self.looks_at else -1
        seen = range(start, start + len(self.looks_at)) if start >= 0 else ()
        return [100.0 if place == 0 else 5.0 if place in seen else 0.01 for place in range(self.length)]

    def layer_misses(self) -> list[float]:
        return [0.1, 0.0, 0.4, 0.2]

    def rewind_point(self) -> FakeMark:
        return FakeMark(tuple(self.cached), self.mark_bytes)

    def rewind(self, point: FakeMark) -> None:
        assert tuple(self.cached[: len(point.cached)]) == point.cached
        del self.cached[len(point.cached) :]
        self.rewinds += 1

    def reset(self) -> None:
        self.cached.clear()
        self.resets += 1

    def need_less(self) -> None:
        return None

    def refusal(self, error: OutOfMemoryError) -> OutOfMemoryError:
        return error

    def prefill(
        self,
        tokens: Sequence[int],
        *,
        finishes: bool = True,
        on_layer: Callable[[int], None] | None = None,
    ) -> Generator[PrefillProgress, None, None]:
        for start in range(0, len(tokens), self.segment):
            if on_layer is not None:
                on_layer(start + min(self.segment, len(tokens) - start) // 2)
            self.cached += tokens[start : start + self.segment]
            self.said = 0
            yield PrefillProgress(min(start + self.segment, len(tokens)), len(tokens), 0.5)

    def generate(
        self,
        generation: GenerationConfig,
        stop_ids: Collection[int],
        _constraint: object = None,
        top_logprobs: int | None = None,
    ) -> Generator[Step, None, None]:
        for number, token in enumerate(map(ord, self.answer[self.said :]), start=1):
            reason: FinishReason | None = None
            if token in stop_ids:
                reason = "stop"
            elif number == generation.max_new_tokens:
                reason = "length"
            if reason != "stop":
                self.cached.append(token)
            self.said += 1
            stats = StepStats(rows_wanted=10, rows_fetched=1, bytes_fetched=64, row_sets=2, seconds=0.1)
            top = ((token, -0.5), (token + 1, -1.5))
            noted = None if top_logprobs is None else TokenLogprobs(token, -0.5, top[:top_logprobs])
            yield Step(token, reason, NO_STEPS if number == 1 else stats, noted)
            if reason is not None:
                return

    def next_logits(self) -> None:
        pass

    def append(self, token: int) -> None:
        self.cached.append(token)

    def memory(self) -> MemoryUse:
        return MemoryUse("cpu", 1 << 30, 2 << 30, 1 << 29, 1 << 20, 1 << 10, 1 << 12)


@dataclass(frozen=True)
class FakePrompt:
    """``<question>answer|question>``; a system text stands before the first mark.

    A model with ``marks`` reasons if it ``thinks``; its earlier turns are ``<question=answer|``.
    """

    counts_exactly: ClassVar[bool] = True

    system: str | None = None
    marks: ReasoningMarks | None = None
    thinks: bool = False

    @property
    def reasoning(self) -> ReasoningMarks | None:
        return self.marks if self.thinks else None

    def with_system(self, system: str | None) -> FakePrompt:
        return replace(self, system=system)

    def with_thinking(self, thinks: bool) -> FakePrompt:
        if thinks and self.marks is None:
            raise UsageError("This model does not reason.", "Leave `think` off.")
        return replace(self, thinks=thinks)

    def answered(self) -> list[int]:
        return [ord("=")] if self.reasoning else self.closing()

    def reasoning_end(self, written: str = "") -> list[int]:
        return list(map(ord, self.reasoning.end.removeprefix(written))) if self.reasoning else []

    def reasoning_start(self) -> list[int]:
        return list(map(ord, self.reasoning.start)) if self.reasoning else []

    def answer_start(self) -> list[int]:
        return []

    def marked_stream(self) -> FakeStream:
        return FakeStream()

    def opening(self) -> list[int]:
        return list(map(ord, (self.system or "") + "<"))

    def text(self, text: str, after: Sequence[int] = ()) -> list[int]:
        return list(map(ord, text))

    def spells(self, tokens: Sequence[int], text: str) -> bool:
        return "".join(map(chr, tokens)) == text

    def goes_on(self, tokens: Sequence[int]) -> bool:
        return False

    def closing(self) -> list[int]:
        return [ord(">")]

    def between(self) -> list[int]:
        return [ord("|")]


class FakePlain(PlainText):
    """A text without marks."""

    def __init__(self) -> None:
        pass

    def text(self, text: str, after: Sequence[int] = ()) -> list[int]:
        return [*map(ord, text)]


class FakeStream:
    def __init__(self, goes_on: bool = False) -> None:
        pass

    def push(self, token: int) -> str:
        return chr(token)

    def flush(self) -> str:
        return ""


@dataclass
class FakeSection:
    text: str
    page: int | None
    by_ocr: bool = False


@dataclass
class FakeDocument:
    """Pages between square brackets."""

    title: str
    pages: list[str]
    first_page: int | None = 1
    by_ocr: bool = False

    @property
    def path(self) -> str:
        return f"/documents/{self.title}"

    def sections(self) -> list[FakeSection]:
        numbers = [None if self.first_page is None else self.first_page + i for i in range(len(self.pages))]
        both = zip(self.pages, numbers, strict=True)
        pages = [FakeSection(text, number, self.by_ocr) for text, number in both]
        return [FakeSection("[", None), *pages, FakeSection("]", None)]


@dataclass
class FileDocument(FakeDocument):
    """Pages of a real file."""

    place: Path = REPORT

    @property
    def path(self) -> str:
        return str(self.place)


def report_document() -> FileDocument:
    """Return a document whose page 8 has ``PASSAGE``, as that of the real file has."""
    filler = "Nothing of note. " * 9
    return FileDocument("report.pdf", [filler] * 7 + [f"{PASSAGE} {filler}"])


def new_session(
    engine: FakeEngine,
    documents: Sequence[FakeDocument] = (),
    generation: GenerationConfig | None = None,
    trained_context: int = 1000,
    max_context: int = 100_000,
    prompt: FakePrompt | None = None,
) -> Session:
    return Session(
        engine,
        prompt or FakePrompt(),
        documents,
        generation or GenerationConfig(),
        stop_ids={STOP},
        trained_context=trained_context,
        max_context=max_context,
        new_stream=FakeStream,
    )
