"""A model that a server of the OpenAI protocol answers with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.chat import Chat
from lrqk_cli.chat.chat_model import OpenChat
from lrqk_cli.chat.protocols import DocumentLike, OpeningView
from lrqk_cli.chat.remote_chat import RemoteChat
from lrqk_cli.config import GenerationConfig
from lrqk_cli.endpoint.client import EndpointClient
from lrqk_cli.endpoint.protocol import ServedModel
from lrqk_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class EndpointModel:
    """See ``ChatModel``.

    Attributes:
        client: of the server.
        name: of the model; empty for the only one that the server lists.
    """

    client: EndpointClient
    name: str = ""
    wanted: Mapping[str, Any] = field(default_factory=dict)

    def named(self, name: str) -> EndpointModel:
        """Return a request for another model of the server."""
        return replace(self, name=name)

    def for_saved(self, saved: Archive, *, is_named: bool, wanted: Mapping[str, Any]) -> EndpointModel:
        """See ``ChatModel``; a conversation of another place goes on with the model of this server."""
        name = self.name if is_named or saved.endpoint != self.client.url else saved.model
        return replace(self, name=name, wanted=wanted)

    def choices(self) -> list[str]:
        """Return the names of the models that the server listed last."""
        return [model.name for model in self.client.listed]

    @contextmanager
    def open(
        self,
        documents: Sequence[DocumentLike],
        system: str | None,
        generation: GenerationConfig,
        view: OpeningView,
        questions: Sequence[str] | None = None,  # noqa: ARG002 - the server reserves its own memory
        said: Sequence[str] = (),  # noqa: ARG002
    ) -> Iterator[OpenChat]:
        """Find the model on the server, and begin a conversation with it.

        Raises:
            UsageError: the server has several models and none was named, or a setting would not act.
            EndpointError: it cannot be reached, or refuses the key.
        """
        began = time.perf_counter()
        model = self._find(view)
        chat = RemoteChat(self.client, model, system, documents, generation)
        seconds = time.perf_counter() - began
        view.note(f"{model.name} answers at {self.client.url}. The documents are sent there.")
        yield OpenChat(chat, model.name, None, seconds, None, lambda: None, self.client.url)

    def check(self, saved: Archive, standing: Chat, view: OpeningView) -> None:  # noqa: ARG002
        """Look whether the server can be reached, and name the model if it does not list it."""
        self._find(view)

    def _find(self, view: OpeningView) -> ServedModel:
        listed = self.client.models()
        names = ", ".join(model.name for model in listed)
        for model in listed:
            if self.name == model.name or (not self.name and len(listed) == 1):
                return model
        if not self.name:
            where = f"The server at {self.client.url}"
            raise UsageError(
                f"{where} has several models." if listed else f"{where} lists no model.",
                f"Choose one with `model`: {names}" if listed else "Name one with `model`.",
            )
        if listed and all(model.is_lrqk for model in listed):
            raise UsageError(
                f"The server at {self.client.url} has no model {self.name}.", f"It serves {names}."
            )
        # Some servers load what they do not list.
        view.note(f"The server does not list {self.name}; it lists {names or 'none'}.")
        return ServedModel(self.name, None, is_lrqk=False)
