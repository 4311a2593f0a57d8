"""A model of this machine: this process loads it, unless a running server of the user has it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import get_args

from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.chat import Chat
from lrqk_cli.chat.chat_model import OpenChat
from lrqk_cli.chat.fitting import check_entries
from lrqk_cli.chat.opening import ModelRequest, look_up, open_session, texts_of
from lrqk_cli.chat.own_servers import OwnServer, find_server
from lrqk_cli.chat.protocols import DocumentLike, OpeningView
from lrqk_cli.chat.remote_chat import RemoteChat
from lrqk_cli.config import GenerationConfig, KvDtype
from lrqk_cli.endpoint.client import EndpointClient
from lrqk_cli.endpoint.protocol import ServedModel
from lrqk_cli.errors import UsageError
from lrqk_cli.models.catalog import catalog


@dataclass(frozen=True, slots=True)
class LocalModel:
    """See ``ChatModel``.

    Attributes:
        uses_server: a running server of the user may answer, if it has loaded this very model.
    """

    request: ModelRequest
    uses_server: bool = True

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.request.name

    @property
    def attention(self) -> str:
        """The attention mode that the user set; ``auto`` leaves it to the planner."""
        return self.request.attention

    def named(self, name: str) -> LocalModel:
        """Return a request for another model, with the same settings."""
        return replace(self, request=replace(self.request, name=name))

    def for_saved(self, saved: Archive, *, is_named: bool) -> LocalModel:
        """See ``ChatModel``; rows of one type cannot be used as rows of another, so they keep theirs."""
        request = self.request
        if not is_named:
            if saved.endpoint is not None:
                raise UsageError(
                    f"This conversation was held with {saved.model} at {saved.endpoint}.",
                    f"Add `endpoint` {saved.endpoint} to go on there, or `model` to go on with a model here.",
                )
            request = replace(request, name=saved.model)
        kv_dtype = saved.attention.get("kv_dtype")
        if kv_dtype in get_args(KvDtype) and not {"kv_dtype", "attention"} & request.wanted.keys():
            request = replace(request, wanted={**request.wanted, "kv_dtype": kv_dtype})
        return replace(self, request=request)

    def choices(self) -> list[str]:
        """Return the aliases of the catalog."""
        return list(catalog())

    def open(
        self,
        documents: Sequence[DocumentLike],
        system: str | None,
        generation: GenerationConfig,
        view: OpeningView,
        questions: Sequence[str] | None = None,
        said: Sequence[str] = (),
    ) -> AbstractContextManager[OpenChat]:
        """Let a running server answer, or load the model, see ``open_session``."""
        if self.uses_server:
            texts = texts_of(documents)
            server, reason = find_server(self.request, texts, system, generation, questions, said)
            if server is not None:
                return _opened_at(server, self.name, documents, system, generation, view)
            if reason:
                view.note(reason)
        return open_session(self.request, documents, system, generation, view, questions, said)

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
    model = ServedModel(said.model, said.context, is_lrqk=True)
    chat = RemoteChat(client, model, system, documents, generation)
    view.note(f"The running server at {said.url} answers with {name}; `no_server` loads it here instead.")
    # Without an endpoint, because the conversation is one with a model of this machine and may go on so.
    yield OpenChat(chat, name, None, time.perf_counter() - began, None, lambda: None)
