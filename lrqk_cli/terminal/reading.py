"""Announces long reads: their duration and, without a bar, their progress."""

from __future__ import annotations

from collections.abc import Callable

from lrqk_cli.engine.events import PrefillProgress

# Seconds of work above which it is announced, and its end rings the bell.
LONG_S = 30.0
# The first layers of the first segment say little about the speed.
_SECONDS_TO_ESTIMATE = 3.0
_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_OF_SILENCE = 60.0
_SHARE_BETWEEN_LINES = 0.1


def roughly(seconds: float) -> str:
    """Return a rounded time: ``40 seconds``, ``3 minutes``, ``1.5 hours``."""
    if seconds < 90:
        return f"{max(5, round(seconds / 5) * 5)} seconds"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"


class ReadingAnnouncer:
    """Writes lines about one read, as soon as its speed is known.

    Args:
        write: prints a line.
        goes_on: also write the progress from time to time; for output without a bar.
    """

    def __init__(self, write: Callable[[str], None], *, goes_on: bool) -> None:
        self._write = write
        self._goes_on = goes_on
        self._last: PrefillProgress | None = None

    def tell(self, item: PrefillProgress) -> None:
        """Write a line about the progress if one is due."""
        left = item.seconds_left
        if left is None or item.done >= item.total or item.seconds < _SECONDS_TO_ESTIMATE:
            return
        if self._last is None:
            whole = item.seconds + left
            if self._goes_on or whole > LONG_S:
                self._write(f"Reading {item.total:,} tokens takes about {roughly(whole)}.")
            self._last = item
        elif self._goes_on and self._is_due(item, self._last):
            self._write(f"Read {item.done:,} of {item.total:,} tokens, about {roughly(left)} left.")
            self._last = item

    def _is_due(self, item: PrefillProgress, last: PrefillProgress) -> bool:
        passed, gained = item.seconds - last.seconds, (item.done - last.done) / item.total
        return passed >= _SECONDS_OF_SILENCE or (
            passed >= _SECONDS_BETWEEN_LINES and gained >= _SHARE_BETWEEN_LINES
        )
