"""Readers of documents: the functions of the reader process in this process, and some cases through it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from random import Random

from fuzz import office_files, pdf_files
from fuzz.mutations import mutated
from lrqk_cli.documents import ocr, read_documents
from lrqk_cli.documents.drawing import WEB_CANVAS, PageDrawer
from lrqk_cli.documents.formats import read_source
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError

Mutate = Callable[[bytes, Random, Sequence[bytes]], bytes]

# To start a process takes longer than to read a small file, so this share of the cases goes through one.
_THROUGH_PROCESS = 50
_LIMITS = ReadLimits(timeout=8.0, memory=512 << 20)
_IN_PROCESS_S = 8.0


class _OverLimitError(BaseException):
    """Reading takes longer than a limit. Not an ``Exception``, which libraries catch."""


class Documents:
    """Files of some formats, as they are read for a question.

    A file that takes more time or memory than the limits is read once more by the reader process, which must
    refuse it with a sentence.
    """

    def __init__(self, found: dict[str, bytes], mutate: Mutate) -> None:
        self._found, self._mutate = found, mutate

    def prepare(self, folder: Path) -> None:
        self._folder = folder
        # A page without text would take seconds; the cases that go through the process have OCR.
        ocr.is_installed = lambda: False

    def run(self, number: int, rng: Random) -> str:
        name = rng.choice([*self._found])
        data = self._mutate(self._found[name], rng, [*self._found.values()])
        path = self._folder / f"case{Path(name).suffix}"
        path.write_bytes(data)
        try:
            if number % _THROUGH_PROCESS:
                return self._read(path, data)
            read_documents([path], limits=_LIMITS)
        except DocumentError as error:
            assert error.message
            assert error.hint
            return "refused"
        return "read"

    def _read(self, path: Path, data: bytes) -> str:
        try:
            with_limit(
                _IN_PROCESS_S,
                lambda: read_source(SourceFile(path, path.name, data), ReadOptions(password="x")),
            )
        except (MemoryError, _OverLimitError):
            try:
                read_documents([path], password="x", limits=_LIMITS)
            except DocumentError as error:
                # A busy machine may have stopped the first reading too early.
                return "over a limit" if "`read_" in error.message else "refused"
        return "read"


class Drawings:
    """Pages of PDF files as pictures, as for /export and /open."""

    def prepare(self, folder: Path) -> None:
        self._found = pdf_files.seeds()

    def run(self, number: int, rng: Random) -> str:
        name = rng.choice([*self._found])
        data = pdf_files.mutated_pdf(self._found[name], rng, [*self._found.values()])
        try:
            with closing(PageDrawer(SourceFile(Path(name), name, data))) as drawer:
                drawer.draw(rng.choice((1, 1, 2, 9)), ["Page 1", "the"], WEB_CANVAS)
        except DocumentError as error:
            assert error.hint
            return "refused"
        return "drawn"


def with_limit(seconds: float, do: Callable[[], object]) -> None:
    """Call a function; the time that it takes counts among that of its case.

    Raises:
        _OverLimitError: it took longer.
    """

    def stop(*_: object) -> None:
        raise _OverLimitError

    left, began = signal.getitimer(signal.ITIMER_REAL)[0], signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        do()
    finally:
        signal.signal(signal.SIGALRM, began)
        signal.setitimer(signal.ITIMER_REAL, left)


def pdf() -> Documents:
    """Return the reader of PDF files."""
    return Documents(pdf_files.seeds(), pdf_files.mutated_pdf)


def office() -> Documents:
    """Return the readers of office files and HTML."""
    found = {f"some{suffix}": make() for suffix, make in office_files.MAKERS.items()}
    return Documents(found, office_files.mutated_office)


def text() -> Documents:
    """Return the reader of text, with texts in several encodings."""
    plain = "# Größe und Höhe\n\n```python\nx = 1\n```\n| a | b |\n|---|---|\n| 日本語 | Привет |\n" * 20
    names = ("utf-8", "utf-16", "utf-32", "cp1252", "shift_jis", "koi8_r", "gb18030")
    return Documents({f"{name}.txt": plain.encode(name, "ignore") for name in names}, mutated)
