"""From paths to documents: which reader, in which order, and what was left out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lrqk_cli.documents.document import Document
from lrqk_cli.documents.folders import walk
from lrqk_cli.documents.office import OFFICE_SUFFIXES, read_office, refuse_unsupported, sniff_office
from lrqk_cli.documents.pages import PageSelection
from lrqk_cli.documents.pdf import is_pdf, read_pdf
from lrqk_cli.documents.source import Password, ReadOptions, Source
from lrqk_cli.documents.text import SNIFFED_BYTES, is_binary, read_text
from lrqk_cli.errors import DocumentError

STDIN = Path("-")
_STDIN_TITLE = "standard input"
_NAMED = 5


@dataclass(frozen=True, slots=True)
class ReadProgress:
    """How far reading has come.

    Attributes:
        title: the file that is being read.
        file, files: its number, from 1, and how many there are.
        page, pages: pages of it that are done, and pages to read; 0 of 1 for a file without pages.
    """

    title: str
    file: int
    files: int
    page: int
    pages: int

    @property
    def fraction(self) -> float:
        """The share of all files that is done, each file counting the same."""
        return (self.file - 1 + self.page / max(1, self.pages)) / self.files


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A file to read; ``folder`` is the folder that it was found in, if it was not named itself."""

    path: Path
    title: str
    folder: Path | None = None


def read_documents(
    paths: Sequence[str | Path],
    *,
    pages: PageSelection | None = None,
    password: Password = None,
    on_progress: Callable[[ReadProgress], None] | None = None,
) -> list[Document]:
    """Read files, folders and, for ``-``, standard input, in the order given; no file twice.

    A file that cannot be read is an error if it was named. In a folder it is left out, and the first
    document of that folder warns of it.

    Args:
        pages: the pages to take of every document.
        password: for encrypted files; a function is called with the path of each encrypted file, up to
            three times, and gives up by returning None.
        on_progress: called before each page or file, and at its end.

    Raises:
        DocumentError: a file is missing, damaged, encrypted, not text or without text, a folder has
            nothing to read, or a document ends before a page that was asked for.
        UsageError: ``pages`` were asked for of a document that has none.
    """
    left_out: dict[Path, list[str]] = {}
    candidates = _candidates([Path(path) for path in paths], left_out)
    documents: list[Document] = []
    first_of: dict[Path, int] = {}
    for number, candidate in enumerate(candidates, start=1):
        report = _page_reporter(candidate, number, len(candidates), on_progress)
        report(0, 1)
        try:
            document = _read(candidate, ReadOptions(pages, password, report))
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


def _candidates(paths: Sequence[Path], left_out: dict[Path, list[str]]) -> list[_Candidate]:
    """All files to read, with titles that tell them apart; adds to ``left_out`` what folders have besides."""
    found: dict[Path, _Candidate] = {}
    for path in paths:
        if path == STDIN:
            found.setdefault(STDIN, _Candidate(STDIN, _STDIN_TITLE))
        elif _is_folder(path):
            for candidate in _in_folder(path, left_out):
                found.setdefault(candidate.path.resolve(), candidate)
        else:
            found[path.resolve()] = _Candidate(path, path.name or str(path))
    candidates = list(found.values())
    titles = [candidate.title for candidate in candidates]
    return [
        replace(item, title=item.path.as_posix()) if titles.count(item.title) > 1 else item
        for item in candidates
    ]


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # reading it gives the reason


def _in_folder(folder: Path, left_out: dict[Path, list[str]]) -> list[_Candidate]:
    name = Path(folder.resolve().name)
    files: list[Path] = []
    binary: list[Path] = []
    try:
        for path in walk(folder):
            (files if _is_worth_reading(path) else binary).append(path)
    except OSError as error:
        raise DocumentError(
            f"The folder {folder} cannot be listed: {_reason(error)}.", "Check the folder's permissions."
        ) from error
    if not files:
        raise _nothing_to_read(folder, [])
    if binary:
        what = f"{binary[0].name} is" if len(binary) == 1 else f"{len(binary):,} files are"
        left_out[folder] = [f"{what} not text, or empty."]
    return [_Candidate(path, (name / path.relative_to(folder)).as_posix(), folder) for path in files]


def _is_worth_reading(path: Path) -> bool:
    """Whether a file found in a folder is text, a PDF or an office file, by its first bytes."""
    try:
        with path.open("rb") as file:
            head = file.read(SNIFFED_BYTES)
    except OSError:
        return True  # reading it gives the reason
    if path.suffix.lower() in OFFICE_SUFFIXES or is_pdf(head):
        return True
    return bool(head.strip()) and not is_binary(head)


def _read(candidate: _Candidate, options: ReadOptions) -> Document:
    source = Source(candidate.path, candidate.title, _load(candidate))
    if is_pdf(source.data):
        return read_pdf(source, options)
    refuse_unsupported(source)
    if source.suffix in OFFICE_SUFFIXES or sniff_office(source.data):
        return read_office(source, options)
    return read_text(source, options)


def _load(candidate: _Candidate) -> bytes:
    try:
        if candidate.path == STDIN:
            return sys.stdin.buffer.read()
        return candidate.path.read_bytes()
    except FileNotFoundError as error:
        raise DocumentError(
            f"There is no file {candidate.path}.", "Check the path given with --file."
        ) from error
    except PermissionError as error:
        raise DocumentError(
            f"{candidate.title} cannot be opened: permission denied.", "Check the file's permissions."
        ) from error
    except OSError as error:
        raise DocumentError(
            f"{candidate.title} cannot be opened: {_reason(error)}.", "Check the path."
        ) from error


def _reason(error: OSError) -> str:
    return (error.strerror or "unknown reason").lower()


def _page_reporter(
    candidate: _Candidate, number: int, count: int, on_progress: Callable[[ReadProgress], None] | None
) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if on_progress is not None:
            on_progress(ReadProgress(candidate.title, number, count, done, total))

    return report


def _nothing_to_read(folder: Path, reasons: Sequence[str]) -> DocumentError:
    message = f"The folder {folder} has nothing to read."
    if reasons:
        message = f"Nothing in the folder {folder} can be read. {reasons[0]}"
    return DocumentError(message, "Hidden files and files that .gitignore ignores are left out.")


def _warned(document: Document, folder: Path, reasons: Sequence[str]) -> Document:
    more = [f"{folder}: {len(reasons) - _NAMED} more files were left out."] if len(reasons) > _NAMED else []
    left_out = [f"Left out: {reason}" for reason in reasons[:_NAMED]]
    return replace(document, warnings=(*document.warnings, *left_out, *more))
