"""The model that a chat asks for, in this process or on a server, and the conversation that it opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.protocols import DocumentLike, OpeningView
from lrqk_cli.config import GenerationConfig

if TYPE_CHECKING:
    from lrqk_cli.chat.chat import Chat
    from lrqk_cli.memory.plan import Plan


@dataclass(frozen=True, slots=True)
class OpenChat:
    """A conversation that is ready for its first question.

    Attributes:
        model: what the user called the model.
        plan: the plan that chose them.
        load_s: seconds to fetch and load the model, or to reach the server.
        threads: CPU threads that compute; None if they are not of this process.
        tokenizer_id: returns what identifies the tokenizer; None if it is not known.
        endpoint: the address of the server that answers; None for this process.
    """

    session: Chat
    model: str
    plan: Plan | None
    load_s: float
    threads: int | None
    tokenizer_id: Callable[[], str | None]
    endpoint: str | None = None

    def resume(self, saved: Archive) -> None:
        """Put a saved conversation in place of this one, with the exact tokens of its answers if they fit.

        Raises:
            ContextLengthError: it is too long; this conversation is unchanged.
        """
        self.session.adopt(saved.restore(self.session.conversation.prompt, self.tokenizer_id()))


class ChatModel(Protocol):
    """A model to chat with."""

    @property
    def name(self) -> str:
        """What the user calls it; empty for the only one of a server."""

    @property
    def wanted(self) -> Mapping[str, Any]:
        """The fields of ``LrqkConfig`` that the user set; of a server, those for a model of this machine."""

    def named(self, name: str, /) -> ChatModel:
        """Return a request for another model, with the same settings."""

    def for_saved(self, saved: Archive, /, *, is_named: bool, wanted: Mapping[str, Any]) -> ChatModel:
        """Return a request to go on with a saved conversation: for its model, unless the user named one.

        Args:
            wanted: its settings of the attention, and those that the user named in their place.

        Raises:
            UsageError: the conversation was held elsewhere, and the user has to say where it goes on.
        """

    def choices(self) -> list[str]:
        """Return names of models to choose from."""

    def open(
        self,
        documents: Sequence[DocumentLike],
        system: str | None,
        generation: GenerationConfig,
        view: OpeningView,
        questions: Sequence[str] | None = None,
        said: Sequence[str] = (),
    ) -> AbstractContextManager[OpenChat]:
        """Open a conversation; the arguments are those of ``open_session``."""

    def check(self, saved: Archive, standing: Chat, view: OpeningView, /) -> None:
        """Check that a conversation can go on with this model, as far as possible beside the standing one.

        Raises:
            LrqkError: it cannot.
        """
