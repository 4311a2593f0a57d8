"""Fetches documents from web servers, within limits of size and time.

A server gets no cookie, and no password that does not stand in the address. The body of a redirect, which may
have no end, is not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx2

from lrqk_cli import __version__
from lrqk_cli.connections import connection_failure, is_local
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.locations import DocumentUrl
from lrqk_cli.documents.normalise import shown_name
from lrqk_cli.errors import DocumentError
from lrqk_cli.memory.units import format_bytes

_CONNECT_S = 10.0
_MOST_REDIRECTS = 10
# Decoders of others could make gigabytes of a single chunk.
_ENCODINGS = ("", "identity", "gzip", "deflate")
_OFFICE = "application/vnd.openxmlformats-officedocument"
_SUFFIXES = {
    "application/pdf": ".pdf",
    "text/html": ".html",
    "application/xhtml+xml": ".xhtml",
    "application/epub+zip": ".epub",
    f"{_OFFICE}.wordprocessingml.document": ".docx",
    f"{_OFFICE}.presentationml.presentation": ".pptx",
    f"{_OFFICE}.spreadsheetml.sheet": ".xlsx",
}
_WITHOUT_TEXT = ("audio", "font", "image", "video")
_DOWNLOAD = "Download it with a browser, then give the file."

OnBytes = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """What a server has sent.

    Attributes:
        suffix: of the declared type, else of the name under which the document lies; may be empty.
        charset: the encoding that the server declares.
    """

    data: bytes = field(repr=False)
    suffix: str
    charset: str | None


def fetch(url: DocumentUrl, limits: ReadLimits, on_bytes: OnBytes) -> FetchedFile:
    """Fetch a document.

    Args:
        on_bytes: called with the bytes that have come, and those that the server announces, else 0.

    Raises:
        DocumentError: the server cannot be reached, refuses, leads to another scheme than http and https, or
            sends what is no document; or a limit is hit.
    """
    # A coroutine ends at its limit whatever it waits for; a blocking read starts anew with each byte.
    try:
        with asyncio.Runner() as runner:
            # Ctrl-C may be raised within a task, and is passed on from here; the loop would call it lost.
            runner.get_loop().set_exception_handler(lambda *_: None)
            return runner.run(_fetch(url, limits, on_bytes))
    except TimeoutError as error:
        raise DocumentError(
            f"{url.shown} takes longer to fetch than `read_timeout` allows, {limits.timeout:g} seconds.",
            "Raise `read_timeout`, or download it first.",
        ) from error
    except httpx2.ConnectTimeout as error:
        raise _unreachable(url, "it does not answer") from error
    except (httpx2.ConnectError, httpx2.ProxyError) as error:
        raise _unreachable(url, connection_failure(error)) from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise DocumentError(
            f"{url.shown} leads to an address that is not of http or https.", "Check the address."
        ) from error
    except (httpx2.HTTPError, httpx2.StreamError) as error:
        raise DocumentError(
            f"The connection broke before all of {url.shown} had come.", "Run the same command again."
        ) from error


async def _fetch(url: DocumentUrl, limits: ReadLimits, on_bytes: OnBytes) -> FetchedFile:
    async with (
        asyncio.timeout(limits.timeout),
        httpx2.AsyncClient(
            headers={"User-Agent": f"lrqk/{__version__}", "Accept-Encoding": "gzip"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=httpx2.Timeout(None, connect=_CONNECT_S),
            # A proxy is for other machines.
            trust_env=not is_local(httpx2.URL(url.address).host),
        ) as client,
        _response(client, url) as response,
    ):
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        _refuse(url, response, kind)
        data = await _body(url, response, limits, on_bytes)
        named = (url, DocumentUrl(str(response.url)))
        suffix = _SUFFIXES.get(kind) or next((each.suffix.lower() for each in named if each.suffix), "")
        return FetchedFile(data, suffix, response.charset_encoding)


@asynccontextmanager
async def _response(client: httpx2.AsyncClient, url: DocumentUrl) -> AsyncIterator[httpx2.Response]:
    """Give the response at the end of the redirects, before its body."""
    request = client.build_request("GET", url.address)
    for _ in range(_MOST_REDIRECTS + 1):
        response = await client.send(request, stream=True)
        try:
            if response.next_request is None:
                yield response
                return
            request = response.next_request
        finally:
            await response.aclose()
    raise DocumentError(f"{url.shown} leads through too many redirects.", "Check the address.")


def _refuse(url: DocumentUrl, response: httpx2.Response, kind: str) -> None:
    """Refuse a response that holds no document; ``kind`` is the type that the server declares.

    Raises:
        DocumentError: this is one.
    """
    status = response.status_code
    if status in (404, 410):
        raise DocumentError(f"There is no document at {url.shown} (status {status}).", "Check the address.")
    if status in (401, 402, 403, 407, 451):
        raise DocumentError(f"The server does not give {url.shown} to lrqk (status {status}).", _DOWNLOAD)
    if not response.is_success:
        raise DocumentError(
            f"The server failed to send {url.shown} (status {status}).", "Try again later, or download it."
        )
    if kind.partition("/")[0] in _WITHOUT_TEXT:
        raise DocumentError(
            f"{url.shown} has the type {shown_name(kind)}, which has no text to read.",
            "Give the address of a document or a page.",
        )
    if response.headers.get("Content-Encoding", "").strip().lower() not in _ENCODINGS:
        raise DocumentError(
            f"The server sends {url.shown} compressed in a way that lrqk did not ask for.", _DOWNLOAD
        )


async def _body(url: DocumentUrl, response: httpx2.Response, limits: ReadLimits, on_bytes: OnBytes) -> bytes:
    length = response.headers.get("Content-Length", "")
    announced = int(length) if length.isdecimal() else 0
    if announced > limits.fetch_size:
        raise _too_large(url, limits)
    data = bytearray()
    on_bytes(0, announced)
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > limits.fetch_size:
            raise _too_large(url, limits)
        on_bytes(response.num_bytes_downloaded, announced)
    return bytes(data)


def _too_large(url: DocumentUrl, limits: ReadLimits) -> DocumentError:
    return DocumentError(
        f"{url.shown} is larger than `fetch_size` allows, {format_bytes(limits.fetch_size)}.",
        "Raise `fetch_size`, or download it first.",
    )


def _unreachable(url: DocumentUrl, reason: str) -> DocumentError:
    return DocumentError(f"{url.shown} cannot be fetched: {reason}.", "Check the address and the network.")
