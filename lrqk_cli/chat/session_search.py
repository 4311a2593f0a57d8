"""Search in the questions, answers and titles of all sessions."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lrqk_cli.chat.session_database import damaged, has_index
from lrqk_cli.chat.session_records import fields_of
from lrqk_cli.errors import UsageError

# Words of a snippet from the index, and characters before and after the first hit otherwise.
_SNIPPET_WORDS, _BEFORE, _AFTER = 24, 50, 110
_MOST_WORDS = 50
_COLUMNS = """
    SELECT sessions.name, entry, document IS NULL,
        (SELECT COUNT(*) FROM entries AS earlier WHERE earlier.session = entries.session
            AND earlier.number <= entries.number AND earlier.document IS NULL)
"""


@dataclass(frozen=True, slots=True)
class SnippetPiece:
    """A piece of a snippet's text, which is one of the words or stands between them."""

    text: str
    is_hit: bool


@dataclass(frozen=True, slots=True)
class SearchHit:
    """An exchange, or a document's title, in which all words stand.

    Attributes:
        session: the name of the session.
        exchange: the number of the exchange in it, from 1 on; None for a title.
        question: of the exchange, or the title.
        snippet: text around the words, in order, of the answer if one is in it, else of the question or
            the title; what was left out is ``…``.
    """

    session: str
    exchange: int | None
    question: str
    snippet: tuple[SnippetPiece, ...]


def index_entries(connection: sqlite3.Connection, path: Path) -> None:
    """Add the words of entries to the index that it does not have yet; without an index do nothing."""
    if not has_index(connection):
        return
    found = connection.execute("SELECT id, entry FROM entries WHERE is_indexed = 0").fetchall()
    for number, text in found:
        title, question, answer = map(_clean, _texts(path, text))
        connection.execute("DELETE FROM words WHERE rowid = ?", (number,))
        connection.execute(
            "INSERT INTO words(rowid, title, question, answer) VALUES(?, ?, ?, ?)",
            (number, title, question, answer),
        )
        connection.execute("UPDATE entries SET is_indexed = 1 WHERE id = ?", (number,))


def search_entries(
    connection: sqlite3.Connection, path: Path, words: Sequence[str], limit: int
) -> list[SearchHit]:
    """Return entries in which all words stand; see ``SessionStore.search``.

    Raises:
        UsageError: there is no word, or there are too many.
        DamagedSessionsError: an entry cannot be read.
    """
    words = [word for word in (" ".join(_clean(word).split()) for word in words) if word]
    if not words:
        raise UsageError("There is nothing to search for.", "Give a word of a question or an answer.")
    if len(words) > _MOST_WORDS:
        raise UsageError(f"{len(words):,} words are too many.", f"Give at most {_MOST_WORDS}.")
    limit = max(0, min(limit, 1 << 31))
    hits = _from_index(connection, path, words, limit) if has_index(connection) else []
    return hits or list(islice(_from_texts(connection, path, words), limit))


def _from_index(
    connection: sqlite3.Connection, path: Path, words: Sequence[str], limit: int
) -> list[SearchHit]:
    """Return hits of whole words, the best first."""
    # No text has such marks: they are drawn anew for each search.
    begin, end = (f"\ue000{secrets.token_hex(8)}{side}" for side in "<>")
    snippets = [f"snippet(words, {column}, ?, ?, '…', {_SNIPPET_WORDS})" for column in range(3)]
    query = f"""{_COLUMNS}, {", ".join(snippets)}
        FROM words JOIN entries ON entries.id = words.rowid JOIN sessions ON sessions.id = entries.session
        WHERE words MATCH ? AND sessions.head IS NOT NULL
        ORDER BY words.rank, sessions.updated DESC, entries.id DESC LIMIT ?"""
    # Between quotes nothing is an operator.
    wanted = " ".join('"' + word.replace('"', '""') + '"' for word in words)
    return [
        _hit(path, row, [_marked(text, begin, end) for text in row[4:]])
        for row in connection.execute(query, (*[begin, end] * len(snippets), wanted, limit))
    ]


def _from_texts(connection: sqlite3.Connection, path: Path, words: Sequence[str]) -> Iterator[SearchHit]:
    """Yield hits of parts of words, the newest first; case does not count."""
    query = f"""{_COLUMNS} FROM entries JOIN sessions ON sessions.id = entries.session
        WHERE sessions.head IS NOT NULL ORDER BY sessions.updated DESC, entries.id DESC"""
    patterns = [re.compile(r"\s+".join(map(re.escape, word.split())), re.IGNORECASE) for word in words]
    any_word = re.compile("|".join(pattern.pattern for pattern in patterns), re.IGNORECASE)
    for row in connection.execute(query):
        texts = [_clean(text) for text in _texts(path, row[1])]
        if all(any(map(pattern.search, texts)) for pattern in patterns):
            yield _hit(path, row, [_excerpt(text, any_word) for text in texts])


def _hit(path: Path, row: Sequence[Any], snippets: Sequence[tuple[SnippetPiece, ...]]) -> SearchHit:
    """Return a hit, with the snippet of the answer, else of the question, else of the title."""
    name, text, is_exchange, number = row[:4]
    if not isinstance(name, str):
        raise damaged(path)
    snippet = next((found for found in reversed(snippets) if any(piece.is_hit for piece in found)), ())
    title, question, _ = _texts(path, text)
    return SearchHit(name, number if is_exchange else None, question if is_exchange else title, snippet)


def _texts(path: Path, entry: object) -> tuple[str, str, str]:
    """Return title, question and answer of an entry, those that it does not have as empty texts."""
    plain = fields_of(path, entry)
    answer = plain.get("answer")
    said = answer.get("text") if isinstance(answer, dict) else answer or ""
    title, question = plain.get("title", ""), plain.get("question", "")
    if not (isinstance(title, str) and isinstance(question, str) and isinstance(said, str)):
        raise damaged(path)
    return title, question, said


def _marked(text: str, begin: str, end: str) -> tuple[SnippetPiece, ...]:
    """Return the pieces of a snippet with marks around its hits."""
    before, *rest = text.split(begin)
    pieces = [SnippetPiece(before, False)]
    for piece in rest:
        hit, _, after = piece.partition(end)
        pieces += [SnippetPiece(hit, True), SnippetPiece(after, False)]
    return tuple(piece for piece in pieces if piece.text)


def _excerpt(text: str, any_word: re.Pattern[str]) -> tuple[SnippetPiece, ...]:
    """Return the text around its first hit, cut where it is long."""
    first = any_word.search(text)
    start = max(0, first.start() - _BEFORE) if first is not None else 0
    stop = (first.end() if first is not None else 0) + _AFTER
    pieces = [SnippetPiece("…" * (start > 0), False)]
    for hit in any_word.finditer(text, start, stop):
        pieces += [SnippetPiece(text[start : hit.start()], False), SnippetPiece(hit[0], True)]
        start = hit.end()
    pieces += [SnippetPiece(text[start:stop] + "…" * (stop < len(text)), False)]
    return tuple(piece for piece in pieces if piece.text)


def _clean(text: str) -> str:
    """Return a text that SQLite and its index take: without lone surrogates and zero bytes."""
    return text.encode("utf-8", "replace").decode("utf-8").replace("\0", " ")
