"""The table of sessions: their names, their times and what a list shows of them."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from lrqk_cli.chat.session_database import damaged
from lrqk_cli.chat.session_records import delete_entries, delete_unused_documents, field_of

# Seconds, some thousand years from now: no calendar has much later dates.
_LATEST = 1e11


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What a list of sessions shows.

    Attributes:
        model: the name by which the user called the model.
        created, updated: when it was begun and last changed, in seconds since the epoch.
        documents: the titles of its documents, in order.
        exchanges: how many questions it has.
    """

    name: str
    model: str
    created: float
    updated: float
    documents: tuple[str, ...]
    exchanges: int


def list_sessions(connection: sqlite3.Connection, path: Path) -> list[SessionInfo]:
    """Return all sessions of which something was recorded, the newest first.

    Raises:
        DamagedSessionsError: they cannot be read.
    """
    titles = dict[int, list[str]]()
    query = "SELECT session, entry FROM entries WHERE document IS NOT NULL ORDER BY session, number"
    for session, entry in connection.execute(query):
        titles.setdefault(session, []).append(field_of(path, entry, "title"))
    query = """SELECT id, name, head, created, updated,
            (SELECT COUNT(*) FROM entries WHERE session = sessions.id AND document IS NULL)
        FROM sessions WHERE head IS NOT NULL ORDER BY updated DESC, id DESC"""
    found = []
    for session, name, head, created, updated, exchanges in connection.execute(query):
        if not (isinstance(name, str) and is_moment(created) and is_moment(updated)):
            raise damaged(path)
        documents = tuple(titles.get(session, ()))
        found.append(SessionInfo(name, field_of(path, head, "model"), created, updated, documents, exchanges))
    return found


def is_moment(value: object) -> bool:
    """Whether a value is a time in seconds since the epoch; SQLite keeps any value in any column."""
    return isinstance(value, float) and 0 <= value < _LATEST


def current_moment() -> float:
    """Return the time to record: by a clock that is out of ``is_moment``, the nearest that is in it."""
    return min(max(time.time(), 0.0), _LATEST - 1)


def number_of(connection: sqlite3.Connection, name: str) -> int | None:
    """Return the number of a session; None if there is none of this name."""
    found = connection.execute("SELECT id FROM sessions WHERE name = ?", (name,)).fetchone()
    return found[0] if found is not None else None


def has_content(connection: sqlite3.Connection, number: int) -> bool:
    """Whether something was recorded of a session."""
    query = "SELECT 1 FROM sessions WHERE id = ? AND head IS NOT NULL"
    return connection.execute(query, (number,)).fetchone() is not None


def insert_session(connection: sqlite3.Connection, name: str) -> int:
    """Add a session, of which nothing is recorded yet, and return its number."""
    now = current_moment()
    query = "INSERT INTO sessions(name, created, updated) VALUES(?, ?, ?)"
    return connection.execute(query, (name, now, now)).lastrowid or 0


def delete_session(connection: sqlite3.Connection, number: int) -> None:
    """Delete a session, and the texts of documents that no other has."""
    delete_entries(connection, number)
    connection.execute("DELETE FROM sessions WHERE id = ?", (number,))
    delete_unused_documents(connection)
