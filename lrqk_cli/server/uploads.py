"""Documents that clients have uploaded: each is read once, and kept in memory until it is deleted."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from lrqk_cli.documents import Document, read_documents
from lrqk_cli.documents.limits import ReadLimits
from lrqk_cli.errors import DocumentError, LrqkError
from lrqk_cli.system_errors import reason_of

# Documents within messages are known again by their content; so many are kept for each owner.
_INLINE = 32
# A longer name is cut from its beginning, so that its ending stays; systems allow 255 bytes.
_NAME_BYTES = 240


class NoSuchFileError(LrqkError):
    """No file of this owner has this id."""


class TooManyFilesError(LrqkError):
    """The owner has as many files as allowed."""


class NotStoredError(LrqkError):
    """The system refuses to keep an upload while it is read."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(f"The server cannot take the upload: {reason_of(reason)}.", "Try again later.")


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A document that its owner may refer to.

    Attributes:
        size: bytes of the file.
        created: seconds since the epoch.
    """

    id: str
    name: str
    size: int
    created: int
    purpose: str
    document: Document


class UploadedFiles:
    """The files of all owners; nobody sees those of another. All methods may be called from any thread.

    Args:
        limits: of reading a file.
        most: files that an owner may have.
    """

    def __init__(self, limits: ReadLimits, most: int) -> None:
        self._limits = limits
        self._most = most
        self._files: dict[str, dict[str, UploadedFile]] = {}
        self._inline: dict[str, OrderedDict[str, Document]] = {}
        self._lock = threading.Lock()

    def add(self, owner: str, name: str, content: bytes, purpose: str) -> UploadedFile:
        """Read a file; the text of a document that another upload had is shared.

        Raises:
            DocumentError: it cannot be read; the hint says why.
            NotStoredError: the system does not let it be stored meanwhile.
            TooManyFilesError: the owner has too many.
        """
        with self._lock:
            self._check_room(owner)
        document = self.inline(owner, name, content)
        file = UploadedFile(
            f"file-{secrets.token_hex(12)}", document.title, len(content), int(time.time()), purpose, document
        )
        with self._lock:
            # Others may have come while this one was read.
            self._check_room(owner)
            self._files.setdefault(owner, {})[file.id] = file
        return file

    def get(self, owner: str, id_: str) -> UploadedFile:
        """Return a file.

        Raises:
            NoSuchFileError: the owner has none with this id.
        """
        with self._lock:
            file = self._files.get(owner, {}).get(id_)
        if file is None:
            raise NoSuchFileError(f"There is no file '{id_[:80]}'.", "Upload it again, or list the files.")
        return file

    def list(self, owner: str) -> list[UploadedFile]:
        """Return an owner's files, the oldest first."""
        with self._lock:
            return [*self._files.get(owner, {}).values()]

    def remove(self, owner: str, id_: str) -> UploadedFile:
        """Forget a file.

        Raises:
            NoSuchFileError: the owner has none with this id.
        """
        file = self.get(owner, id_)
        with self._lock:
            self._files[owner].pop(id_, None)
        return file

    def inline(self, owner: str, name: str, content: bytes) -> Document:
        """Return the document of a file's content; the same one for the same name and content.

        Raises:
            DocumentError: it cannot be read.
            NotStoredError: the system does not let it be stored meanwhile.
        """
        name = _plain(name)
        key = hashlib.sha256(name.encode() + b"\0" + content).hexdigest()
        with self._lock:
            known = self._inline.setdefault(owner, OrderedDict())
            if (document := known.get(key)) is not None:
                known.move_to_end(key)
                return document
        document = self._read(name, content)
        with self._lock:
            # Another request may have read it meanwhile; conversations compare documents by identity.
            document = known.setdefault(key, document)
            while len(known) > _INLINE:
                known.popitem(last=False)
        return document

    def _check_room(self, owner: str) -> None:
        """Refuse a further file; the caller holds the lock."""
        if len(self._files.get(owner, ())) >= self._most:
            raise TooManyFilesError(
                f"There are {self._most:,} files already.", "Delete those that are not needed any more."
            )

    def _read(self, name: str, content: bytes) -> Document:
        try:
            with tempfile.TemporaryDirectory(prefix="lrqk-") as folder:
                path = Path(folder) / name
                path.write_bytes(content)
                (document,) = read_documents([path], limits=self._limits)
        except OSError as error:
            raise NotStoredError(error) from None
        return document


def _plain(name: str) -> str:
    """Return the last part of a client's name of a file, whichever system it comes from.

    Raises:
        DocumentError: nothing is left of it.
    """
    last = PureWindowsPath(PurePosixPath(name).name).name
    last = "".join(character for character in last if character.isprintable())
    last = last.encode()[-_NAME_BYTES:].decode("utf-8", "ignore").strip(". ")
    if not last:
        raise DocumentError("The file has no name.", "Send it with a name, whose ending tells its format.")
    return last
