"""Refuses requests before their bodies are read: of foreign web pages, without a key, or too large."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from hashlib import sha256

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lrqk_cli.connections import is_local
from lrqk_cli.errors import LrqkError
from lrqk_cli.server.failures import (
    BodyTooLargeError,
    ForeignPageError,
    UnauthorisedError,
    UnknownHostError,
    response_of,
    status_of,
)

# What needs no key: it tells only that there is a server.
_OPEN = frozenset({"/health"})
_PORT = re.compile(r":\d*$")
# What browsers say of a request that no page of another server has made.
_OWN_SITES = ("same-origin", "none")


class PageGuard:
    """An ASGI middleware: a web page reaches the server only if it comes from there.

    Browsers let any page send some requests without asking, such as uploads, and name the page's origin.

    Args:
        is_local: clients may only use names of this machine. A page could otherwise let its own name point
            here, and be of the same origin then.
    """

    def __init__(self, app: ASGIApp, is_local: bool) -> None:
        self._app = app
        self._is_local = is_local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and (error := self._fault(Headers(scope=scope))) is not None:
            await _refusal(error)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _fault(self, headers: Headers) -> LrqkError | None:
        host = headers.get("host", "").lower()
        name = _PORT.sub("", host).strip("[]")
        if self._is_local and not is_local(name):
            return UnknownHostError(
                f"This server is not called '{name[:80]}'.", "Call it localhost, or by its address."
            )
        origin = headers.get("origin")
        # Without the scheme: a proxy before the server may add encryption.
        is_foreign = origin is not None and origin.lower().partition("://")[2] != host
        if is_foreign or headers.get("sec-fetch-site", "none") not in _OWN_SITES:
            return ForeignPageError(
                "The request comes from a web page of another origin.",
                "Ask from a program, or from a page that this address serves.",
            )
        return None


class KeyGuard:
    """An ASGI middleware: a request without one of the keys gets the status 401.

    ``state.owner`` of other requests names the owner of the key, without telling the key.

    Args:
        keys: none lets everybody in, as one owner.
        token: the key of chats of the user who started the server; empty for none.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], token: str) -> None:
        self._app = app
        self._keys = [key.encode() for key in (*keys, token) if key]
        self._is_open = not keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http":
            scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
            given = key.strip().encode()
            # Compare with all, so that the time does not tell which one is near.
            is_known = sum(secrets.compare_digest(known, given) for known in self._keys) > 0
            is_let_in = self._is_open or (is_known and scheme.lower() == "bearer")
            if not is_let_in and scope["path"] not in _OPEN:
                hint = "Send it as 'Authorization: Bearer KEY'."
                await _refusal(UnauthorisedError("The request has no valid key.", hint))(scope, receive, send)
                return
            scope.setdefault("state", {})["owner"] = sha256(given).hexdigest() if is_known else ""
        await self._app(scope, receive, send)


class BodyLimit:
    """An ASGI middleware: a request with a larger body gets the status 413.

    Args:
        limit: bytes of a body.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and count the bytes of its body."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        too_large = BodyTooLargeError(
            f"The body is larger than {self._limit:,} bytes.",
            "Send less, or start the server with --max-body.",
        )
        stated = Headers(scope=scope).get("content-length", "")
        if stated.isdecimal() and int(stated) > self._limit:
            await _refusal(too_large)(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                # The application passes no other exception on while it reads a body.
                raise HTTPException(status_of(too_large), too_large)  # type: ignore[arg-type]
            return message

        await self._app(scope, counted, send)


def _refusal(error: LrqkError) -> JSONResponse:
    headers = {"connection": "close"}
    if isinstance(error, UnauthorisedError):
        headers["www-authenticate"] = "Bearer"
    return response_of(error, headers=headers)
