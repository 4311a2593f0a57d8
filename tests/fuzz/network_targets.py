"""The network fails, or whoever answers lies: for documents, for the hub of models, and for other engines.

A command ends within its time limit, with the right answer or in a sentence; nothing that came in part is
taken for the whole.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random

from fuzz.command_line import lrqk, own_folders
from lrqk_cli.documents import read_documents
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.locations import DocumentUrl
from lrqk_cli.endpoint import client
from lrqk_cli.endpoint.client import EndpointClient
from lrqk_cli.errors import LrqkError

_TEXT = "The plant at Brannock employs 412 people. " * 50
_HTML = b"<html><head><title>Sign in</title></head><body>Welcome to the hotel's network.</body></html>"
_CHUNK = {"choices": [{"delta": {"content": "Yes."}, "finish_reason": None}]}
_STOP = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
_MODELS = json.dumps({"data": [{"id": "small", "max_model_len": 900}]}).encode()
# Seconds that a server keeps silent, or sends byte after byte: longer than any limit that is set here.
_PATIENCE = 8.0
_LIMIT = 1.0
# What a command may take beyond its limit, on a machine that is busy.
_SLACK = 6.0

Pieces = Iterator[bytes]


class _Liar(socketserver.ThreadingTCPServer):
    """Answers every request with what ``answer`` yields for its path; an empty piece is a wait."""

    daemon_threads, allow_reuse_address, block_on_close = True, True, False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: Callable[[str], Pieces] = lambda _: iter(())
        self.resets = False
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None: ...


class _Handler(socketserver.BaseRequestHandler):
    server: _Liar
    request: socket.socket

    def handle(self) -> None:
        received = b""
        self.request.settimeout(_PATIENCE)
        with suppress(OSError):
            while b"\r\n\r\n" not in received:
                if not (more := self.request.recv(65536)):
                    return
                received += more
            for piece in self.server.answer(received.split(b" ")[1].decode()):
                self.request.sendall(piece)
                time.sleep(0 if piece else 0.05)
            if self.server.resets:
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _head(*lines: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *lines, "Connection: close", "", "")).encode()


def _waits() -> Pieces:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        yield b""


def _drips(data: bytes) -> Pieces:
    end = time.monotonic() + _PATIENCE
    for number in range(len(data)):
        if time.monotonic() > end:
            return
        yield data[number : number + 1]
        yield b""


def _whole(kind: str, body: bytes) -> Pieces:
    yield _head(f"Content-Type: {kind}", f"Content-Length: {len(body)}") + body


def _silent(*_: object) -> Pieces:
    return _waits()


def _slow_head(kind: str, body: bytes) -> Pieces:
    return _drips(next(_whole(kind, body)) * 9)


def _slow_body(kind: str, body: bytes) -> Pieces:
    yield _head(f"Content-Type: {kind}", f"Content-Length: {len(body)}")
    yield from _drips(body)
    yield from _waits()


def _cut_head(*_: object) -> Pieces:
    yield b"HTTP/1.1 200 O"


def _cut_body(kind: str, body: bytes) -> Pieces:
    yield next(_whole(kind, body))[: -len(body) // 2]


def _cut_chunk(kind: str, body: bytes) -> Pieces:
    yield _head(f"Content-Type: {kind}", "Transfer-Encoding: chunked")
    yield f"{len(body):x}\r\n".encode() + body[: len(body) // 2]


def _announces_more(kind: str, body: bytes) -> Pieces:
    yield _head(f"Content-Type: {kind}", f"Content-Length: {2 * len(body)}") + body


def _odd_length(kind: str, body: bytes) -> Pieces:
    yield _head(f"Content-Type: {kind}", "Content-Length: -5") + body


def _page(*_: object) -> Pieces:
    return _whole("text/html", _HTML)


def _page_by_another_name(kind: str, _: bytes) -> Pieces:
    return _whole(kind, _HTML)


def _damaged_gzip(kind: str, body: bytes) -> Pieces:
    packed = gzip.compress(body)
    packed = packed[: len(packed) // 2] + bytes(9) + packed[len(packed) // 2 + 9 :]
    yield _head(f"Content-Type: {kind}", "Content-Encoding: gzip", f"Content-Length: {len(packed)}") + packed


def _no_http(*_: object) -> Pieces:
    yield b"SSH-2.0-OpenSSH_9.9\r\n" + bytes(range(256)) * 9


def _endless_head(*_: object) -> Pieces:
    yield b"HTTP/1.1 200 OK\r\n"
    for number in range(200_000):
        yield b"X-%d: y\r\n" % number


def _endless_body(kind: str, _: bytes) -> Pieces:
    yield _head(f"Content-Type: {kind}")
    while True:
        yield bytes(65536)


def _fails(*_: object) -> Pieces:
    yield _head("Content-Type: text/html", f"Content-Length: {len(_HTML)}", status="503 Busy") + _HTML


def _circle(*_: object) -> Pieces:
    yield _head("Location: /a", "Content-Length: 0", status="302 Found")


def _nothing(*_: object) -> Pieces:
    return iter(())


_ANSWERS = {
    "whole": _whole,
    "silent": _silent,
    "slow head": _slow_head,
    "slow body": _slow_body,
    "cut in the head": _cut_head,
    "cut in the body": _cut_body,
    "cut in a chunk": _cut_chunk,
    "announces more": _announces_more,
    "odd length": _odd_length,
    "a page of a hotel": _page,
    "that page by another name": _page_by_another_name,
    "damaged gzip": _damaged_gzip,
    "no HTTP": _no_http,
    "endless head": _endless_head,
    "endless body": _endless_body,
    "fails": _fails,
    "a circle": _circle,
    "nothing": _nothing,
}
# Of these a client cannot know that they are not what was asked for.
_UNKNOWABLE = frozenset({"a page of a hotel", "that page by another name"})


class Network:
    """A document, the list of an engine's models, its answer, or a model of the hub, over a bad network."""

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        self._liar = _Liar()
        with socket.create_server(("127.0.0.1", 0)) as closed:
            self._closed = f"http://127.0.0.1:{closed.getsockname()[1]}"
        os.environ |= {"HF_ENDPOINT": self._liar.url, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "0"}
        client._CONNECT_S = client._LIST_S = _LIMIT
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE, constants.ENDPOINT = False, self._liar.url
        constants.HF_HUB_ETAG_TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT = 1
        constants.DEFAULT_REQUEST_TIMEOUT = constants.DEFAULT_ETAG_TIMEOUT = 1

    def run(self, number: int, rng: Random) -> str:
        self._number = number
        self._liar.resets = rng.random() < 0.2
        asks = {"document": self._document, "models": self._models, "answer": self._answer, "hub": self._hub}
        what, where = rng.choice([*asks]), rng.random()
        kind = rng.choice([*_ANSWERS])
        url = self._liar.url
        if where < 0.1:
            kind, url = rng.choice((("no such host", "http://nowhere.invalid"), ("refused", self._closed)))
        began = time.monotonic()
        try:
            asks[what](url, kind)
            found = "done"
        except LrqkError as error:
            assert error.message
            assert error.hint
            found = "refused"
        # The hub's own client begins its limit anew with each byte.
        seconds = time.monotonic() - began
        assert what == "hub" or seconds < _LIMIT + _SLACK, (what, kind, seconds)
        return f"{what}: {kind}, {found}"

    def _document(self, url: str, kind: str) -> None:
        self._lies(kind, "text/plain", _TEXT.encode())
        limits = ReadLimits(timeout=_LIMIT, fetch_size=10 << 20)
        (document,) = read_documents([DocumentUrl(f"{url}/a.txt")], limits=limits)
        text = "".join(page.text for page in document.pages)
        assert text.strip() == _TEXT.strip() or kind in _UNKNOWABLE, (kind, text)

    def _models(self, url: str, kind: str) -> None:
        self._lies(kind, "application/json", _MODELS)
        models = EndpointClient(url).models()
        assert [model.name for model in models] == ["small"], kind

    def _answer(self, url: str, kind: str) -> None:
        events = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in (_CHUNK, _STOP)) + "data: [DONE]\n\n"
        self._lies(kind, "text/event-stream", events.encode())
        end = time.monotonic() + _LIMIT
        chunks = list(EndpointClient(url).stream({"model": "small"}, lambda: time.monotonic() > end))
        is_stopped = time.monotonic() > end
        assert is_stopped or "".join(chunk.text for chunk in chunks) == "Yes.", (kind, chunks)

    def _hub(self, url: str, kind: str) -> None:
        self._lies(kind, "application/json", b'{"model_type": "llama"}')
        wanted = (
            ("models", "pull", "owner/name:Q8_0") if self._number % 2 else ("info", "--model", "owner/name")
        )
        run = lrqk(*wanted)
        assert run.code, (kind, run)
        raise LrqkError(run.err, "Said.")

    def _lies(self, kind: str, content_type: str, body: bytes) -> None:
        answer = _ANSWERS.get(kind, _nothing)
        self._liar.answer = lambda _: answer(content_type, body)
