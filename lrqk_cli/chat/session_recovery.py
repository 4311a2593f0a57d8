"""What is done about a damaged database of sessions."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.session_database import DamagedSessionsError, connected, database_errors, is_sound
from lrqk_cli.chat.session_locks import let_go, recovery_lock
from lrqk_cli.chat.session_names import session_name
from lrqk_cli.chat.session_records import head_of, read_session, row_of, write_rows
from lrqk_cli.chat.session_search import index_entries
from lrqk_cli.chat.session_table import current_moment, is_moment, list_sessions
from lrqk_cli.errors import LrqkError


@dataclass(frozen=True, slots=True)
class Recovery:
    """What became of a damaged database.

    Attributes:
        moved_to: where it is now; None if it was sound and stays.
        kept: the names of the sessions that were read whole, and are in the new database.
        lost: the names of those that were not; None if not even the names can be read.
    """

    moved_to: Path | None
    kept: tuple[str, ...] = ()
    lost: tuple[str, ...] | None = ()

    @property
    def message(self) -> str:
        """What to tell the user."""
        if self.moved_to is None:
            return "The sessions are not damaged."
        if self.lost is None:
            lost = "nothing could be read of what is missing"
        else:
            lost = f"lost: {', '.join(self.lost)}" if self.lost else "none is lost"
        kept = f"kept: {', '.join(self.kept)}; " if self.kept else ""
        return f"The sessions were damaged, and are now in {self.moved_to}; {kept}{lost}."


@dataclass(frozen=True, slots=True)
class _WholeSession:
    name: str
    created: float
    updated: float
    archive: Archive


def recover(path: Path) -> Recovery:
    """Move a damaged database aside, and begin a new one; see ``SessionStore.recover``.

    Raises:
        LrqkError: another process has a session open, or the file cannot be moved.
    """
    lock = recovery_lock(path)
    try:
        # A text may have changed where SQLite sees no fault.
        if is_sound(path) and _can_be_listed(path) and _read_what_is_whole(path)[1] == ():
            return Recovery(None)
        aside = _move_aside(path)
        found, lost = _read_what_is_whole(aside)
        with connected(path, writes=True) as connection:
            for session in found:
                written = connection.execute(
                    "INSERT INTO sessions(name, created, updated, head) VALUES(?, ?, ?, ?)",
                    (session.name, session.created, session.updated, head_of(session.archive)),
                )
                rows = [row_of(entry) for entry in session.archive.entries]
                write_rows(connection, written.lastrowid or 0, rows)
            index_entries(connection, path)
        return Recovery(aside, tuple(session.name for session in found), lost)
    finally:
        let_go(lock)


def _move_aside(path: Path) -> Path:
    moment = time.strftime("%Y-%m-%d-%H%M%S")
    names = (f"{path.name}.damaged-{moment}" + f"-{number}" * (number > 1) for number in count(1))
    aside = next(found for name in names if not (found := path.with_name(name)).exists())
    with database_errors(path):
        # The log first: beside a new database it would be taken for that one's.
        for ending in ("-wal", "-shm", ""):
            with suppress(FileNotFoundError):
                path.with_name(path.name + ending).rename(aside.with_name(aside.name + ending))
    return aside


def _read_what_is_whole(path: Path) -> tuple[list[_WholeSession], tuple[str, ...] | None]:
    """Return the sessions that can be read whole, and the names of the others, None if these are unknown."""
    found, lost = dict[str, _WholeSession](), list[str]()
    try:
        with connected(path, writes=False) as connection:
            query = "SELECT id, name, created, updated FROM sessions WHERE head IS NOT NULL ORDER BY updated"
            for number, name, created, updated in connection.execute(query).fetchall():
                archive = None
                with suppress(DamagedSessionsError), database_errors(path):
                    archive = read_session(connection, path, number)
                if archive is not None and _is_plain(name) and name not in found:
                    # What was said is worth more than when: a time that is none becomes this moment.
                    now = current_moment()
                    began, changed = (each if is_moment(each) else now for each in (created, updated))
                    found[name] = _WholeSession(name, began, changed, archive)
                else:
                    lost.append(str(name))
    except LrqkError:
        return list(found.values()), None
    return list(found.values()), tuple(lost)


def _is_plain(name: object) -> bool:
    """Whether this is a name that can be given."""
    with suppress(LrqkError):
        return isinstance(name, str) and session_name(name) == name
    return False


def _can_be_listed(path: Path) -> bool:
    try:
        with connected(path, writes=False) as connection:
            list_sessions(connection, path)
    except DamagedSessionsError:
        return False
    return True
