"""Where documents are: files and folders, standard input, and web servers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from lrqk_cli.documents.files import missing
from lrqk_cli.documents.normalise import shown_name
from lrqk_cli.errors import DocumentError

STDIN = Path("-")
# A scheme of one letter is a drive of Windows.
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://", re.IGNORECASE)
# What separates paths in a variable stands in URLs too.
_ENTRIES = {
    ":": re.compile(r"(?:https?://[^/?#]*)?[^:]+", re.IGNORECASE),
    ";": re.compile("[^;]+"),
}


@dataclass(frozen=True, slots=True)
class DocumentUrl:
    """A document on a web server, which is fetched when it is read.

    Its ``str`` is the address without the user, the password and the fragment.

    Attributes:
        address: as the user wrote it.
    """

    address: str

    def __str__(self) -> str:
        parts = urlsplit(self.address)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path or "/", parts.query, ""))

    @property
    def shown(self) -> str:
        """The address in messages: without what may be secret, so without the query too."""
        return shown_name(str(self).partition("?")[0])

    @property
    def name(self) -> str:
        """The last part of the path; without a path the host."""
        parts = urlsplit(self.address)
        return unquote(PurePosixPath(parts.path).name) or parts.hostname or ""

    @property
    def suffix(self) -> str:
        """The suffix of the path's last part, with its dot."""
        return PurePosixPath(unquote(urlsplit(self.address).path)).suffix


Location = Path | DocumentUrl


def locate(word: str | Location) -> Location:
    """Return where a document is; only a ``str`` is taken for a URL.

    Raises:
        DocumentError: it is a URL of another scheme than http and https, or none that can be.
    """
    if not isinstance(word, str):
        return word
    scheme = _URL.match(word)
    if scheme is None:
        return Path(word)
    if scheme["scheme"].lower() not in ("http", "https"):
        raise missing(Path(word))
    try:
        parts = urlsplit(word)
        is_address = bool(parts.hostname) and parts.port != 0
    except ValueError:  # brackets without an address in them, or a port beyond 65535
        is_address = False
    if not is_address:
        raise DocumentError(
            f"{shown_name(scheme.group())} is followed by no address.",
            "Write it as https://example.org/report.pdf.",
        )
    return DocumentUrl(word)


def split_variable(value: str, separator: str) -> Sequence[str]:
    """Split what a variable names into paths and URLs.

    Args:
        separator: of the system's paths, ``:`` or ``;``.
    """
    return _ENTRIES[separator].findall(value)
