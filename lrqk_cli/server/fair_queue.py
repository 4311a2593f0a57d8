"""A queue that takes from its owners in turn, so that nobody waits for all that another has asked."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

_Item = TypeVar("_Item")


class QueueFullError(Exception):
    """The queue holds as much as it may."""


class FairQueue(Generic[_Item]):
    """Items of several owners: first come, first served for each owner, and the owners take turns.

    All methods may be called from any thread.

    Args:
        limit: the most items that wait; an owner of whom none waits may add one in any case, so that nobody
            takes all places.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # In the order in which the owners' turns come.
        self._waiting: dict[str, deque[_Item]] = {}
        self._count = 0
        self._is_closed = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return self._count

    def put(self, owner: str, item: _Item) -> None:
        """Append an item.

        Raises:
            QueueFullError: too many items wait, or the queue is closed.
        """
        with self._changed:
            is_full = self._count >= self._limit and owner in self._waiting
            if is_full or self._is_closed:
                raise QueueFullError
            self._waiting.setdefault(owner, deque()).append(item)
            self._count += 1
            self._changed.notify()

    def take(self) -> _Item | None:
        """Remove and return the next item; wait for one; None once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._is_closed)
            if self._is_closed:
                return None
            owner = next(iter(self._waiting))
            items = self._waiting.pop(owner)
            item = items.popleft()
            if items:
                self._waiting[owner] = items
            self._count -= 1
            return item

    def remove(self, owner: str, item: _Item) -> None:
        """Remove an item if it still waits."""
        with self._changed:
            items = self._waiting.get(owner)
            if items is None or item not in items:
                return
            items.remove(item)
            if not items:
                del self._waiting[owner]
            self._count -= 1

    def close(self) -> list[_Item]:
        """Let ``take`` return None from now on; return the items that waited."""
        with self._changed:
            self._is_closed = True
            left = [item for items in self._waiting.values() for item in items]
            self._waiting.clear()
            self._count = 0
            self._changed.notify_all()
        return left
