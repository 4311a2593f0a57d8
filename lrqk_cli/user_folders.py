"""The folders in which the system keeps what belongs to a user."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from lrqk_cli.errors import UsageError

_UNKNOWN = "Set the variable HOME to a folder that you can write."


def user_folder(kind: Literal["cache", "config", "state"]) -> Path:
    """Return the platform's folder of lrqk for files of a kind, which need not exist.

    Raises:
        UsageError: the system knows no home of this user, as may be in a container.
    """
    import platformdirs

    try:
        folder = Path(getattr(platformdirs, f"user_{kind}_dir")("lrqk", appauthor=False))
    except RuntimeError as error:
        raise _homeless() from error
    if folder.parts[0] == "~":  # of older releases of platformdirs
        raise _homeless()
    return folder


def expanded(path: Path) -> Path:
    """Return a path with the folder of a user in place of ``~`` or ``~name``.

    Raises:
        UsageError: there is no such user, or no home of this one.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"There is no home folder {path.parts[0]}.", "Write the path in full.") from error


def _homeless() -> UsageError:
    return UsageError("There is no home folder to keep anything in.", _UNKNOWN)
