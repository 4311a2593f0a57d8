"""Asks a server of the OpenAI protocol, and can stop at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from lrqk_cli.connections import connection_failure, is_local
from lrqk_cli.endpoint.failures import broken, failure_in_stream, not_understood, refusal, unreachable
from lrqk_cli.endpoint.loop_thread import LoopThread
from lrqk_cli.endpoint.protocol import Chunk, ServedModel, read_chunk, read_json, read_models
from lrqk_cli.errors import UsageError

# Seconds in which a connection is made, and in which a server lists its models.
_CONNECT_S = 10.0
_LIST_S = 30.0
# Bytes of a list of models, or of a refusal.
_MOST_BYTES = 4 << 20
# Characters of an answer with its reasoning: the longest contexts hold about as many.
_MOST_CHARACTERS = 4 << 20
_DONE = "[DONE]"


class EndpointClient:
    """A server.

    Args:
        url: as the user wrote it; ``/v1`` is added where there is no path.
        key: sent with each request; None for none.
        socket: the Unix socket on which the server is reached, whatever the address; None for the address.

    Attributes:
        url: the address under which its routes lie.
        listed: the models that it listed last.

    Raises:
        UsageError: this is no address of a server, or a key stands in it.
    """

    def __init__(self, url: str, key: str | None = None, socket: Path | None = None) -> None:
        self.url = _base(url)
        self.listed: list[ServedModel] = []
        self._socket = str(socket) if socket is not None else None
        self._settings: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {key}"} if key else {},
            # A proxy is for other machines.
            "trust_env": socket is None and not is_local(urlsplit(self.url).hostname),
        }

    def models(self) -> list[ServedModel]:
        """Return the models that the server lists.

        Raises:
            EndpointError: it cannot be reached, refuses the key, or speaks another protocol.
        """
        with self._failures(), LoopThread() as thread:
            response, body = thread.result(self._list())
        if not response.is_success:
            raise refusal(response.status_code, _text(body), response.headers, self.url)
        models = read_models(read_json(body))
        if models is None:
            raise not_understood(self.url)
        self.listed = models
        return models

    async def _list(self) -> tuple[httpx2.Response, bytes]:
        # A time limit of the client would start anew with each byte.
        async with (
            asyncio.timeout(_LIST_S),
            self._client() as client,
            client.stream("GET", f"{self.url}/models") as response,
        ):
            return response, await _body(response)

    def _client(self) -> httpx2.AsyncClient:
        transport = httpx2.AsyncHTTPTransport(uds=self._socket) if self._socket else None
        timeout = httpx2.Timeout(None, connect=_CONNECT_S)
        return httpx2.AsyncClient(timeout=timeout, transport=transport, **self._settings)

    def stream(self, body: Mapping[str, Any], cancelled: Callable[[], bool]) -> Iterator[Chunk]:
        """Yield the parts of an answer as they come; one that does not end has its end by length.

        If ``cancelled``, close the connection: what has not been yielded is dropped.

        Args:
            body: the fields of a chat completion, without ``stream``.

        Raises:
            ContextLengthError: the prompt is too long for the server.
            UsageError: it refuses a field.
            EndpointError: it cannot be reached, refuses the key, is busy or fails, or the stream breaks.
        """
        room = _MOST_CHARACTERS
        with self._failures(), LoopThread() as thread:
            # Each event is read when the one before it has been used, so a quick server has to wait.
            events = self._events(body)
            while not cancelled():
                data = thread.result_unless(cancelled, _next(events))
                if data is None or data == _DONE:
                    return
                chunk = self._chunk(data)
                room -= len(chunk.text) + len(chunk.reasoning)
                if room < 0:
                    yield replace(chunk, end="length")
                    return
                yield chunk

    async def _events(self, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """Yield the data of all events; whoever reads on after the last one finds the stream broken."""
        fields = {**body, "stream": True, "stream_options": {"include_usage": True}}
        # A lone surrogate, as in a name that is no text, has no bytes in UTF-8, but an escape in JSON.
        content = json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace")
        headers = {"Content-Type": "application/json"}
        url = f"{self.url}/chat/completions"
        async with (
            self._client() as client,
            client.stream("POST", url, content=content, headers=headers) as response,
        ):
            if not response.is_success:
                text = _text(await _body(response))
                raise refusal(response.status_code, text, response.headers, self.url)
            # Streams of events are UTF-8, and Python may have no such text as the server names.
            response.encoding = "utf-8"
            async for event in httpx2.EventSource(response):
                yield event.data
        raise broken(self.url)

    def _chunk(self, data: str) -> Chunk:
        plain = read_json(data)
        if not isinstance(plain, dict):
            raise not_understood(self.url)
        if plain.get("error"):
            raise failure_in_stream(plain["error"], self.url)
        return read_chunk(plain)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn failures of the connection into those of a user."""
        try:
            yield
        except (TimeoutError, httpx2.ConnectTimeout) as error:
            raise unreachable(self.url, "it does not answer") from error
        except httpx2.ConnectError as error:
            raise unreachable(self.url, connection_failure(error)) from error
        except httpx2.SSEError as error:
            raise not_understood(self.url) from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise broken(self.url) from error


async def _body(response: httpx2.Response) -> bytes:
    """Return the body of a response; of one that is too long, and may have no end, its beginning."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > _MOST_BYTES:
            break
    return bytes(body)


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


async def _next(events: AsyncGenerator[str, None]) -> str:
    # The loop closes those generators at its end that have begun within it.
    return await anext(events)


def _base(url: str) -> str:
    """Return the address under which the routes lie."""
    url = url.strip()
    try:
        parts, _ = urlsplit(url), httpx2.URL(url)
        is_address = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except (ValueError, httpx2.InvalidURL):
        parts, is_address = urlsplit(""), False
    if not is_address or parts.query or parts.fragment:
        raise UsageError(f"'{url}' is no address of a server.", "Write it as http://localhost:8000/v1.")
    if "@" in parts.netloc:
        raise UsageError(
            "Others could see a key in the address of `endpoint`.", "Set the variable LRQK_API_KEY instead."
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"
