"""Ends an answer at given texts, which may lie across several tokens."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Passes a text on as it comes, up to the first of some stop texts.

    Args:
        stops: texts that end the answer and are not a part of it; none of them is empty.

    Attributes:
        is_hit: a stop text has come.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.is_hit = False

    def push(self, text: str) -> str:
        """Add text; return what can be passed on, without what may be the beginning of a stop text."""
        if self.is_hit:
            return ""
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.is_hit = True
            safe, self._held = self._held[: min(places)], ""
            return safe
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        end = len(self._held) - keep
        safe, self._held = self._held[:end], self._held[end:]
        return safe

    def flush(self) -> str:
        """Return what was held back, at the end of the answer."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` that begins ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
