"""A conversation as rows of the database of sessions, and back."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lrqk_cli.chat.archive import Archive, SavedDocument, SavedExchange, SavedSection, read_archive
from lrqk_cli.chat.printable import to_json
from lrqk_cli.chat.saved_settings import plain_settings
from lrqk_cli.chat.session_database import damaged, has_index
from lrqk_cli.errors import UsageError


@dataclass(frozen=True, slots=True)
class EntryRow:
    """An entry as the database keeps it.

    Attributes:
        hash: of ``entry`` and ``document``.
        entry: JSON of all its fields, without a document's parts.
        document: hash of ``parts``; None for an exchange.
        parts: JSON of a document's parts.
    """

    hash: str
    entry: str
    document: str | None = None
    parts: str = ""


def head_of(archive: Archive) -> str:
    """Return JSON of all but the entries."""
    names = "model", "system", "attention", "tokenizer", "endpoint"
    plain = {name: getattr(archive, name) for name in names}
    settings = {"generation": asdict(archive.generation), "wanted": plain_settings(archive.wanted)}
    return to_json({**plain, **settings})


def row_of(entry: SavedDocument | SavedExchange) -> EntryRow:
    """Return an entry as a row."""
    if isinstance(entry, SavedExchange):
        text = to_json(asdict(entry))
        return EntryRow(_entry_hash(text, None), text)
    parts = to_json([_part(part) for part in entry.parts])
    text, document = to_json({"title": entry.title, "path": entry.path}), _hash(parts)
    return EntryRow(_entry_hash(text, document), text, document, parts)


def _part(part: SavedSection) -> dict[str, object]:
    plain: dict[str, object] = {"text": part.text, "page": part.page}
    # Left out where it is not set, so that other documents keep their hashes.
    return {**plain, "by_ocr": True} if part.by_ocr else plain


def write_rows(connection: sqlite3.Connection, session: int, rows: list[EntryRow]) -> None:
    """Make the entries of a session equal to ``rows``; those at the front that are equal stay."""
    query = "SELECT hash FROM entries WHERE session = ? ORDER BY number"
    stored = [found for (found,) in connection.execute(query, (session,))]
    pairs = zip(stored, rows, strict=False)
    same = next((number for number, (old, new) in enumerate(pairs) if old != new.hash), None)
    if same is None:
        same = min(len(stored), len(rows))
    if same < len(stored):
        delete_entries(connection, session, same)
    for number, row in enumerate(rows[same:], start=same):
        if row.document is not None:
            connection.execute("INSERT OR IGNORE INTO documents VALUES(?, ?)", (row.document, row.parts))
        connection.execute(
            "INSERT INTO entries(session, number, hash, entry, document) VALUES(?, ?, ?, ?, ?)",
            (session, number, row.hash, row.entry, row.document),
        )
    if same < len(stored):
        delete_unused_documents(connection)


def delete_entries(connection: sqlite3.Connection, session: int, first: int = 0) -> None:
    """Delete a session's entries from number ``first`` on, with their words, but not their documents."""
    if has_index(connection):
        connection.execute(
            "DELETE FROM words WHERE rowid IN (SELECT id FROM entries WHERE session = ? AND number >= ?)",
            (session, first),
        )
    connection.execute("DELETE FROM entries WHERE session = ? AND number >= ?", (session, first))


def delete_unused_documents(connection: sqlite3.Connection) -> None:
    """Delete the texts of documents that no session has."""
    used = "SELECT document FROM entries WHERE document IS NOT NULL"
    connection.execute(f"DELETE FROM documents WHERE hash NOT IN ({used})")


def read_session(connection: sqlite3.Connection, path: Path, session: int) -> Archive | None:
    """Return what was recorded of a session; None for nothing.

    Raises:
        DamagedSessionsError: it is not what was written.
    """
    found = connection.execute("SELECT head FROM sessions WHERE id = ?", (session,)).fetchone()
    if found is None or found[0] is None:
        return None
    query = (
        "SELECT number, entries.hash, entry, document, parts FROM entries "
        "LEFT JOIN documents ON documents.hash = document WHERE session = ? ORDER BY number"
    )
    entries = list[dict[str, Any]]()
    for number, known, text, document, parts in connection.execute(query, (session,)):
        entry = fields_of(path, text)
        if document is not None:
            if parts is None or _hash(parts) != document:
                raise damaged(path)
            entry["parts"] = _json(path, parts)
        if number != len(entries) or _entry_hash(text, document) != known:
            raise damaged(path)
        entries.append(entry)
    try:
        return read_archive({**fields_of(path, found[0]), "entries": entries}, "It", "")
    except UsageError as error:
        raise damaged(path) from error


def fields_of(path: Path, text: object) -> dict[str, Any]:
    """Return the fields of a JSON object of the database.

    Raises:
        DamagedSessionsError: it is none.
    """
    plain = _json(path, text)
    if not isinstance(plain, dict):
        raise damaged(path)
    return plain


def field_of(path: Path, text: object, name: str) -> str:
    """Return a field of a JSON object of the database, which must be a text.

    Raises:
        DamagedSessionsError: there is none.
    """
    value = fields_of(path, text).get(name)
    if not isinstance(value, str):
        raise damaged(path)
    return value


def _json(path: Path, text: object) -> Any:
    try:
        return json.loads(text)  # type: ignore[arg-type]
    except (ValueError, TypeError, RecursionError) as error:
        raise damaged(path) from error


def _hash(text: object) -> str:
    return hashlib.sha256(text.encode() if isinstance(text, str) else b"").hexdigest()


def _entry_hash(text: object, document: str | None) -> str:
    return _hash(f"{document or ''}\n{text}")
