"""A web server with documents, over a real socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from local_http import serving


@dataclass(frozen=True)
class Served:
    """What the server sends.

    Attributes:
        body: its bytes; or writes them itself, through the function that it is given.
        declares_length: whether a header says how many they are.
    """

    body: bytes | Callable[[Callable[[bytes], object]], object] = b""
    kind: str | None = "text/plain"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    declares_length: bool = True


@dataclass
class DocumentServer:
    """Sends what lies under a path, and keeps what it was asked for.

    Attributes:
        files: path -> what is sent.
        asked: the path with the query, and the headers, of each request.
    """

    files: dict[str, Served] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    def put(self, path: str, body: bytes, kind: str | None = "text/plain") -> str:
        """Serve something; return its URL."""
        self.files[path] = Served(body, kind)
        return self.url(path)

    def leads(self, path: str, where: str, **headers: str) -> str:
        """Redirect from a path; return its URL."""
        self.files[path] = Served(status=302, headers={"Location": where, **headers})
        return self.url(path)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @contextmanager
    def running(self) -> Iterator[DocumentServer]:
        with serving(self._handler(), waits=False) as self.port:
            yield self

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                store.asked.append((self.path, dict(self.headers)))
                served = store.files.get(self.path.partition("?")[0], Served(status=404))
                self.send_response(served.status)
                if served.kind is not None:
                    self.send_header("Content-Type", served.kind)
                for name, value in served.headers.items():
                    self.send_header(name, value)
                if isinstance(served.body, bytes) and served.declares_length:
                    self.send_header("Content-Length", str(len(served.body)))
                self.end_headers()
                with suppress(OSError):  # the client has left
                    if isinstance(served.body, bytes):
                        self.wfile.write(served.body)
                    else:
                        served.body(self.wfile.write)

        return Handler
