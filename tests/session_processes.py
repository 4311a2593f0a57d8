"""Processes that record sessions, to be killed: ``python session_processes.py DATABASE NAME [WHERE]``.

Prints the number of exchanges after each record. WHERE kills the process itself: ``before`` or ``after`` the
commit of the third record.
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

from lrqk_cli.chat import journal
from lrqk_cli.chat.archive import Archive, SavedDocument, SavedExchange, SavedSection
from lrqk_cli.chat.events import Reply
from lrqk_cli.config import GenerationConfig


def exchange(number: int) -> SavedExchange:
    return SavedExchange(f"Question {number}?", Reply(f"Answer {number}.", "stop", 3), (1, 2, number))


def talk(exchanges: int, document: str = "text") -> Archive:
    """Return an archive with a document and some exchanges."""
    entries = [SavedDocument("report.pdf", "/report.pdf", (SavedSection(document, 1),))]
    return Archive("tiny", None, GenerationConfig(), {}, (*entries, *map(exchange, range(exchanges))), "t")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(path: Path, name: str, where: str = "") -> None:
    connected = journal.connected

    @contextmanager
    def deadly(place: Path, *, writes: bool):
        with connected(place, writes=writes) as connection:
            yield connection
            if where == "before":
                die()
        if where == "after":
            die()

    with journal.SessionStore(path).open(name) as session:
        found = session.archive()
        number = len(found.entries) - 1 if found is not None else 0
        print(f"began {number}", flush=True)  # noqa: T201
        while True:
            number += 1
            if where and number == 3:
                journal.connected = deadly
            session.record(talk(number))
            print(number, flush=True)  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
