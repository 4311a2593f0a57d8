"""Draft tokens by lookup: the tokens that follow an earlier occurrence of the newest ones.

A verify step costs more than a plain step, so drafts must pay. With a plain step as the unit, a verify step
costs about ``VERIFY_COST`` and yields ``1 + a`` tokens, where a is the number of accepted drafts: it gains
``1 + a - VERIFY_COST`` steps, which may be negative. An account sums these gains. Every plain step adds
``ALLOWANCE`` to it, a prompt fills it to ``MOST_CREDIT``, the most that it can hold, and drafts are only
looked for while it is not negative. So, whatever the text, an answer of n tokens costs at most
``n * (1 + ALLOWANCE) + MOST_CREDIT + VERIFY_COST - 1``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Tokens that must occur before, for those after them to be drafts.
NEWEST = 8
VERIFY_COST = 2.2
ALLOWANCE = 1 / 64
MOST_CREDIT = 1.2

_Array = NDArray[np.int32]


class TokenSearch:
    """The tokens of a conversation, searchable for the newest earlier occurrence of the newest ``NEWEST``.

    It keeps a hash of each ``NEWEST`` successive tokens. A search compares all hashes at once, so it takes
    microseconds at any length that a model can read.
    """

    def __init__(self) -> None:
        self._tokens = np.empty(1024, dtype=np.int32)
        # Entry i is of the tokens up to and with token i.
        self._hashes = np.empty(1024, dtype=np.int32)
        self._length = 0

    def follow(self, tokens: Sequence[int]) -> None:
        """Take over the tokens that were appended to the conversation ``tokens`` since the last call."""
        first, length = self._length, len(tokens)
        if length > len(self._tokens):
            room = max(length, 2 * len(self._tokens))
            self._tokens, self._hashes = _grown(self._tokens, first, room), _grown(self._hashes, first, room)
        self._tokens[first:length] = tokens[first:]
        first = max(first, NEWEST - 1)
        if first < length:
            self._hashes[first:length] = _hashes(self._tokens[first - NEWEST + 1 : length])
        self._length = length

    def cut(self, length: int) -> None:
        """Forget all tokens from ``length`` on."""
        self._length = min(self._length, length)

    def find(self) -> int | None:
        """Return the token after the newest earlier occurrence of the newest tokens; None without one."""
        last, begin = self._length - 1, NEWEST - 1
        if last <= begin:
            return None
        hashes = self._hashes[begin:last]
        newest = self._tokens[last - begin : last + 1]
        # Bytes are searched from the end several times faster than an array.
        same = (hashes == self._hashes[last]).tobytes()
        place = same.rfind(1)
        while place >= 0 and not np.array_equal(self._tokens[place : place + NEWEST], newest):
            place = same.rfind(1, 0, place)
        return place + NEWEST if place >= 0 else None

    def after(self, place: int, count: int) -> list[int]:
        """Return ``count`` tokens from ``place`` on; at the end of the conversation they go on as before.

        A text with a period, such as a line of dots, so predicts more tokens than it has after ``place``.
        """
        period = self._length - place
        found: list[int] = self._tokens[place : place + min(count, period)].tolist()
        return [found[number % period] for number in range(count)]


def _grown(array: _Array, used: int, room: int) -> _Array:
    grown = np.empty(room, dtype=np.int32)
    grown[:used] = array[:used]
    return grown


def _hashes(tokens: _Array) -> _Array:
    """Return a hash of each ``NEWEST`` successive tokens, modulo 2**32."""
    count = len(tokens) - NEWEST + 1
    total = np.zeros(count, dtype=np.uint32)
    for part in range(NEWEST):
        total *= np.uint32(0x9E3779B1)
        total += tokens[part : part + count].view(np.uint32)
    return total.view(np.int32)


class Lookup:
    """Offers drafts for the next step of a conversation, while they pay."""

    def __init__(self) -> None:
        self._search = TokenSearch()
        self._credit = MOST_CREDIT
        # The newest drafts, the length of the conversation when they were offered, and their source.
        self._open: list[int] = []
        self._at = self._length = self._source = 0

    def cut(self, length: int) -> None:
        """Forget the tokens of the conversation from ``length`` on, which were taken back."""
        self._search.cut(length)
        self._open = []
        self._length = min(self._length, length)

    def find(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return ``count`` drafts for the next step, or none. Call this for every step, in order.

        Args:
            tokens: of the conversation so far; the step is for the newest.
        """
        followed = self._settle(tokens)
        if self._credit < 0.0:
            return []
        self._search.follow(tokens)
        source = followed if followed is not None else self._search.find()
        if source is None:
            return []
        self._open, self._at, self._source = self._search.after(source, count), len(tokens), source
        return self._open

    def _settle(self, tokens: Sequence[int]) -> int | None:
        """Count the steps since the last call; return where the newest source goes on, if it agreed."""
        new, self._length = len(tokens) - self._length, len(tokens)
        if not self._open:
            self._earn(ALLOWANCE * new)
            return None
        drafts, after, self._open = self._open, tokens[self._at :], []
        agreed = _common(drafts, after)
        self._earn(1 + agreed - VERIFY_COST)
        # The model's own token after the last draft must agree too, for the source to go on.
        place = self._source + agreed
        goes_on = agreed == len(drafts) < len(after) and tokens[place] == after[agreed]
        return place + 1 if goes_on else None

    def _earn(self, gain: float) -> None:
        self._credit = min(MOST_CREDIT, self._credit + gain)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many tokens at the beginning are the same."""
    for place, (own, other) in enumerate(zip(left, right, strict=False)):
        if own != other:
            return place
    return min(len(left), len(right))
