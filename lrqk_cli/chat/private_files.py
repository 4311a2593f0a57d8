"""Files that only their owner can read, written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lrqk_cli.errors import UsageError
from lrqk_cli.system_errors import reason_of


def write_private(path: Path, text: str) -> None:
    """Write a file, whole or not at all, with mode 0600.

    The text goes into a file with a random name in the same folder, which is then renamed to ``path``. The
    rename replaces a link at ``path`` and does not follow it.

    Args:
        path: the file to write; its folder must exist.
        text: without lone surrogates.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=".lrqk-", suffix=".part", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _not_written(path, error) from error


def make_private_folder(folder: Path) -> None:
    """Make a folder that only its owner can read, unless it exists.

    Raises:
        UsageError: the folder cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _not_written(folder, error) from error


def _not_written(path: Path, error: OSError) -> UsageError:
    if isinstance(error, FileNotFoundError) and not path.parent.is_dir():
        return UsageError(
            f"{path} cannot be written: there is no folder {path.parent}.",
            "Make it first, or choose another.",
        )
    return UsageError(f"{path} cannot be written: {reason_of(error)}.", "Choose another place.")
