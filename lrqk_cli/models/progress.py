"""The progress of a pull, as data."""

from __future__ import annotations

import os
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
        stage: ``wait`` another process pulls the same model; ``fetch`` downloads; ``join`` joins the parts to
            one file and checks its hash; ``prepare`` reads its header and, if weights cannot be loaded from
            the file, unpacks them.
        done, total: bytes; tensors for ``prepare``; ``total`` is 0 if unknown.
    """

    stage: Stage
    done: int = 0
    total: int = 0


OnProgress = Callable[[PullProgress], None]


def ignore_progress(progress: PullProgress) -> None:
    """An ``on_progress`` that does nothing."""


def folder_bytes(folder: Path) -> int:
    """Bytes of all files under ``folder``; files and folders that vanish meanwhile count as 0."""
    total = 0
    # ``Path.rglob`` raises where a folder vanishes.
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place, name)
            try:
                if path.is_file() and not path.is_symlink():
                    total += path.stat().st_size
            except OSError:
                continue
    return total


@contextmanager
def watching(folder: Path, report: Callable[[int], None]) -> Iterator[None]:
    """While the block runs, call ``report`` from another thread with the bytes that ``folder`` has gained."""
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
