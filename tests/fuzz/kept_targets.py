"""What lrqk keeps on the disk: the prefix cache, the database of sessions, and saved conversations."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

from session_processes import talk
from talk import Talk
from tiny import save_tiny_chat_model

from fuzz.command_line import Run, lrqk, own_folders
from fuzz.mutations import BOUNDARIES, mutated, mutated_value
from lrqk_cli.chat import keeping
from lrqk_cli.chat.archive import archive_json
from lrqk_cli.chat.journal import SessionStore
from lrqk_cli.chat.session_database import DamagedSessionsError
from lrqk_cli.engine import prefix
from lrqk_cli.errors import LrqkError

_WORDS = "The revenue of the year was 48.2 million, and the plant at Brannock employs 412 people. "
_CELLS = (*BOUNDARIES[:-2], None, 0.5, "", "x", "{}", "[]", "null", b"\xff", "\0", "[" * 5000, "9" * 5000)
_TABLES = {
    "sessions": ("id", "name", "created", "updated", "head"),
    "documents": ("hash", "parts"),
    "entries": ("id", "session", "number", "hash", "entry", "document", "is_indexed"),
    "sqlite_schema": ("sql", "name", "rootpage", "type"),
}


class PrefixCache:
    """Files of a document that was read before.

    A chat about the document must give the answer that it gives without the cache, whatever is in its files.
    """

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        keeping.WORTH_SECONDS, prefix.BLOCK_TOKENS = 0.0, 64
        self._document, self._stored = folder / "report.txt", folder / "cache" / "documents"
        self._document.write_text(_WORDS * 3)
        self._model = save_tiny_chat_model(folder / "tiny")
        self._expected = self._chat()
        assert json.loads(self._expected.out)["answer"]
        self._files = {path.name: path.read_bytes() for path in self._stored.iterdir()}

    def run(self, number: int, rng: Random) -> str:
        shutil.rmtree(self._stored)
        self._stored.mkdir()
        files = dict(self._files)
        for name in rng.sample([*files], rng.choice((1, 1, 1, 2, 3))):
            files[self._renamed(name, rng)] = self._damaged(files.pop(name), rng)
        for name, data in files.items():
            (self._stored / name).write_bytes(data)
        lrqk("cache", "list", "--json")
        lrqk("cache", "show", rng.choice([*files])[:8])
        # A chat takes longer than all else.
        if number % 4 == 0:
            found = self._chat()
            assert (found.code, self._answer(found)) == (0, self._answer(self._expected)), found
            return "answered alike"
        lrqk("cache", "prune")
        return "listed"

    def _chat(self) -> Run:
        arguments = ("--max-new-tokens", 4, "--segment", 32, "--json", "--prompt", "How much?")
        return lrqk("chat", self._document, "--model", self._model, *arguments)

    def _answer(self, run: Run) -> object:
        return json.loads(run.out)["answer"] if run.out else None

    def _renamed(self, name: str, rng: Random) -> str:
        if rng.random() < 0.9:
            return name
        parts = name.split(".")
        place = rng.randrange(len(parts))
        parts[place] = rng.choice(
            (str(rng.choice(BOUNDARIES)), "", "x", parts[place - 1], parts[place][:4], "\udcff")
        )
        return ".".join(parts)[:200] or "x"

    def _damaged(self, data: bytes, rng: Random) -> bytes:
        length = int.from_bytes(data[:8], "little")
        if rng.random() < 0.5:
            return mutated(data, rng, [*self._files.values()])
        header = json.dumps(mutated_value(json.loads(data[8 : 8 + length]), rng)).encode()
        return len(header).to_bytes(8, "little") + header + _resealed(header, data[8 + length :], rng)


def _resealed(header: bytes, body: bytes, rng: Random) -> bytes:
    """Return tensors and checksums after another header, whose own checksum may be made right."""
    import xxhash

    try:
        start = json.loads(header)["checksums"]["data_offsets"][0]
        begin = len(header).to_bytes(8, "little") + header
        if rng.random() < 0.8:
            return body[:start] + xxhash.xxh3_64_digest(begin) + body[start + 8 :]
    except (KeyError, TypeError, IndexError, ValueError):
        pass
    return body


class Sessions:
    """A database of sessions of which bytes, cells or definitions have changed.

    Only what was recorded is ever read. A recovery loses no session that could be read, keeps the damaged
    file beside the new one, and leaves a database that can be used.
    """

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        self._folder = folder / "state" / "lrqk"
        self._path = self._folder / "sessions.sqlite3"
        self._talks = {"short": talk(1), "long": talk(9, "text " * 3000), "other": talk(3)}
        for name, archive in self._talks.items():
            with SessionStore(self._path).open(name) as journal:
                journal.record(archive)
        with closing(sqlite3.connect(self._path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self._data = self._path.read_bytes()

    def run(self, number: int, rng: Random) -> str:
        shutil.rmtree(self._folder)
        self._folder.mkdir(parents=True)
        self._damage(rng)
        name = rng.choice([*self._talks])
        lrqk("sessions", *rng.choice((("list",), ("show", name), ("search", "answer"), ("export", name))))
        store = SessionStore(self._path)
        try:
            before = self._read(store)
        except DamagedSessionsError:
            before = {}
        except LrqkError:
            return "refused"
        moved = store.recover().moved_to
        after = self._read(store)
        assert before.keys() <= after.keys(), (before.keys(), after.keys())
        assert moved.exists() if moved is not None else before == after
        recorded = [entry for archive in self._talks.values() for entry in archive.entries]
        assert all(entry in recorded for archive in after.values() for entry in archive.entries)
        with store.open("next") as journal:
            journal.record(talk(2))
        assert store.archive("next") == talk(2)
        return "sound" if moved is None else f"recovered {len(after)} of {len(self._talks)}"

    def _damage(self, rng: Random) -> None:
        if rng.random() < 0.5:
            self._path.write_bytes(
                self._mutated_pages(rng) if rng.random() < 0.3 else mutated(self._data, rng, [self._data])
            )
            return
        self._path.write_bytes(self._data)
        with closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            for _ in range(rng.choice((1, 1, 3))):
                table = rng.choice([*_TABLES])
                column, value = rng.choice(_TABLES[table]), rng.choice(_CELLS)
                if isinstance(value, int) and not -(2**63) <= value < 2**63:
                    value = float(value)
                row = (
                    f"SELECT rowid FROM {table} ORDER BY random() LIMIT 1"
                    if rng.random() < 0.9
                    else f"SELECT rowid FROM {table}"
                )
                with suppress(sqlite3.Error):
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid IN ({row})", (value,))

    def _mutated_pages(self, rng: Random) -> bytes:
        size = int.from_bytes(self._data[16:18], "big")
        pages = [self._data[start : start + size] for start in range(0, len(self._data), size)]
        a, b = rng.randrange(len(pages)), rng.randrange(len(pages))
        pages[a], pages[b] = rng.choice(((pages[b], pages[a]), (bytes(size), pages[b]), (pages[b], pages[b])))
        return b"".join(pages)

    def _read(self, store: SessionStore) -> dict[str, Any]:
        """Return the sessions that can be read whole."""
        found = {}
        for info in store.list():
            with suppress(DamagedSessionsError):
                found[info.name] = store.archive(info.name)
        return found


class SavedFiles:
    """Files of conversations that /load reads in a chat, which goes on in any case."""

    def prepare(self, folder: Path) -> None:
        own_folders(folder)
        self._file = folder / "talk.json"
        self._plain = json.loads(archive_json(talk(3)))
        self._text = archive_json(talk(3)).encode()

    def run(self, number: int, rng: Random) -> str:
        if rng.random() < 0.6:
            data = json.dumps(mutated_value(self._plain, rng)).encode()
        else:
            data = mutated(self._text, rng, [self._text])
        self._file.write_bytes(data)
        with Talk() as chat:
            before = chat.say("First?")
            said = chat.say(f"/load {self._file}", "Next?")
            assert "Unexpected" not in said, said
            assert chat.questions[-1:] == ["Next?"]
            if "Error: " in said:
                assert chat.questions == ["First?", "Next?"], (before, said)
                return "refused"
        return "loaded"
