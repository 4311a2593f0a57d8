"""Reads files in a separate process, which is killed if it takes too long or too much memory.

A file of a few kilobytes can keep a parser busy for hours, or fill all memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import IO

from lrqk_cli.documents import messages
from lrqk_cli.documents.document import Document
from lrqk_cli.documents.drawing import Canvas, PageDrawing, to_drawing
from lrqk_cli.documents.formats import Listing
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.locations import STDIN
from lrqk_cli.documents.messages import Message
from lrqk_cli.documents.normalise import shown_name
from lrqk_cli.documents.resident import ResidentMemory
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError

_POLL_S = 0.05
_LONGEST_STEP_S = 1.0
_SECONDS_A_PAGE = 1.0
_SECONDS_A_SCAN = 30.0
_INTERIM = {"done", "scans", "ask"}
# Readers of spreadsheets import numeric libraries, whose threads would only reserve memory.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class ReaderProcess:
    """Lists folders and reads files in a separate process.

    The first request starts the process, which serves all requests; if a request ends it, the next one starts
    another. Leaving the context ends it.
    """

    def __init__(self, limits: ReadLimits) -> None:
        self._limits = limits
        self._child: _Child | None = None

    def __enter__(self) -> ReaderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def list_folder(self, folder: Path) -> Listing:
        """The files of a folder; see ``formats.list_folder``.

        Raises:
            DocumentError: the folder cannot be listed within the limits, or at all.
        """
        source = SourceFile(folder, f"The folder {shown_name(folder)}", b"")
        found = self._request({"list": str(folder)}, source, ReadOptions())["listing"]
        return Listing([(Path(path), title) for path, title in found["files"]], found["left_out"])

    def read(self, source: SourceFile, options: ReadOptions) -> Document:
        """Read a file, or the bytes of ``source`` if it is none; see ``formats.read_source``.

        Raises:
            DocumentError: the file cannot be read within the limits, or at all.
            UsageError: ``options`` select pages of a document without pages.
        """
        request = {
            "read": str(source.path if isinstance(source.path, Path) else STDIN),
            "title": source.title,
            "suffix": source.declared_suffix,
            "charset": source.charset,
            "pages": None if options.pages is None else str(options.pages),
            "waits": options.pages is not None and options.pages.waits,
            "asks": callable(options.password),
            "password": None if callable(options.password) else options.password,
        }
        answer = self._request(request, source, options)
        return messages.to_document(source.path, source.title, answer["document"])

    def draw(self, source: SourceFile, page: int, passages: Sequence[str], canvas: Canvas) -> PageDrawing:
        """Draw a page of a PDF file, and find passages on it; see ``PageDrawer``.

        The file stays open until another is drawn, so draw all pages of one before those of another.

        Raises:
            DocumentError: the page cannot be drawn within the limits, or at all.
        """
        request = {
            "draw": str(source.path),
            "title": source.title,
            "page": page,
            "passages": [*passages],
            "canvas": [canvas.width, canvas.height, canvas.encoding],
        }
        return to_drawing(self._request(request, source, ReadOptions())["drawing"])

    def _request(self, request: Message, source: SourceFile, options: ReadOptions) -> Message:
        if self._child is None:
            self._child = _Child(self._limits.memory)
        try:
            self._child.send(request, source.data)
            answer = self._answer(self._child, source, options)
        except _EndedError as error:
            self._end()
            raise DocumentError(
                f"{source.title} cannot be read: it made its reader crash.",
                "Open it in its own program and save it again, or get another copy.",
            ) from error
        except BaseException:
            self._end()
            raise
        if "error" in answer:
            raise messages.to_error(answer["error"])
        if "failed" in answer:
            raise DocumentError(
                f"{source.title} cannot be read: its reader failed.",
                "Please report it. `debug` shows what happened.",
            ) from RuntimeError(answer["failed"])
        return answer

    def _answer(self, child: _Child, source: SourceFile, options: ReadOptions) -> Message:
        """Wait for the answer to a request; handle progress and password requests; enforce the limits."""
        done, scans, spent, weighed_at, seen = 0, 0, 0.0, 0.0, time.monotonic()
        while True:
            message = child.receive(_POLL_S)
            if message is not None:
                done, scans = message.get("done", done), message.get("scans", scans)
            now = time.monotonic()
            # Not for each page, but before an answer, so that the outcome does not depend on the moment.
            if now - weighed_at > _POLL_S or (message is not None and not message.keys() & _INTERIM):
                if child.memory.is_above(self._limits.memory):
                    raise too_large(source.title, self._limits)
                weighed_at = now
            # A longer step is a wait for a password, or both processes were stopped; count it as one second.
            spent, seen = spent + min(now - seen, _LONGEST_STEP_S), now
            if spent > self._limits.timeout + _SECONDS_A_PAGE * done + _SECONDS_A_SCAN * scans:
                raise _too_slow(source.title, done, scans, self._limits)
            if message is None:
                continue
            if "done" in message:
                options.on_page(done, message["total"])
            elif "scans" in message:
                options.on_scan(scans, message["total"])
            elif "ask" in message and callable(options.password):
                child.send({"password": options.password(source.path)})
            elif "exceeded" in message:
                raise too_large(source.title, self._limits)
            else:
                return message

    def _end(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None


def too_large(title: str, limits: ReadLimits) -> DocumentError:
    """The error of a file that needs more memory than the limit."""
    return DocumentError(
        f"{title} takes more memory to read than `read_memory` allows, {limits.memory / 2**20:,.0f} MiB.",
        "Raise `read_memory` if you trust the file.",
    )


def _too_slow(title: str, done: int, scans: int, limits: ReadLimits) -> DocumentError:
    more = f" and one more for each of the {done:,} pages that came" if done else ""
    if scans:
        more += f", {_SECONDS_A_SCAN:g} for each of the {scans:,} that OCR read"
    return DocumentError(
        f"{title} takes longer to read than `read_timeout` allows, {limits.timeout:g} seconds{more}.",
        "Raise `read_timeout` if you trust the file.",
    )


class _EndedError(Exception):
    """The reader process has ended by itself."""


class _Child:
    """A running process and its two pipes."""

    def __init__(self, memory: int) -> None:
        import psutil

        # With -m, or with its default path, Python would search the working folder first.
        modules = [*sys.path, str(Path(__file__).parents[2])]
        code = (
            f"import sys; sys.path[:] = {modules!r}; "
            f"from lrqk_cli.documents.worker import main; main({memory})"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **_ONE_THREAD},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._watched = psutil.Process(self._process.pid)
        self._gone = psutil.Error
        self.memory = ResidentMemory(self._watched)
        self._received: SimpleQueue[bytes] = SimpleQueue()
        # A thread reads, because not every system can wait for a pipe with a timeout.
        self._thread = threading.Thread(
            target=_pass_on, args=(self._answers, self._received.put), daemon=True
        )
        self._thread.start()

    def send(self, message: Message, data: bytes = b"") -> None:
        """Send a message and the bytes that belong to it.

        Raises:
            _EndedError: the process has ended.
        """
        try:
            self._requests.write(messages.encode({**message, "bytes": len(data)}))
            self._requests.write(data)
            self._requests.flush()
        except OSError as error:
            raise _EndedError from error

    def receive(self, timeout: float) -> Message | None:
        """The next message; None if none comes within ``timeout`` seconds.

        Raises:
            _EndedError: the process has ended.
        """
        try:
            line = self._received.get(timeout=timeout)
        except Empty:
            return None
        if not line.endswith(b"\n"):
            raise _EndedError
        return messages.decode(line)

    def kill(self) -> None:
        """End the process and its own processes, and wait for its end."""
        shares = []
        with suppress(self._gone):
            # It cannot begin others while it is stopped.
            self._watched.suspend()
            shares = self._watched.children()
        for share in shares:
            with suppress(self._gone):
                share.kill()
        self._process.kill()
        self._process.wait()
        self._thread.join()
        self._answers.close()
        with suppress(OSError):  # flushing unsent data fails
            self._requests.close()


def _pass_on(answers: IO[bytes], put: Callable[[bytes], None]) -> None:
    """Put every line, and an empty line at the end of the stream."""
    for line in answers:
        put(line)
    put(b"")
