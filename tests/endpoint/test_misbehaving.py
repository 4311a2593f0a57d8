"""Servers that never end, or say what means nothing, over a real socket."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from itertools import islice, repeat
from pathlib import Path

import pytest
from local_http import serving
from scripted_server import ScriptedServer

from lrqk_cli.endpoint import client
from lrqk_cli.endpoint.client import EndpointClient
from lrqk_cli.endpoint.failures import EndpointError
from lrqk_cli.errors import LrqkError

pytestmark = pytest.mark.short

_WORD = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
_END = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
_MODELS = b'{"data": [{"id": "small", "owned_by": "lrqk"}]}'


@contextmanager
def server_of(
    pieces: Iterable[bytes], kind: str = "text/event-stream", sent: list[int] | None = None
) -> Iterator[str]:
    """Answer all questions with the pieces, as fast as they are taken; note the bytes of each in ``sent``."""

    class Hasty(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            self._send("application/json", [_MODELS])

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._send(kind, pieces)

        def _send(self, kind: str, pieces: Iterable[bytes]) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            with suppress(OSError):
                for piece in pieces:
                    self.wfile.write(piece)
                    if sent is not None:
                        sent.append(len(piece))

    with serving(Hasty) as port:
        yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The beginning of a command that asks, away from the user's own settings."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "LRQK_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    return [sys.executable, "-m", "lrqk_cli", "chat", "--prompt", "Well?", "--endpoint"]


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_ends_an_answer_that_has_no_end(command: list[str], presses: int) -> None:
    with (
        server_of(repeat(_WORD * 99)) as url,
        subprocess.Popen([*command, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as asking,
    ):
        try:
            assert asking.stdout is not None
            assert asking.stdout.read(5000).startswith(b"word word ")
            for _ in range(presses):
                asking.send_signal(signal.SIGINT)
            _, said = asking.communicate(timeout=30)
        finally:
            asking.kill()
    assert (asking.returncode, said.splitlines()[-1]) == (130, b"Interrupted.")
    assert b"Error" not in said


def test_ctrl_c_is_passed_on_whenever_it_comes() -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def ask(url: str, seconds: float) -> None:
        pressing = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
        pressing.start()
        try:
            for _ in EndpointClient(url).stream({}, lambda: False):
                pass
        finally:
            pressing.join()

    before = signal.signal(signal.SIGINT, interrupt)
    moments = random.Random(1)
    try:
        with server_of(repeat(_WORD * 99)) as url:
            for _ in range(30):
                with pytest.raises(KeyboardInterrupt):
                    ask(url, moments.uniform(0.01, 0.05))
    finally:
        signal.signal(signal.SIGINT, before)


def test_whoever_stops_an_answer_that_has_no_end_gets_no_more_of_it() -> None:
    seen = list[str]()
    with server_of(repeat(_WORD * 99)) as url:
        for chunk in EndpointClient(url).stream({}, lambda: len(seen) >= 100):
            seen.append(chunk.text)
            assert len(seen) < 200
    assert set(seen) == {"word "}


def test_a_server_waits_for_whoever_reads_slowly() -> None:
    sent = list[int]()
    with server_of(repeat(_WORD * 999), sent=sent) as url:
        answer = EndpointClient(url).stream({}, lambda: False)
        assert len(list(islice(answer, 2000))) == 2000
        del answer
    # The buffers of the system hold what is on its way.
    assert sum(sent) < 64 << 20


def test_an_answer_that_has_no_end_ends_by_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MOST_CHARACTERS", 100)
    with server_of(repeat(_WORD)) as url:
        chunks = list(EndpointClient(url).stream({}, lambda: False))
    assert [chunk.end for chunk in chunks] == [*[None] * 20, "length"]


@pytest.mark.parametrize("number", ["9" * 400, "9" * 5000, "-1", "1e999", "9e300", "NaN", '"many"', "true"])
def test_an_answer_outlives_numbers_that_mean_nothing(command: list[str], number: str) -> None:
    reading = b'data: {"lrqk": {"ahead": #}}\n\ndata: {"lrqk": {"read": #, "total": #}}\n\n'
    usage = b'"usage": {"prompt_tokens": #, "completion_tokens": #}'
    counters = b'"prefill_s": #, "counters": {"steps": #, "seconds": #, "accesses": #}'
    sources = b'"sources": [{"number": #, "page": #, "share": #, "passage": "x"}], "heat": [[#]]'
    told = b'data: {"choices": [], %b, "lrqk": {%b, %b}}\n\n' % (usage, counters, sources)
    pieces = [piece.replace(b"#", number.encode()) for piece in (reading, _WORD, told, _END)]
    with server_of(pieces) as url:
        done = subprocess.run([*command, url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "word \n"), done.stderr
    assert len(done.stderr) < 400


def test_numbers_that_mean_something_are_taken_as_they_are() -> None:
    usage = b'{"prompt_tokens": 1048576, "completion_tokens": 7}'
    piece = b'data: {"usage": %b, "lrqk": {"prefill_s": 0.25}}\n\n' % usage
    with server_of([piece, _END]) as url:
        chunk = next(EndpointClient(url).stream({}, lambda: False))
    assert chunk.usage is not None
    assert (chunk.usage.prompt, chunk.usage.completion, chunk.details) == (1_048_576, 7, {"prefill_s": 0.25})


def test_a_name_that_is_no_text_is_sent_as_the_server_has_listed_it(command: list[str]) -> None:
    with ScriptedServer().running() as server:
        server.models = {"data": [{"id": "fa\ud800ke-é"}]}
        done = subprocess.run([*command, server.url], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "Yes.\n"), done.stderr
    assert server.asked[0]["model"] == "fa\ud800ke-é"


@pytest.mark.parametrize("body", ["[" * 200_000, '{"error": ' * 200_000, '{"code": ' + "9" * 5000 + "}"])
def test_a_refusal_that_cannot_be_read_is_named_by_its_status(body: str) -> None:
    with ScriptedServer().running() as server:
        server.refusal = 500, body, {}
        with pytest.raises(EndpointError, match="failed with the status 500"):
            next(EndpointClient(server.url).stream({}, lambda: False))


@pytest.mark.parametrize(("after", "hint"), [("86400", "in 86400 seconds."), ("9" * 5000, "later.")])
def test_a_time_to_ask_again_is_told_if_it_is_one(after: str, hint: str) -> None:
    with ScriptedServer().running() as server:
        server.refusal = 429, json.dumps({"error": {"message": "Busy."}}), {"Retry-After": after}
        with pytest.raises(LrqkError) as failure:
            next(EndpointClient(server.url).stream({}, lambda: False))
    assert failure.value.hint == f"Ask again {hint}"


@pytest.mark.parametrize("charset", ["utf-16", "rot13", "zlib", "undefined", "latin-1"])
def test_a_stream_is_utf_8_whatever_it_is_called(charset: str) -> None:
    piece = 'data: {"choices": [{"delta": {"content": "Łódź"}}]}\n\n'.encode()
    with server_of([piece, _END], f"text/event-stream; charset={charset}") as url:
        chunks = list(EndpointClient(url).stream({}, lambda: False))
    assert [chunk.text for chunk in chunks] == ["Łódź", ""]
