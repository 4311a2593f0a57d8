"""A model of this machine: this process loads it, unless a running server of the user has it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.chat import Chat
from lrqk_cli.chat.chat_model import OpenChat
from lrqk_cli.chat.fitting import check_entries
from lrqk_cli.chat.opening import ModelRequest, look_up, open_session, texts_of
from lrqk_cli.chat.own_servers import OwnServer, find_server
from lrqk_cli.chat.protocols import DocumentLike, OpeningView
from lrqk_cli.chat.remote_chat import RemoteChat
from lrqk_cli.config import GenerationConfig, LrqkConfig
from lrqk_cli.endpoint.client import EndpointClient
from lrqk_cli.endpoint.protocol import ServedModel
from lrqk_cli.errors import LrqkError, OutOfMemoryError, UsageError
from lrqk_cli.models.catalog import catalog


@dataclass(frozen=True, slots=True)
class LocalModel:
    """See ``ChatModel``.

    Attributes:
        uses_server: a running server of the user may answer, if it has loaded this very model.
        kept: those of the settings in ``wanted`` that were set for the conversation before.
    """

    request: ModelRequest
    uses_server: bool = True
    kept: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.request.name

    @property
    def wanted(self) -> Mapping[str, Any]:
        """See ``ChatModel``."""
        return self.request.wanted

    def named(self, name: str) -> LocalModel:
        """Return a request for another model, with the same settings."""
        return replace(self, request=replace(self.request, name=name))

    def for_saved(self, saved: Archive, *, is_named: bool, wanted: Mapping[str, Any]) -> LocalModel:
        """See ``ChatModel``."""
        request = replace(self.request, wanted=wanted)
        if not is_named:
            if saved.endpoint is not None:
                raise UsageError(
                    f"This conversation was held with {saved.model} at {saved.endpoint}.",
                    f"Add `endpoint` {saved.endpoint} to go on there, or `model` to go on with a model here.",
                )
            request = replace(request, name=saved.model)
        kept = {name: value for name, value in saved.wanted.items() if wanted.get(name) == value}
        return replace(self, request=request, kept=kept)

    def choices(self) -> list[str]:
        """Return the aliases of the catalog."""
        return list(catalog())

    @contextmanager
    def open(
        self,
        documents: Sequence[DocumentLike],
        system: str | None,
        generation: GenerationConfig,
        view: OpeningView,
        questions: Sequence[str] | None = None,
        said: Sequence[str] = (),
    ) -> Iterator[OpenChat]:
        """Let a running server answer, or load the model, see ``open_session``."""
        opening = self._opening(documents, system, generation, view, questions, said)
        with ExitStack() as stack:
            try:
                opened = stack.enter_context(opening)
            except (OutOfMemoryError, UsageError) as error:
                error.hint += self._what_to_name(error)
                raise
            yield opened

    def _opening(
        self,
        documents: Sequence[DocumentLike],
        system: str | None,
        generation: GenerationConfig,
        view: OpeningView,
        questions: Sequence[str] | None,
        said: Sequence[str],
    ) -> AbstractContextManager[OpenChat]:
        if self.uses_server:
            texts = texts_of(documents)
            server, reason = find_server(self.request, texts, system, generation, questions, said)
            if server is not None:
                return _opened_at(server, self.name, documents, system, generation, view)
            if reason:
                view.note(reason)
        return open_session(self.request, documents, system, generation, view, questions, said)

    def _what_to_name(self, error: LrqkError) -> str:
        """Return a further sentence for a hint, if settings that nobody named now may be the cause."""
        kept = {name: value for name, value in self.kept.items() if name != "als"}
        if isinstance(error, UsageError):
            kept = {name: value for name, value in kept.items() if f"`{name}`" in error.message}
        defaults = {**asdict(LrqkConfig()), "attention": "auto"}
        others = {name: defaults[name] for name in kept if defaults[name] not in (None, kept[name])}
        if not others:
            return ""
        held, such = (
            " and ".join(f"`{name}` {value}" for name, value in settings.items())
            for settings in (kept, others)
        )
        return f" The conversation was held with {held}; name others, such as {such}."

    def check(self, saved: Archive, standing: Chat, view: OpeningView) -> None:
        """Look the model up and plan its settings, as if the standing one were released."""
        about = texts_of(saved.documents), saved.system, saved.generation
        if self.uses_server:
            server, _ = find_server(self.request, *about, None, saved.said)
            if server is not None:
                return
        found = look_up(self.request, *about, view, None, saved.said, standing.status().memory)
        # Unlike one that is opened again: another model should not be taken where no question has room.
        needed = saved.restore(found.prompt).length_with("")
        limit = found.placement.spec.max_context
        check_entries(needed, saved.generation.max_new_tokens or 1, found.plan.context, limit, [])


@contextmanager
def _opened_at(
    server: OwnServer,
    name: str,
    documents: Sequence[DocumentLike],
    system: str | None,
    generation: GenerationConfig,
    view: OpeningView,
) -> Iterator[OpenChat]:
    """Begin a conversation with a running server; ``name`` is what the user calls its model."""
    began, said = time.perf_counter(), server.said
    client = EndpointClient(said.url, said.token, server.socket)
    model = ServedModel(said.model, said.context, is_lrqk=True, reasons=said.reasons)
    chat = RemoteChat(client, model, system, documents, generation)
    view.note(f"The running server at {said.url} answers with {name}; `no_server` loads it here instead.")
    # Without an endpoint, because the conversation is one with a model of this machine and may go on so.
    yield OpenChat(chat, name, None, time.perf_counter() - began, None, lambda: None)
