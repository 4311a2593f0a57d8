"""Reads what the user named into documents, in order, and warns of files left out."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from lrqk_cli.documents.document import Document
from lrqk_cli.documents.files import missing
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.documents.locations import STDIN, DocumentUrl, Location, locate
from lrqk_cli.documents.normalise import shown_name
from lrqk_cli.documents.pages import PageSelection
from lrqk_cli.documents.reader_process import ReaderProcess, too_large
from lrqk_cli.documents.source import Password, ReadOptions, SourceFile
from lrqk_cli.errors import DocumentError

_STDIN_TITLE = "standard input"
_NAMED = 5
_CHUNK = 1 << 20

ReadStage = Literal["fetch", "read", "recognise"]


@dataclass(frozen=True, slots=True)
class ReadProgress:
    """How far reading has come.

    Attributes:
        title: name of the current file.
        file, files: its number, from 1, and the number of files.
        done, total: its pages done and its pages to read; 0 of 1 for a file without pages. While it is
            fetched, bytes; a total of 0 is not known.
        stage: whether it is fetched, its pages are read, or some are read by OCR, one after the other.
    """

    title: str
    file: int
    files: int
    done: int
    total: int
    stage: ReadStage = "read"

    @property
    def fraction(self) -> float:
        """The share of all files that is done; each file has the same weight."""
        share = min(1.0, self.done / self.total) if self.total else 0.0
        return (self.file - 1 + share) / self.files


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file to read; ``folder`` is the named folder that contains it, None if the file itself was named."""

    path: Location
    title: str
    folder: Path | None = None


class _Report(Protocol):
    def __call__(self, done: int, total: int, stage: ReadStage = "read") -> None: ...


def read_documents(
    paths: Sequence[str | Location],
    *,
    pages: PageSelection | None = None,
    password: Password = None,
    limits: ReadLimits | None = None,
    on_progress: Callable[[ReadProgress], None] | None = None,
) -> list[Document]:
    """Read files, folders, URLs and, for ``-``, standard input, in the order given; no file twice.

    A separate process does all parsing, and ends before this returns or raises. A URL is a ``str`` or a
    ``DocumentUrl``; a ``Path`` is never fetched.

    An unreadable file is an error if it was named. In a folder it is left out, and the first document of the
    folder has a warning.

    Args:
        pages: the pages to read of every document.
        password: for encrypted files; a function is called with the path of each encrypted file, up to
            three times, and gives up by returning None.
        limits: time and memory for a file or a folder, and size of what is fetched; ``ReadLimits()`` if None.
        on_progress: called before each page or file, and at its end.

    Raises:
        DocumentError: a URL cannot be fetched, a file is missing, damaged, encrypted, not text or without
            text, a folder has nothing to read, a document ends before a selected page, or a limit is hit.
        UsageError: ``pages`` is set and does not wait, and a document has no pages.
    """
    limits = limits or ReadLimits()
    left_out: dict[Path, list[str]] = {}
    documents: list[Document] = []
    first_of: dict[Path, int] = {}
    with ReaderProcess(limits) as process:
        candidates = _candidates(process, [locate(path) for path in paths], left_out)
        for number, candidate in enumerate(candidates, start=1):
            report = _page_reporter(candidate, number, len(candidates), on_progress)
            report(0, 1)
            try:
                source = _source(candidate, limits, report)
                on_scan = partial(report, stage="recognise")
                document = process.read(source, ReadOptions(pages, password, report, on_scan))
            except DocumentError as error:
                if candidate.folder is None:
                    raise
                left_out.setdefault(candidate.folder, []).append(error.message)
            else:
                if candidate.folder is not None:
                    first_of.setdefault(candidate.folder, len(documents))
                documents.append(document)
            report(1, 1)
    for folder in dict.fromkeys(item.folder for item in candidates if item.folder is not None):
        reasons = left_out.get(folder, [])
        if folder not in first_of:
            raise _nothing_to_read(folder, reasons)
        if reasons:
            index = first_of[folder]
            documents[index] = _warned(documents[index], folder, reasons)
    return documents


def _candidates(
    process: ReaderProcess, paths: Sequence[Location], left_out: dict[Path, list[str]]
) -> list[_Candidate]:
    """All files to read, with distinct titles; adds unreadable files of folders to ``left_out``."""
    found: dict[str, _Candidate] = {}
    for path in paths:
        if isinstance(path, DocumentUrl):
            found.setdefault(str(path), _Candidate(path, shown_name(path.name)))
        elif path == STDIN:
            found.setdefault(str(STDIN), _Candidate(STDIN, _STDIN_TITLE))
        elif "\0" in str(path):  # no file can be called so
            raise missing(path)
        elif os.path.isdir(path):  # noqa: PTH112 - a Path raises where a name is too long
            for candidate in _in_folder(process, path, left_out):
                found.setdefault(os.path.realpath(str(candidate.path)), candidate)
        else:
            found[os.path.realpath(path)] = _Candidate(path, shown_name(path.name or path))
    candidates = list(found.values())
    uses = Counter(candidate.title for candidate in candidates)
    return [
        replace(item, title=_full_name(item.path)) if uses[item.title] > 1 else item for item in candidates
    ]


def _full_name(path: Location) -> str:
    return shown_name(path.as_posix() if isinstance(path, Path) else str(path))


def _in_folder(process: ReaderProcess, folder: Path, left_out: dict[Path, list[str]]) -> list[_Candidate]:
    listing = process.list_folder(folder)
    if not listing.files:
        raise _nothing_to_read(folder, listing.left_out)
    if listing.left_out:
        left_out[folder] = list(listing.left_out)
    return [_Candidate(path, title, folder) for path, title in listing.files]


def _source(candidate: _Candidate, limits: ReadLimits, report: _Report) -> SourceFile:
    """Return what the reader process reads; it opens files by itself."""
    path, title = candidate.path, candidate.title
    if isinstance(path, DocumentUrl):
        from lrqk_cli.documents.fetching import fetch

        fetched = fetch(path, limits, partial(report, stage="fetch"))
        return SourceFile(path, title, fetched.data, fetched.suffix, fetched.charset)
    return SourceFile(path, title, _read_stdin(limits) if path == STDIN else b"")


def _read_stdin(limits: ReadLimits) -> bytes:
    data = bytearray()
    while chunk := sys.stdin.buffer.read(_CHUNK):
        data += chunk
        if len(data) > limits.memory:
            raise too_large(_STDIN_TITLE, limits)
    return bytes(data)


def _page_reporter(
    candidate: _Candidate, number: int, count: int, on_progress: Callable[[ReadProgress], None] | None
) -> _Report:
    def report(done: int, total: int, stage: ReadStage = "read") -> None:
        if on_progress is not None:
            on_progress(ReadProgress(candidate.title, number, count, done, total, stage))

    return report


def _nothing_to_read(folder: Path, reasons: Sequence[str]) -> DocumentError:
    message = f"The folder {shown_name(folder)} has nothing to read."
    if reasons:
        message = f"Nothing in the folder {shown_name(folder)} can be read. {reasons[0]}"
    return DocumentError(message, "Hidden files and files that .gitignore ignores are left out.")


def _warned(document: Document, folder: Path, reasons: Sequence[str]) -> Document:
    left_out = [f"Left out: {reason}" for reason in reasons[:_NAMED]]
    if len(reasons) > _NAMED:
        left_out.append(f"{shown_name(folder)}: {len(reasons) - _NAMED} more files were left out.")
    return replace(document, warnings=(*document.warnings, *left_out))
