"""Sessions: conversations that are on the disk turn by turn, and go on where they stopped."""

from __future__ import annotations

import builtins
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lrqk_cli.chat.archive import Archive
from lrqk_cli.chat.session_database import connected, database_errors, sessions_path, shrink
from lrqk_cli.chat.session_locks import forget_lock, held, let_go
from lrqk_cli.chat.session_names import new_name, session_name
from lrqk_cli.chat.session_records import head_of, read_session, row_of, write_rows
from lrqk_cli.chat.session_recovery import Recovery, recover
from lrqk_cli.chat.session_search import SearchHit, index_entries, search_entries
from lrqk_cli.chat.session_table import (
    SessionInfo,
    current_moment,
    delete_session,
    has_content,
    insert_session,
    list_sessions,
    number_of,
)
from lrqk_cli.errors import LrqkError, UsageError, did_you_mean

if TYPE_CHECKING:
    from filelock import BaseFileLock


class SessionStore:
    """All sessions of a user, in one SQLite database.

    Each method opens the database and closes it again, and sees or makes a change as a whole. Any method may
    raise an ``LrqkError``: ``DamagedSessionsError`` if the database is damaged, see ``recover``, otherwise
    for a disk that is full, a folder that cannot be used, or a newer version's database.

    Args:
        path: the database; None for ``sessions_path()``. It is made when the first session is begun.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or sessions_path()

    def list(self) -> builtins.list[SessionInfo]:
        """Return all sessions of which something was recorded, the newest first."""
        with self._reading() as connection:
            return list_sessions(connection, self.path) if connection is not None else []

    def newest(self) -> SessionInfo | None:
        """Return the session that was changed last; None without sessions."""
        return next(iter(self.list()), None)

    def find(self, name: str) -> SessionInfo:
        """Return what the list says of a session.

        Raises:
            UsageError: there is no such session.
        """
        name, known = session_name(name), self.list()
        for info in known:
            if info.name == name:
                return info
        raise _missing(name, [info.name for info in known])

    def archive(self, name: str) -> Archive:
        """Return what was recorded of a session, also while it is open elsewhere.

        Raises:
            UsageError: there is no such session.
        """
        info = self.find(name)
        with self._reading() as connection:
            number = number_of(connection, info.name) if connection is not None else None
            archive = read_session(connection, self.path, number) if connection and number else None
        if archive is None:
            raise _missing(info.name, [])
        return archive

    def search(self, words: Sequence[str], limit: int = 20) -> builtins.list[SearchHit]:
        """Return exchanges and titles of documents in which all words stand, the best first.

        Questions, answers and titles are searched, but not the texts of documents, whose index would be as
        large as they are. Case and accents do not count. If nothing has the words as whole words, or if this
        SQLite has no full-text index, parts of words count, and the newest comes first.

        Args:
            words: nothing in them is an operator; one with blanks is a phrase.
            limit: most hits.

        Raises:
            UsageError: there is no word, or there are too many.
        """
        with self._reading() as connection:
            return search_entries(connection, self.path, words, limit) if connection is not None else []

    def open(self, name: str | None = None, *, fresh: bool = False, title: str | None = None) -> Journal:
        """Continue a session, or begin a new one, and hold it until the journal is closed.

        Args:
            name: None begins a session whose name is the date, the time and ``title``.
            fresh: begin a new one only.
            title: of the first document.

        Raises:
            UsageError: the name is none, or with ``fresh`` there is such a session.
            LrqkError: another process has it open.
        """
        wanted = session_name(name) if name is not None else None
        with connected(self.path, writes=True) as connection:
            number = number_of(connection, wanted) if wanted is not None else None
            if wanted is not None and number is not None and fresh and has_content(connection, number):
                raise UsageError(
                    f"There is a session '{wanted}' already.",
                    f"To replace it, type /save! {wanted}; to go on with it, /load {wanted}",
                )
            if number is None:
                taken = {found for (found,) in connection.execute("SELECT name FROM sessions")}
                wanted = wanted or new_name(title, taken)
                number = insert_session(connection, wanted)
        assert wanted is not None
        lock = held(self.path, number, wanted)
        try:
            with connected(self.path, writes=False) as connection:
                # It may have been renamed or removed before it was locked.
                if number_of(connection, wanted) != number:
                    raise _missing(wanted, [])
        except BaseException:
            let_go(lock)
            raise
        return Journal(self.path, wanted, number, lock)

    def rename(self, old: str, new: str) -> None:
        """Give a session another name.

        Raises:
            UsageError: there is no such session, or the new name is taken or none.
            LrqkError: a process has it open.
        """
        old, new = self.find(old).name, session_name(new)
        with self._changing(old) as (connection, number):
            if new != old:
                _free_name(connection, self.path, new)
            connection.execute("UPDATE sessions SET name = ? WHERE id = ?", (new, number))

    def remove(self, name: str) -> None:
        """Delete a session, and the texts of documents that no other has, so that nothing of it is left.

        Raises:
            UsageError: there is no such session.
            LrqkError: a process has it open.
        """
        name = self.find(name).name
        with self._changing(name) as (connection, number):
            delete_session(connection, number)
        forget_lock(self.path, number)
        shrink(self.path)

    def recover(self) -> Recovery:
        """Move a damaged database aside, begin a new one, and take into it all that can be read.

        Does nothing if the database is sound.

        Raises:
            LrqkError: another process has a session open, or the file cannot be moved.
        """
        return recover(self.path)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Give a connection to read; None if there is no database, which is not made."""
        with database_errors(self.path):
            is_there = self.path.exists()
        if not is_there:
            yield None
            return
        with connected(self.path, writes=False) as connection:
            yield connection

    @contextmanager
    def _changing(self, name: str) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Hold a session, and give a connection to change it and its number."""
        with connected(self.path, writes=False) as connection:
            number = number_of(connection, name)
        if number is None:
            raise _missing(name, [])
        lock = held(self.path, number, name)
        try:
            with connected(self.path, writes=True) as connection:
                if number_of(connection, name) != number:
                    raise _missing(name, [])
                yield connection, number
        finally:
            let_go(lock)


class Journal:
    """A session that this process holds; ``SessionStore.open`` returns it.

    The operating system lets go of it when the process dies. It may be used from any thread, one at a time.

    Attributes:
        name: of the session.
    """

    def __init__(self, path: Path, name: str, number: int, lock: BaseFileLock) -> None:
        self.name = name
        self._path = path
        self._number = number
        self._lock = lock
        self._recorded: tuple[str, list[str]] | None = None

    def archive(self) -> Archive | None:
        """Return what was recorded, to go on from; None if nothing was.

        Raises:
            LrqkError: it cannot be read; ``DamagedSessionsError`` if it is not what was written.
        """
        with connected(self._path, writes=False) as connection:
            return read_session(connection, self._path, self._number)

    def record(self, archive: Archive) -> None:
        """Make the database equal to a conversation, as a whole or not at all.

        What is the same up to the first change stays. After this returns it survives a crash, of the machine
        too. If nothing has changed since the last call, the disk is not touched.

        Raises:
            LrqkError: it cannot be written, or the session is gone. What was recorded before is unchanged.
        """
        self._check_open()
        head, rows = head_of(archive), [row_of(entry) for entry in archive.entries]
        state = head, [row.hash for row in rows]
        if state == self._recorded:
            return
        self._recorded = None
        with connected(self._path, writes=True) as connection:
            written = connection.execute(
                "UPDATE sessions SET head = ?, updated = ? WHERE id = ? AND name = ?",
                (head, current_moment(), self._number, self.name),
            )
            if not written.rowcount:
                raise LrqkError(
                    f"The session '{self.name}' is no longer in {self._path}.", "Use /save to keep the chat."
                )
            write_rows(connection, self._number, rows)
            index_entries(connection, self._path)
        self._recorded = state

    def close(self) -> None:
        """Let go of the session; one of which nothing was recorded is deleted. May be called again.

        Raises:
            LrqkError: the database cannot be written; the session is let go of all the same.
        """
        if not self._lock.is_locked:
            return
        try:
            if self._recorded is None:
                with connected(self._path, writes=True) as connection:
                    if not has_content(connection, self._number):
                        delete_session(connection, self._number)
        finally:
            let_go(self._lock)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if not self._lock.is_locked:
            raise LrqkError(f"The session '{self.name}' is closed.", "Open it again.")


def _free_name(connection: sqlite3.Connection, path: Path, name: str) -> None:
    """Refuse a name that is taken; delete what a process left of it that died before it recorded anything."""
    if (number := number_of(connection, name)) is None:
        return
    if has_content(connection, number):
        raise UsageError(f"There is a session '{name}' already.", "Choose another name.")
    lock = held(path, number, name)
    try:
        delete_session(connection, number)
    finally:
        let_go(lock)
    forget_lock(path, number)


def _missing(name: str, known: Sequence[str]) -> UsageError:
    return UsageError(
        f"There is no session '{name}'.",
        did_you_mean(name, known, "See what there is with: lrqk sessions list", is_long=True),
    )
