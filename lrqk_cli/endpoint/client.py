"""Asks a server of the OpenAI protocol, and can stop at any moment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from lrqk_cli.connections import connection_failure, is_local
from lrqk_cli.endpoint.failures import broken, failure_in_stream, not_understood, refusal, unreachable
from lrqk_cli.endpoint.protocol import Chunk, ServedModel, read_chunk, read_models
from lrqk_cli.errors import UsageError

# Seconds in which a connection is made, and in which a server lists its models.
_CONNECT_S = 10.0
_LIST_S = 30.0
# Bytes of a list of models, or of a refusal.
_MOST_BYTES = 4 << 20
# Seconds after which it is looked again whether the user has stopped the answer.
_POLL_S = 0.05
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
        with self._failures(), asyncio.Runner() as runner:
            # Ctrl-C may be raised within a task, and is passed on from here; the loop would call it lost.
            runner.get_loop().set_exception_handler(lambda *_: None)
            response, body = runner.run(self._list())
        if not response.is_success:
            raise refusal(response.status_code, _text(body), response.headers, self.url)
        try:
            models = read_models(json.loads(body))
        except (ValueError, RecursionError):
            models = None
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
        """Yield the parts of an answer as they come.

        If ``cancelled``, yield those that are here, and close the connection.

        Args:
            body: the fields of a chat completion, without ``stream``.

        Raises:
            ContextLengthError: the prompt is too long for the server.
            UsageError: it refuses a field.
            EndpointError: it cannot be reached, refuses the key, is busy or fails, or the stream breaks.
        """
        # A coroutine can be cancelled while it waits for the server; a blocking read cannot.
        with self._failures(), asyncio.Runner() as runner:
            events = asyncio.Queue[str | None]()
            loop = runner.get_loop()
            # Ctrl-C may be raised within a task, and is passed on from here; the loop would call it lost.
            loop.set_exception_handler(lambda *_: None)
            reader = loop.create_task(self._read(body, events))
            try:
                while True:
                    data = runner.run(_next(events, reader, cancelled))
                    if data == _DONE or (data is None and cancelled()):
                        return
                    if data is None:
                        raise broken(self.url)
                    yield self._chunk(data)
            finally:
                runner.run(_leave(reader))

    async def _read(self, body: Mapping[str, Any], events: asyncio.Queue[str | None]) -> None:
        """Put the data of all events into a queue, and None at the end of the stream."""
        fields = {**body, "stream": True, "stream_options": {"include_usage": True}}
        async with (
            self._client() as client,
            client.stream("POST", f"{self.url}/chat/completions", json=fields) as response,
        ):
            if not response.is_success:
                text = _text(await _body(response))
                raise refusal(response.status_code, text, response.headers, self.url)
            async for event in httpx2.EventSource(response):
                events.put_nowait(event.data)
        events.put_nowait(None)

    def _chunk(self, data: str) -> Chunk:
        try:
            plain = json.loads(data)
        except (ValueError, RecursionError):
            plain = None
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


async def _next(
    events: asyncio.Queue[str | None], reader: asyncio.Task[None], cancelled: Callable[[], bool]
) -> str | None:
    """Return the data of the next event; None at the end of the stream, or if the user stops it.

    Raises:
        Exception: whatever the reader raises, after all events before it.
    """
    while events.empty() and not reader.done() and not cancelled():
        getter = asyncio.ensure_future(events.get())
        await asyncio.wait({getter, reader}, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
        if getter.done():
            return getter.result()
        getter.cancel()
    if not events.empty():
        return events.get_nowait()
    if reader.done():
        reader.result()
    return None


async def _leave(reader: asyncio.Task[None]) -> None:
    """Close the connection; what fails now changes nothing."""
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)


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
            "Others could see a key in the address of --endpoint.", "Set the variable LRQK_API_KEY instead."
        )
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"
