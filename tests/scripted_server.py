"""A server of the OpenAI protocol, over a real socket, that answers what a test has written down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from local_http import serving

# A piece of an answer: its text, the fields of a chunk, or something to do meanwhile.
Piece = str | dict[str, Any] | Callable[[], object]
STOP: dict[str, Any] = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
# Says nothing more until the client closes the connection.
WAIT = "wait"
YES: tuple[Piece, ...] = ("Ye", "s.", STOP, "[DONE]")


@dataclass
class ScriptedServer:
    """Answers each question with the next of ``answers``, the last one again and again.

    Attributes:
        refusal: status, body and headers of all answers to questions; None to answer.
        asked: the bodies of all questions.
        keys: the headers with the key of all requests.
        left: set when a client has closed the connection at ``WAIT``.
    """

    models: Any = field(default_factory=lambda: {"data": [{"id": "small", "max_model_len": 900}]})
    answers: list[Sequence[Piece]] = field(default_factory=lambda: [YES])
    refusal: tuple[int, str, dict[str, str]] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    @contextmanager
    def running(self) -> Iterator[ScriptedServer]:
        with serving(self._handler()) as port:
            self.url = f"http://127.0.0.1:{port}/v1"
            yield self

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                script.keys.append(self.headers["Authorization"])
                self._send(200, "application/json", {})
                self.wfile.write(json.dumps(script.models).encode())

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                script.asked.append(body)
                script.keys.append(self.headers["Authorization"])
                if script.refusal is not None:
                    status, text, headers = script.refusal
                    self._send(status, "application/json", headers)
                    self.wfile.write(text.encode())
                    return
                self._send(200, "text/event-stream", {})
                answers = script.answers
                for piece in answers.pop(0) if len(answers) > 1 else answers[0]:
                    self._say(piece)

            def _send(self, status: int, kind: str, headers: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": kind, **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def _say(self, piece: Piece) -> None:
                if callable(piece):
                    piece()
                    return
                if piece == WAIT:
                    self._wait_until_left()
                    return
                if isinstance(piece, str) and piece != "[DONE]":
                    piece = {"choices": [{"delta": {"content": piece}, "finish_reason": None}]}
                data = piece if isinstance(piece, str) else json.dumps(piece)
                self.wfile.write(f"data: {data}\n\n".encode())

            def _wait_until_left(self) -> None:
                try:
                    for _ in range(500):
                        self.wfile.write(b": still there\n\n")
                        time.sleep(0.02)
                except OSError:
                    script.left.set()

        return Handler
