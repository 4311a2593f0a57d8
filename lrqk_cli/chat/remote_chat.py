"""A conversation that a server of the OpenAI protocol answers: the whole of it is sent with each question."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

from lrqk_cli.chat.chat import Chat, ReadingEvent, never
from lrqk_cli.chat.conversation import Conversation, DocumentEntry, Entry, Exchange
from lrqk_cli.chat.estimated_format import EstimatedFormat
from lrqk_cli.chat.events import Answer, ReasoningDelta, Remark, Reply, Status, TextDelta
from lrqk_cli.chat.protocols import DocumentLike
from lrqk_cli.chat.remote_answer import RemoteAnswer
from lrqk_cli.chat.remote_messages import messages_of
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.endpoint.client import EndpointClient
from lrqk_cli.endpoint.protocol import ServedModel
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.errors import UsageError

_DEFAULTS = GenerationConfig()
_NO_REASONING = "Leave `think` off, or choose a model that reasons."


class RemoteChat(Chat):
    """One conversation with a model of a server.

    The server keeps what it has read in a prefix cache of its own, which is used because the prompt grows at
    its end alone: system text and documents stand first.

    Args:
        client: of the server.
        model: that answers.
        system: the system text; None for none.
        documents: placed at the start of the first user turn.
        generation: sampling settings of the answers.

    Raises:
        UsageError: a sampling setting would not act.
    """

    def __init__(
        self,
        client: EndpointClient,
        model: ServedModel,
        system: str | None,
        documents: Sequence[DocumentLike],
        generation: GenerationConfig,
    ) -> None:
        self._client = client
        self._model = model
        self._check(generation)
        super().__init__(EstimatedFormat(system, generation.thinks), documents, generation)
        self._told_of_reasoning = False
        # Tokens by the server's count, and by ours, after the last answer.
        self._counted = (0, 0)

    @property
    def config(self) -> None:
        """See ``Chat``."""
        return None

    @property
    def unread(self) -> int:
        """Nothing that is known: the server reads a question with all that it does not have of the text."""
        return 0

    @property
    def is_read_again(self) -> bool:
        """Whether that happens is known to the server."""
        return False

    def check_sources(self) -> None:
        """See ``Chat``; lrqk's own server tells the sources of its answers."""
        if not self._model.is_lrqk:
            raise UsageError(
                "Only lrqk's own engine knows the pages that an answer rests on.",
                "Ask without `endpoint`, or a server that 'lrqk serve' has started.",
            )

    def watch_reading(self, report: Callable[[PrefillProgress], None]) -> None:
        """Do nothing: what a server says of its reading comes as events."""

    def keep_no_rewind_points(self) -> None:
        """Do nothing: the server keeps what it likes."""

    def keep_turns(self, name: str) -> None:
        """Do nothing: the server keeps what it likes."""

    def read(self, cancelled: Callable[[], bool] = never) -> Generator[ReadingEvent, None, None]:  # noqa: ARG002
        """Read nothing ahead: the documents are sent with the first question."""
        yield from ()

    def ask(
        self,
        question: str,
        cancelled: Callable[[], bool] = never,
        generation: GenerationConfig | None = None,
    ) -> Generator[ReadingEvent | TextDelta | ReasoningDelta | Answer, None, None]:
        """See ``Chat``; ``cancelled`` is checked all the time, and closes the connection."""
        drawn = generation or self.generation
        exchange = self.conversation.add_question(question)
        try:
            body = self._body(drawn)
            run = RemoteAnswer(self.conversation, time.perf_counter())
            self._cache = run.cache
            yield PrefillProgress(0, len(self.transcript), 0.0)
            for chunk in self._client.stream(body, cancelled):
                for event in run.take(chunk):
                    if isinstance(event, ReasoningDelta) and not drawn.thinks:
                        yield from self._tell_of_reasoning()
                    yield event
            answer = run.result(is_stopped=cancelled())
            self._keep(exchange, answer)
            yield answer
        except Exception as error:
            if exchange in self.conversation.entries:
                self.conversation.cut(exchange)
            if isinstance(error, UsageError) and drawn.thinks and "reasoning" in error.message:
                error.hint = _NO_REASONING  # the server names a field that nobody has typed
            raise

    def set_generation(self, generation: GenerationConfig) -> None:
        """See ``Chat``."""
        self._check(generation)
        super().set_generation(generation)

    def adjust(self, config: LrqkConfig) -> None:  # noqa: ARG002
        """Refuse: the server has its own settings."""
        raise UsageError("The attention is set on the server.", "See how it was started.")

    def layer_misses(self) -> list[float]:
        """Return none: servers do not say them."""
        return []

    def status(self) -> Status:
        """See ``Chat``; tokens that the server has not counted yet are estimates."""
        counted, ours = self._counted
        return Status(max(0, counted + len(self.transcript) - ours), self._model.context, None, self._cache)

    def _body(self, drawn: GenerationConfig) -> dict[str, Any]:
        """Return the fields of a chat completion; only settings that differ from the defaults are named."""
        is_lrqk = self._model.is_lrqk
        body: dict[str, Any] = {
            "model": self._model.name,
            "messages": messages_of(self.conversation, sends_documents=is_lrqk),
            "temperature": drawn.temperature,
        }
        names = {"max_new_tokens": "max_tokens", "sample_top_k": "top_k"}
        for name in ("max_new_tokens", "top_p", "sample_top_k", "repetition_penalty", "seed"):
            if (value := getattr(drawn, name)) != getattr(_DEFAULTS, name):
                body[names.get(name, name)] = value
        if drawn.thinks:
            body["reasoning_effort"] = "high"
        if is_lrqk:
            body["lrqk"] = {"sources": self.notes_sources, "progress": True}
        return body

    def _keep(self, exchange: Exchange, answer: Answer) -> None:
        """Keep a question with its answer; drop it if it was stopped before anything came."""
        if answer.finish_reason == "interrupted" and not (answer.text or answer.reasoning):
            self.conversation.cut(exchange)
            return
        exchange.answer = Reply(answer.text, answer.finish_reason, answer.new_tokens)
        exchange.sources = answer.sources
        self.transcript.extend(self.conversation.prompt.text(answer.text))
        self.history.add(answer.cache)
        self._counted = answer.prompt_tokens + answer.new_tokens, len(self.transcript)

    def _tell_of_reasoning(self) -> Iterator[Remark]:
        if not self._told_of_reasoning:
            self._told_of_reasoning = True
            yield Remark("The server lets its model reason; `think` off does not change that.")

    def _check_added(self, entry: DocumentEntry) -> None:
        """Accept it: only the server knows what fits."""

    def _check_adopted(
        self,
        conversation: Conversation,  # noqa: ARG002 - the server knows its limit
        generation: GenerationConfig,
        *,
        leaves_room: bool,  # noqa: ARG002
    ) -> None:
        self._check(generation)

    def _check(self, generation: GenerationConfig) -> None:
        """Refuse a setting on which the server would not act."""
        if generation.think is not None and generation.think > 0:
            raise UsageError(
                "A server limits the reasoning of its model itself.", "Choose `think` on or off."
            )
        if generation.thinks and self._model.reasons is False:
            raise UsageError(f"The model {self._model.name} does not reason.", _NO_REASONING)

    def _forget(self, entry: Entry) -> None:
        self.conversation.cut(entry)

    def _change(self, standing: Conversation) -> None:
        """Do nothing: the server finds by itself what of the next prompt it has read."""

    def _start_again(self) -> None:
        self._counted = (0, 0)
