"""Opens regular files, and makes the errors of files that cannot be opened."""

from __future__ import annotations

import errno
import re
import shlex
import stat
from pathlib import Path
from typing import BinaryIO

from lrqk_cli.documents.normalise import shown_name
from lrqk_cli.errors import DocumentError
from lrqk_cli.system_errors import reason_of

# ``Path`` merges the two slashes of a URL into one. What stands before @ is a user, perhaps with a password.
_URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/+(?:[^/?#]*@)?(?P<rest>.*)", re.IGNORECASE | re.DOTALL)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file; refuse others, because a FIFO may block for ever and a device may have no end.

    Raises:
        OSError: the file is not regular (``EINVAL``), or it cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    return path.open("rb")


def load(path: Path, title: str) -> bytes:
    """The bytes of a file that the user named.

    Raises:
        DocumentError: the file is missing, not regular or a URL, or it cannot be opened.
    """
    try:
        with open_regular(path) as file:
            return file.read()
    except FileNotFoundError as error:
        raise missing(path) from error
    except PermissionError as error:
        raise DocumentError(
            f"{title} cannot be opened: permission denied.", "Check the file's permissions."
        ) from error
    except OSError as error:
        hint = "Check the path."
        if error.errno == errno.EINVAL:
            hint = "Give a file, or pipe the text in and give - for standard input."
        raise DocumentError(f"{title} cannot be opened: {reason_of(error)}.", hint) from error


def missing(path: Path) -> DocumentError:
    """The error of a missing file; for a URL that is not fetched it says what to do."""
    name = shown_name(path)
    match = _URL.match(path.as_posix())
    if match is None:
        return DocumentError(
            f"There is no file {name}.", "Check the path. A question is given with `prompt`."
        )
    scheme, rest = match["scheme"].lower(), shown_name(match["rest"])
    if scheme == "file":
        return DocumentError(f"file:///{rest} is a URL, not a path.", f"Give the path: /{rest}")
    url = f"{scheme}://{rest}"
    why = "only files are read here" if scheme in ("http", "https") else "lrqk fetches http and https only"
    return DocumentError(
        f"{url} is a URL, and {why}.",
        f"Download it first, for example with curl -LO {shlex.quote(url)}, then give the file.",
    )
