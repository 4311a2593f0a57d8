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

from lrqk_cli.engine.tokens import shared_length

# Tokens that must occur before, for those after them to be drafts.
NEWEST = 8
_HASHED = NEWEST - 1
# An answer that left its source goes on with it where so many tokens agree again: in an answer a line end of
# the source is often a blank, or a hyphen is gone. Looked for among so many tokens of the source, until the
# answer has gone on for as many.
_AGAIN = 2
_APART = 12
VERIFY_COST = 2.0
ALLOWANCE = 1 / 64
MOST_CREDIT = 1.2

_Array = NDArray[np.int32]


class TokenSearch:
    """The tokens of a conversation, searchable for the newest earlier occurrence of the newest ``NEWEST``.

    It keeps a hash of each ``NEWEST - 1`` successive tokens, and compares all hashes at once: microseconds at
    any length that a model can read. ``prepare`` does that while the device computes the next token, which
    ``find`` then only compares with those that followed.
    """

    def __init__(self) -> None:
        self._tokens = np.empty(1024, dtype=np.int32)
        # Entry i is of the tokens up to and with token i.
        self._hashes = np.empty(1024, dtype=np.int32)
        self._length = self._hashed = 0
        # The tokens of which ``prepare`` has looked for the newest, and those that followed them earlier.
        self._prepared = 0
        self._followers: NDArray[np.intp] = np.empty(0, dtype=np.intp)

    def follow(self, tokens: Sequence[int]) -> None:
        """Take over the tokens that were appended to the conversation ``tokens`` since the last call."""
        first, length = self._length, len(tokens)
        if length > len(self._tokens):
            room = max(length, 2 * len(self._tokens))
            self._tokens, self._hashes = _grown(self._tokens, first, room), _grown(self._hashes, first, room)
        self._tokens[first:length] = tokens[first:]
        self._length = length

    def cut(self, length: int) -> None:
        """Forget all tokens from ``length`` on."""
        self._length, self._hashed = min(self._length, length), min(self._hashed, length)
        self._prepared = 0

    def prepare(self) -> None:
        """Search for all tokens but the next, so that ``find`` takes less time once that has followed."""
        self._search(self._length)

    def find(self) -> int | None:
        """Return the token after the newest earlier occurrence of the newest tokens; None without one."""
        last = self._length - 1
        if self._prepared != last:
            self._search(last)
        tokens, followers = self._tokens, self._followers
        newest = tokens[last - _HASHED : last]
        places: list[int] = followers[tokens[followers] == tokens[last]].tolist()
        for place in reversed(places):
            # Different tokens may have the same hash.
            if np.array_equal(tokens[place - _HASHED : place], newest):
                return place + 1
        return None

    def _search(self, length: int) -> None:
        """List the tokens that followed earlier occurrences of the newest of the first ``length`` tokens."""
        first = max(self._hashed, _HASHED - 1)
        if first < length:
            self._hashes[first:length] = _hashes(self._tokens[first - _HASHED + 1 : length])
            self._hashed = length
        begin, last = _HASHED - 1, max(length - 1, _HASHED - 1)
        self._followers = np.flatnonzero(self._hashes[begin:last] == self._hashes[last]) + _HASHED
        self._prepared = length

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
    """Return a hash of each ``_HASHED`` successive tokens, modulo 2**32."""
    count = len(tokens) - _HASHED + 1
    total = np.zeros(count, dtype=np.uint32)
    for part in range(_HASHED):
        total *= np.uint32(0x9E3779B1)
        total += tokens[part : part + count].view(np.uint32)
    return total.view(np.int32)


class Lookup:
    """Offers drafts for the next step of a conversation, while they pay; see ``engine.decode.DraftSource``.

    Args:
        tokens: of the conversation; the same list as it grows and shrinks.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self._tokens = tokens
        self._search = TokenSearch()
        self._credit = MOST_CREDIT
        # The newest drafts, the length of the conversation when they were offered, and their source.
        self._open: list[int] = []
        self._at = self._length = self._source = 0
        # Where the newest source parted from the conversation, and the length of the conversation then.
        self._parted: tuple[int, int] | None = None

    def cut(self, length: int) -> None:
        """Forget the tokens of the conversation from ``length`` on, which were taken back."""
        self._search.cut(length)
        self._open, self._parted = [], None
        self._length = min(self._length, length)

    def prepare(self) -> None:
        """Search ahead, while the device computes the token after the newest."""
        if self._credit >= 0.0:
            self._search.follow(self._tokens)
            self._search.prepare()

    def find(self, count: int) -> list[int]:
        """Return ``count`` drafts for the step of the newest token, or none. Call this for every step."""
        followed = self._settle()
        if self._credit < 0.0:
            return []
        self._search.follow(self._tokens)
        source = followed if followed is not None else self._rejoined()
        source = source if source is not None else self._search.find()
        if source is None:
            return []
        self._open, self._at, self._source = self._search.after(source, count), len(self._tokens), source
        return self._open

    def _settle(self) -> int | None:
        """Count the steps since the last call; return where the newest source goes on, if it agreed."""
        tokens = self._tokens
        new, self._length = len(tokens) - self._length, len(tokens)
        if not self._open:
            self._earn(ALLOWANCE * new)
            return None
        drafts, after, self._open = self._open, tokens[self._at :], []
        agreed = shared_length(drafts, after)
        self._earn(1 + agreed - VERIFY_COST)
        # The model's own token after the last draft must agree too, for the source to go on.
        place = self._source + agreed
        if agreed == len(drafts) < len(after) and tokens[place] == after[agreed]:
            return place + 1
        self._parted = place, self._at + agreed
        return None

    def _rejoined(self) -> int | None:
        """Return where the newest source goes on if it agrees again; None otherwise."""
        if self._parted is None:
            return None
        tokens, (place, at) = self._tokens, self._parted
        apart = len(tokens) - at
        if apart > _APART:
            self._parted = None
        elif apart >= _AGAIN:
            newest = tokens[-_AGAIN:]
            for end in range(place + _AGAIN, min(place + _APART, at) + 1):
                if tokens[end - _AGAIN : end] == newest:
                    self._parted = None
                    return end
        return None

    def _earn(self, gain: float) -> None:
        self._credit = min(MOST_CREDIT, self._credit + gain)
