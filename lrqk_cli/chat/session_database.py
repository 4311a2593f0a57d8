"""The SQLite database of all sessions: its place, its tables, and its failures as sentences.

Texts that must come back exactly are JSON, which also holds what SQLite's texts cannot: lone surrogates,
which stand for undecodable bytes of file names.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from lrqk_cli.chat.private_files import make_private_folder
from lrqk_cli.errors import LrqkError
from lrqk_cli.system_errors import reason_of
from lrqk_cli.user_folders import user_folder

_VERSION = 1
# Seconds to wait for a write of another process, which takes milliseconds.
_BUSY_S = 10.0
# Numbers of sessions and entries are never used again (AUTOINCREMENT): the lock file of a session has its
# number, and the index of words has those of entries.
_TABLES = """
CREATE TABLE sessions(
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    created REAL NOT NULL, updated REAL NOT NULL, head TEXT);
CREATE TABLE documents(hash TEXT PRIMARY KEY, parts TEXT NOT NULL);
CREATE TABLE entries(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session INTEGER NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
    number INTEGER NOT NULL, hash TEXT NOT NULL, entry TEXT NOT NULL,
    document TEXT REFERENCES documents(hash), is_indexed INTEGER NOT NULL DEFAULT 0,
    UNIQUE(session, number));
CREATE INDEX entries_by_document ON entries(document) WHERE document IS NOT NULL;
CREATE INDEX entries_to_index ON entries(id) WHERE is_indexed = 0;
"""
_INDEX = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS words "
    "USING fts5(title, question, answer, tokenize = 'unicode61 remove_diacritics 2')"
)


class DamagedSessionsError(LrqkError):
    """The database of sessions is damaged; ``SessionStore.recover`` begins a new one."""


def sessions_path() -> Path:
    """Return where the database of sessions is: in the platform's folder for the state of lrqk."""
    return user_folder("state") / "sessions.sqlite3"


@contextmanager
def connected(path: Path, *, writes: bool) -> Iterator[sqlite3.Connection]:
    """Give a connection in a transaction, which is committed at the end, or rolled back after an error.

    The database and its folder are made if they are not there. Its files have the mode 0600 from the first
    moment, because SQLite gives its other files the mode of the first. A commit is on the disk before this
    returns.

    Args:
        writes: whether to wait for other writers at once. Without it nothing may be written.

    Raises:
        DamagedSessionsError: it is damaged.
        LrqkError: it cannot be opened, read or written, or a newer lrqk made it.
    """
    with database_errors(path):
        _make_file(path)
        with closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as connection:
            _prepare(connection, path)
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors.
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise


def shrink(path: Path) -> None:
    """Overwrite what is left of deleted texts, and give their space back.

    Raises:
        LrqkError: see ``connected``.
    """
    with (
        database_errors(path),
        closing(sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)) as connection,
    ):
        _prepare(connection, path)
        if has_index(connection):
            connection.execute("INSERT INTO words(words) VALUES('optimize')")
        connection.execute("PRAGMA incremental_vacuum").fetchall()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def has_index(connection: sqlite3.Connection) -> bool:
    """Whether this build of SQLite has the full-text index FTS5."""
    found = connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone()
    return found is not None


def is_sound(path: Path) -> bool:
    """Whether SQLite finds no fault in the whole database, nor in the index of its words.

    Raises:
        LrqkError: it cannot be opened for another reason than damage.
    """
    try:
        with connected(path, writes=True) as connection:
            faults = connection.execute("PRAGMA integrity_check(1)").fetchall()
            if has_index(connection):
                connection.execute("INSERT INTO words(words) VALUES('integrity-check')")
            return faults == [("ok",)]
    except DamagedSessionsError:
        return False


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Turn the failures of the database and of its folder into sentences.

    Raises:
        DamagedSessionsError: SQLite finds the database damaged.
        LrqkError: any other failure.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _explained(path, error) from error
    except UnicodeDecodeError as error:
        # SQLite does not check that its texts are UTF-8.
        raise damaged(path) from error
    except OSError as error:
        raise _failed(path, reason_of(error)) from error


def damaged(path: Path) -> DamagedSessionsError:
    """Return the error of a database that is damaged."""
    return DamagedSessionsError(
        f"The sessions in {path} are damaged.", "The next chat with `session` keeps what can be read of them."
    )


def _explained(path: Path, error: sqlite3.Error) -> LrqkError:
    name = getattr(error, "sqlite_errorname", None) or ""
    # Our statements are right, so one that fails shows that the tables have changed, unless this SQLite has
    # no full-text index; texts that are no UTF-8 have no name.
    fails = name == "SQLITE_ERROR" and not str(error).startswith("no such module")
    is_changed = fails or str(error).startswith("Could not decode to UTF-8")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_CONSTRAINT")) or is_changed:
        return damaged(path)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return LrqkError(
            f"The sessions in {path} are in use by another process.", "Try it again in a moment."
        )
    if name == "SQLITE_FULL":
        return _failed(path, "the disk is full")
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN", "SQLITE_AUTH")):
        return _failed(path, "permission denied")
    return _failed(path, str(error).rstrip(".").lower())


def _failed(path: Path, reason: str) -> LrqkError:
    return LrqkError(
        f"The sessions in {path} cannot be used: {reason}.",
        "Check its permissions, and the space on its disk.",
    )


def _make_file(path: Path) -> None:
    """Make an empty file that only its owner can read, in such a folder; see to it if they are there."""
    make_private_folder(path.parent)
    if os.name == "posix" and path.parent.stat().st_mode & 0o077:
        path.parent.chmod(0o700)
    try:
        # Only a new file: to close a handle of one that is in use drops this process's locks of it (POSIX).
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            path.chmod(0o600)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Set a connection up, and make the tables that are not there."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > _VERSION:
        raise LrqkError(f"The sessions in {path} are of a newer version of lrqk.", "Update lrqk.")
    for setting in ("synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {setting}").fetchall()
    if version < _VERSION:
        # Before the first table.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    if version < _VERSION:
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have been quicker.
        if connection.execute("PRAGMA user_version").fetchone()[0] < _VERSION:
            for statement in filter(str.strip, _TABLES.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")
        connection.execute("COMMIT")
    if has_index(connection):
        connection.execute(_INDEX)
