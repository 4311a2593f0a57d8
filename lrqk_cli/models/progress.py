"""How far a pull has come, as data."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Stage = Literal["wait", "fetch", "join", "prepare"]

_INTERVAL_S = 0.2


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One report of a pull.

    Attributes:
        stage: ``wait`` another lrqk is pulling the same model; ``fetch`` the download; ``join`` the parts
            become one file, its hash is checked; ``prepare`` its header is read, and where weights cannot be
            loaded from it, they are unpacked.
        done, total: bytes; for ``prepare`` tensors; ``total`` is 0 where it is not known.
    """

    stage: Stage
    done: int = 0
    total: int = 0


OnProgress = Callable[[PullProgress], None]


def ignore_progress(progress: PullProgress) -> None:
    """An ``on_progress`` for those who do not want to know."""


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under ``folder``; files that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
        except OSError:
            continue
    return total


@contextmanager
def watching(folder: Path, report: Callable[[int], None]) -> Iterator[None]:
    """While the block runs, report from another thread how many bytes ``folder`` has gained."""
    before, stop = folder_bytes(folder), threading.Event()

    def watch() -> None:
        while not stop.wait(_INTERVAL_S):
            report(max(0, folder_bytes(folder) - before))

    thread = threading.Thread(target=watch, name="lrqk-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
