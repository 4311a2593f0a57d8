"""A conversation and whoever answers it: what a chat asks of an engine, in this process or behind a URL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence

from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Entry, Exchange
from lrqk_cli.chat.events import Answer, DocumentUse, Message, PageSpan, ReasoningDelta, Status, TextDelta
from lrqk_cli.chat.protocols import ChatFormat, DocumentLike
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.errors import UsageError
from lrqk_cli.telemetry.history import StepHistory
from lrqk_cli.telemetry.stats import DecodeTotals

ReadingEvent = PrefillProgress | Message


def never() -> bool:
    """The default of ``cancelled``: never interrupt."""
    return False


class Chat(ABC):
    """One conversation.

    Args:
        prompt: the chat format, with the system text in its opening.
        documents: placed at the start of the first user turn.
        generation: sampling settings of the answers.

    Attributes:
        generation: sampling settings of the next answers.
        conversation: documents, questions and answers.
        history: counters of all decode steps.
    """

    def __init__(
        self, prompt: ChatFormat, documents: Sequence[DocumentLike], generation: GenerationConfig
    ) -> None:
        self.generation = generation
        self.conversation = Conversation(prompt)
        self.history = StepHistory()
        self._notes_sources = False
        self._cache = DecodeTotals()
        for document in documents:
            self.conversation.add_document(document)

    @property
    def transcript(self) -> list[int]:
        """The tokens of the conversation."""
        return self.conversation.tokens

    @property
    def documents(self) -> list[DocumentUse]:
        """Each document's tokens in the context."""
        return self.conversation.documents

    @property
    def page_spans(self) -> list[PageSpan]:
        """The token spans of all pages."""
        return self.conversation.page_spans

    @property
    def notes_sources(self) -> bool:
        """Whether answers come with their sources."""
        return self._notes_sources

    def note_sources(self, wanted: bool) -> None:
        """Switch the sources of answers on or off, from the next answer on.

        Raises:
            UsageError: they are wanted, and cannot be known.
        """
        if wanted:
            self.check_sources()
        self._notes_sources = wanted

    @abstractmethod
    def check_sources(self) -> None:
        """Refuse to note sources where they cannot be known.

        Raises:
            UsageError: the engine does not tell what it attends to.
        """

    @abstractmethod
    def watch_reading(self, report: Callable[[PrefillProgress], None]) -> None:
        """Call ``report`` with the progress of reading, also between the events of ``read`` and ``ask``."""

    @abstractmethod
    def keep_no_rewind_points(self) -> None:
        """Prepare for no removal, which may save time and memory."""

    @abstractmethod
    def keep_turns(self, name: str) -> None:
        """Keep what the model computed for the turns, to go on from in the session ``name``."""

    @property
    @abstractmethod
    def config(self) -> LrqkConfig | None:
        """The settings of the attention in force; None if a server has its own."""

    @property
    @abstractmethod
    def unread(self) -> int:
        """Tokens that are known to be unread before the next answer."""

    @property
    @abstractmethod
    def is_read_again(self) -> bool:
        """Whether the next question reads the conversation from its beginning."""

    @abstractmethod
    def read(self, cancelled: Callable[[], bool] = never) -> Generator[ReadingEvent, None, None]:
        """Read all tokens ahead of the next question, until ``cancelled`` is true.

        Raises:
            ContextLengthError: the tokens leave no room for an answer; none has been read.
        """

    @abstractmethod
    def ask(
        self,
        question: str,
        cancelled: Callable[[], bool] = never,
        generation: GenerationConfig | None = None,
    ) -> Generator[ReadingEvent | TextDelta | ReasoningDelta | Answer, None, None]:
        """Ask one question. The last event is the ``Answer``, unless the engine fails.

        If ``cancelled`` is true before any token of the question was read, the question is dropped; otherwise
        it stays, with the answer so far.

        Args:
            generation: sampling settings of this answer; None for those of the conversation.

        Raises:
            ContextLengthError: the question and an answer do not fit; the conversation is unchanged.
            Exception: whatever the engine raises; the question is dropped.
        """

    def add(self, document: DocumentLike) -> DocumentEntry:
        """Append a document to the conversation; ``read`` or the next question reads it.

        Raises:
            ContextLengthError: it leaves no room for an answer; the conversation is unchanged.
        """
        entry = self.conversation.add_document(document)
        try:
            self._check_added(entry)
        except Exception:
            self.conversation.cut(entry)
            raise
        return entry

    def drop(self) -> Entry:
        """Forget the last document or exchange, whichever came last, as if it had never been.

        Raises:
            UsageError: there is none.
        """
        if not self.conversation.entries:
            raise UsageError("There is nothing to forget.", "The conversation has not begun.")
        entry = self.conversation.entries[-1]
        self._forget(entry)
        return entry

    def undo(self) -> Exchange:
        """Forget the last question and its answer, as if they had never been.

        Raises:
            UsageError: nothing was asked, or a document came after it.
        """
        last = self.conversation.entries[-1] if self.conversation.entries else None
        if isinstance(last, Exchange):
            self._forget(last)
            return last
        if self.conversation.exchanges:
            raise UsageError("A document came after the last question.", "Forget it first, with /drop.")
        raise UsageError("Nothing has been asked yet.", "Ask a question first.")

    def clear(self, *, documents: bool = False) -> None:
        """Forget all questions and answers; with ``documents``, the documents too."""
        entries = self.conversation.entries
        forgotten = [entry for entry in entries if documents or isinstance(entry, Exchange)]
        if forgotten:
            later = entries[entries.index(forgotten[0]) :]
            kept = [entry.document for entry in later if isinstance(entry, DocumentEntry)]
            self._forget(forgotten[0])
            for document in () if documents else kept:
                self.conversation.add_document(document)
        self.history = StepHistory()
        self._cache = DecodeTotals()

    def set_system(self, system: str | None) -> None:
        """Replace the system text; the next question reads the whole conversation again.

        Raises:
            ContextLengthError: the conversation does not fit with the new text, and is unchanged.
        """
        changed = self.conversation.with_prompt(self.conversation.prompt.with_system(system))
        self.adopt(changed, leaves_room=True)

    def adopt(
        self,
        conversation: Conversation,
        generation: GenerationConfig | None = None,
        *,
        leaves_room: bool = False,
    ) -> None:
        """Replace the conversation, which the next question reads, and optionally the sampling settings.

        Args:
            leaves_room: refuse a conversation after which there is no room for a question and its answer.

        Raises:
            ContextLengthError: the new conversation does not fit; the current one is unchanged.
            UsageError: the model is to reason, and cannot.
        """
        generation = generation or self.generation
        conversation = conversation.thinking(generation.thinks)
        self._check_adopted(conversation, generation, leaves_room=leaves_room)
        self.conversation, self.generation = conversation, generation
        self._start_again()

    def set_generation(self, generation: GenerationConfig) -> None:
        """Replace the sampling settings.

        Raises:
            UsageError: the model is to reason, and cannot.
        """
        self.restore(self.conversation.thinking(generation.thinks))
        self.generation = generation

    def restore(self, conversation: Conversation) -> None:
        """Go back to an earlier copy of the conversation, see ``Conversation.copy``."""
        standing, self.conversation = self.conversation, conversation
        self._change(standing)

    @abstractmethod
    def adjust(self, config: LrqkConfig) -> None:
        """Put other settings of the attention in force, from the next step on.

        Raises:
            UsageError: they cannot change; the message names one.
        """

    @abstractmethod
    def layer_misses(self) -> Sequence[float]:
        """Return the miss rate of each layer; empty if it is not known."""

    @abstractmethod
    def status(self) -> Status:
        """The context, memory and counters of the conversation now."""

    @abstractmethod
    def _check_added(self, entry: DocumentEntry) -> None:
        """Refuse a document that was added and does not fit."""

    @abstractmethod
    def _check_adopted(
        self, conversation: Conversation, generation: GenerationConfig, *, leaves_room: bool
    ) -> None:
        """Refuse a conversation that does not fit, or settings that would not act."""

    @abstractmethod
    def _forget(self, entry: Entry) -> None:
        """Remove an entry and all later entries from the conversation and the engine."""

    @abstractmethod
    def _change(self, standing: Conversation) -> None:
        """Let the engine go over from ``standing`` to the conversation."""

    @abstractmethod
    def _start_again(self) -> None:
        """Let the engine read the whole conversation again."""
