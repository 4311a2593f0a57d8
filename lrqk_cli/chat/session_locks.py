"""A session is held by one process at a time, by the lock of a file, which the system drops if it dies."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lrqk_cli.chat.private_files import make_private_folder
from lrqk_cli.chat.session_database import database_errors
from lrqk_cli.errors import LrqkError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_RECOVERY = "recovery.lock"


def held(path: Path, number: int, name: str) -> BaseFileLock:
    """Return the acquired lock of a session.

    Args:
        path: the database.
        number, name: of the session.

    Raises:
        LrqkError: another process, or another journal of this one, holds it; or there can be no lock.
    """
    if (lock := _acquired(path, _file(path, number))) is None:
        raise LrqkError(
            f"The session '{name}' is open in another process.", "Close it there, or choose another name."
        )
    return lock


def forget_lock(path: Path, number: int) -> None:
    """Delete the lock file of a session that was removed; another process may hold it for a moment."""
    with suppress(OSError):
        _file(path, number).unlink()


def let_go(lock: BaseFileLock) -> None:
    """Release a lock; a failure changes nothing, since the end of the process releases it too."""
    with suppress(OSError):
        lock.release()


def recovery_lock(path: Path) -> BaseFileLock:
    """Return the acquired lock under which a damaged database is moved away.

    Raises:
        LrqkError: another process does that now, or has a session open.
    """
    busy = LrqkError(
        f"The sessions in {path} are damaged, and open in another process.", "Close it there first."
    )
    if (lock := _acquired(path, _folder(path) / _RECOVERY)) is None:
        raise busy
    for file in _folder(path).glob("*.lock"):
        if file.name != _RECOVERY:
            if (other := _acquired(path, file)) is None:
                let_go(lock)
                raise busy
            let_go(other)
    return lock


def _acquired(path: Path, file: Path) -> BaseFileLock | None:
    """Return an acquired lock; None if it is held."""
    from filelock import FileLock, Timeout

    with database_errors(path):
        make_private_folder(file.parent)
        # Not bound to a thread: a journal may be closed by another than opened it.
        lock = FileLock(file, mode=0o600, thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except NotImplementedError as error:
            raise LrqkError(
                f"The disk of {file.parent} has no locks, which sessions need.", "Use another disk."
            ) from error
        return lock


def _folder(path: Path) -> Path:
    return path.with_name(f"{path.stem}.locks")


def _file(path: Path, number: int) -> Path:
    return _folder(path) / f"{number}.lock"
