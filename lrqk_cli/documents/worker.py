"""The process that lists folders and reads files for ``ReaderProcess``."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import BinaryIO

from lrqk_cli.documents import messages
from lrqk_cli.documents.drawing import Canvas, PageDrawer, from_drawing
from lrqk_cli.documents.files import load
from lrqk_cli.documents.formats import list_folder, read_source
from lrqk_cli.documents.locations import STDIN, Location
from lrqk_cli.documents.messages import Message
from lrqk_cli.documents.pages import PageSelection
from lrqk_cli.documents.shares import ShareLostError
from lrqk_cli.documents.source import Password, ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError, UsageError

# Memory that Python and the libraries reserve.
_RESERVED_BYTES = 256 << 20


def main(memory: int) -> None:
    """Answer requests from standard input until it ends.

    Args:
        memory: bytes that this process may use.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and kills this process
    _limit_memory(memory)
    worker = _Worker(_take_stdout(), SimpleQueue(), memory)
    threading.Thread(target=worker.receive, daemon=True).start()
    while True:
        worker.answer()


def _limit_memory(memory: int) -> None:
    """Make single large allocations fail; the parent process watches slow growth.

    The system counts reserved memory too, so this limit is above the memory that may be used.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = 2 * memory + _RESERVED_BYTES
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    with suppress(ValueError, OSError):  # not every system has this limit
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _take_stdout() -> BinaryIO:
    """Return standard output, for messages only; discard the output of libraries."""
    output = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    return output


@dataclass
class _Worker:
    """Answers one request after the other.

    Attributes:
        drawn: the file that was drawn last, which stays open: its path, bytes of standard input, and drawer.
    """

    output: BinaryIO
    received: SimpleQueue[tuple[Message, bytes]]
    memory: int
    drawn: tuple[str, bytes, PageDrawer] | None = None

    def receive(self) -> None:
        """Queue messages from standard input; end the process at the end of input."""
        try:
            for line in sys.stdin.buffer:
                message = messages.decode(line)
                self.received.put((message, sys.stdin.buffer.read(message["bytes"])))
        finally:
            os._exit(0)

    def answer(self) -> None:
        """Answer the next request."""
        request, data = self.received.get()
        try:
            answer = self._answer_to(request, data)
        except (DocumentError, UsageError) as error:
            answer = {"error": messages.from_error(error)}
        except MemoryError:
            answer = {"exceeded": "memory"}
        except ShareLostError:
            os._exit(1)  # as if this process had crashed
        except Exception:
            answer = {"failed": traceback.format_exc()}
        self._send(answer)

    def _answer_to(self, request: Message, data: bytes) -> Message:
        if "list" in request:
            return self._list(request)
        return self._draw(request, data) if "draw" in request else self._read(request, data)

    def _list(self, request: Message) -> Message:
        listing = list_folder(Path(request["list"]))
        files = [[str(path), title] for path, title in listing.files]
        return {"listing": {"files": files, "left_out": listing.left_out}}

    def _read(self, request: Message, data: bytes) -> Message:
        declared, pages = (request["suffix"], request["charset"]), request["pages"]
        source = _source(request["read"], request["title"], data, *declared)
        selection = None if pages is None else PageSelection.parse(pages, waits=request["waits"])
        password: Password = self._ask if request["asks"] else request["password"]
        options = ReadOptions(selection, password, self._tell, self._tell_scan, self.memory)
        document = read_source(source, options)
        return {"document": messages.from_document(document)}

    def _draw(self, request: Message, data: bytes) -> Message:
        drawer = self._drawer_of(request["draw"], request["title"], data)
        drawing = drawer.draw(request["page"], request["passages"], Canvas(*request["canvas"]))
        return {"drawing": from_drawing(drawing)}

    def _drawer_of(self, path: str, title: str, data: bytes) -> PageDrawer:
        """Return what draws a file; the file before it is closed."""
        if self.drawn is None or self.drawn[:2] != (path, data):
            if self.drawn is not None:
                self.drawn[2].close()
                self.drawn = None
            self.drawn = path, data, PageDrawer(_source(path, title, data))
        return self.drawn[2]

    def _tell(self, done: int, total: int) -> None:
        self._send({"done": done, "total": total})

    def _tell_scan(self, done: int, total: int) -> None:
        self._send({"scans": done, "total": total})

    def _ask(self, _: Location) -> str | None:
        self._send({"ask": "password"})
        reply, _data = self.received.get()
        password: str | None = reply["password"]
        return password

    def _send(self, message: Message) -> None:
        self.output.write(messages.encode(message))
        self.output.flush()


def _source(path: str, title: str, data: bytes, suffix: str = "", charset: str | None = None) -> SourceFile:
    """Return a file with its bytes; ``data`` are those of ``-``."""
    place = Path(path)
    return SourceFile(place, title, data if place == STDIN else load(place, title), suffix, charset)
