"""Chooses the reader of a file, and lists folders. Runs in the reader process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lrqk_cli.documents.document import Document
from lrqk_cli.documents.files import open_regular
from lrqk_cli.documents.folders import Walk
from lrqk_cli.documents.normalise import shown_name
from lrqk_cli.documents.office import OFFICE_SUFFIXES, read_office, refuse_unsupported, sniff_office
from lrqk_cli.documents.pdf import is_pdf, read_pdf
from lrqk_cli.documents.source import ReadOptions, SourceFile
from lrqk_cli.documents.text import SNIFFED_BYTES, is_binary, read_text
from lrqk_cli.errors import DocumentError
from lrqk_cli.system_errors import reason_of


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a folder.

    Attributes:
        files: the files to read, and their names in prompts and messages.
        left_out: one plain sentence for each file that cannot be read.
    """

    files: Sequence[tuple[Path, str]]
    left_out: Sequence[str]


def read_source(source: SourceFile, options: ReadOptions) -> Document:
    """Read a file with the reader for its bytes or, failing that, for its suffix.

    Raises:
        DocumentError: the file cannot be read.
        UsageError: ``options`` select pages of a document without pages.
    """
    if is_pdf(source.data):
        return read_pdf(source, options)
    refuse_unsupported(source)
    if source.suffix in OFFICE_SUFFIXES or sniff_office(source.data):
        return read_office(source, options)
    return read_text(source, options)


def list_folder(folder: Path) -> Listing:
    """The text, PDF and office files of a folder; see ``Walk``.

    Raises:
        DocumentError: the folder cannot be listed.
    """
    walk = Walk(folder)
    files: list[tuple[Path, str]] = []
    binary: list[Path] = []
    try:
        for path in walk:
            if _is_worth_reading(path):
                files.append((path, walk.title(path)))
            else:
                binary.append(path)
    except OSError as error:
        raise DocumentError(
            f"The folder {shown_name(folder)} cannot be listed: {reason_of(error)}.",
            "Check the folder's permissions.",
        ) from error
    if binary:
        what = f"{shown_name(binary[0].name)} is" if len(binary) == 1 else f"{len(binary):,} files are"
        walk.left_out.insert(0, f"{what} not text, or empty.")
    return Listing(files, walk.left_out)


def _is_worth_reading(path: Path) -> bool:
    """Whether a file found in a folder is text, a PDF or an office file, by its first bytes.

    Files of /proc, which a link may reach, report a size of 0; some of them have no end.
    """
    try:
        if path.stat().st_size == 0:
            return False
        with open_regular(path) as file:
            head = file.read(SNIFFED_BYTES)
    except OSError:
        return True  # reading the file will give the reason
    if path.suffix.lower() in OFFICE_SUFFIXES or is_pdf(head):
        return True
    return bool(head.strip()) and not is_binary(head)
