"""What a conversation needs of documents, of a model's chat format and of an engine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.events import MemoryUse, PrefillProgress, Step
from lrqk_cli.memory.planner import Plan
from lrqk_cli.models.progress import OnProgress


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

    @property
    def system(self) -> str | None:
        """The system text; None leaves it to the template."""

    def with_system(self, system: str | None, /) -> PromptFormat:
        """The same format with another system text."""

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


class RewindPointLike(Protocol):
    """A point that an engine can be taken back to."""

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that it takes."""


class EngineLike(Protocol):
    """A model with its cache. ``length`` is the truth about what is in the context."""

    @property
    def length(self) -> int:
        """Tokens in the cache."""

    @property
    def context(self) -> int:
        """Tokens that the cache holds at most."""

    def prefill(
        self,
        tokens: Sequence[int],
        *,
        finishes: bool = True,
        on_layer: Callable[[int], None] | None = None,
    ) -> Iterator[PrefillProgress]:
        """Append tokens, segment by segment.

        ``finishes`` where an answer comes next; ``on_layer`` may be called within a segment, with the tokens
        that are done.
        """

    def generate(self, generation: GenerationConfig, stop_ids: Collection[int]) -> Iterator[Step]:
        """Generate tokens one by one."""

    def memory(self) -> MemoryUse:
        """Bytes in use."""

    def adjust(self, settings: LrqkConfig, /) -> None:
        """Put other settings of the attention in force, from the next step on."""

    def layer_misses(self) -> list[float]:
        """Share of the demanded rows that were missing, for each layer that demands any."""

    def track_sources(self, wanted: bool, /) -> None:
        """Note from the next prompt on where answers look, or no more."""

    def source_weights(self) -> Sequence[float] | None:
        """The attention that each token has had since the newest prompt; None if it is not noted."""

    def rewind_point(self) -> RewindPointLike:
        """Note the point that has been reached."""

    def rewind(self, point: Any, /) -> None:
        """Forget what came after a point, exactly."""

    def reset(self) -> None:
        """Forget everything."""


class OpeningView(Protocol):
    """What is told of the work that comes before a conversation."""

    def note(self, message: str, /) -> None:
        """A sentence of lesser weight."""

    def planned(self, plan: Plan, /) -> None:
        """What was planned for the model's memory."""

    def pulling(self, name: str, otherwise: str = ..., /) -> AbstractContextManager[OnProgress]:
        """The stages of getting a model; ``otherwise`` says what goes on outside of them."""
