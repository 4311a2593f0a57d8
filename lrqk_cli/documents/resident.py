"""The memory of a process and of those that it has started."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_LIST_S = 0.5


class ResidentMemory:
    """The resident memory of a process and of its own processes; what they share counts once."""

    def __init__(self, process: psutil.Process) -> None:
        import psutil

        self._process = process
        self._gone = psutil.Error
        # Its own processes, as they were found last; to find them takes a look at all of the machine.
        self._started: list[psutil.Process] = []
        self._listed_at = float("-inf")

    def is_above(self, limit: int) -> bool:
        """Whether they hold more bytes than ``limit``; a process that has ended holds none."""
        # To tell what is shared takes the system long, so that is asked only if it matters.
        return self._bytes(lambda started: started.memory_info().rss) > limit and (
            self._bytes(lambda started: started.memory_full_info().uss) > limit
        )

    def _bytes(self, of_started: Callable[[psutil.Process], int]) -> int:
        used, now = 0, time.monotonic()
        with suppress(self._gone):
            used = int(self._process.memory_info().rss)
            if now - self._listed_at > _LIST_S:
                self._started, self._listed_at = self._process.children(), now
        for started in self._started:
            with suppress(self._gone):
                used += int(of_started(started))
        return used
