"""Keeps what an engine has read in step with a conversation, forwards and backwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import TYPE_CHECKING

from lrqk_cli.chat.conversation import Conversation, Entry
from lrqk_cli.engine.events import PrefillProgress

if TYPE_CHECKING:
    from lrqk_cli.engine.generate import Engine

# A prefill is interrupted for a point at most once in so many tokens, and before its last entry.
_MARK_DISTANCE = 4096
# Host memory for points. Where older ones had to go, taking back means reading again.
_MARK_BYTES = 1 << 30


def never() -> bool:
    """The default of ``cancelled``: nobody interrupts."""
    return False


class ContextSync:
    """Reads what an engine has not read, and takes back what the conversation has no more.

    The engine holds the first ``engine.length`` tokens of the conversation. Before each document and question
    its point is noted, so that the last ones can be taken away exactly. Where that point is missing, what
    follows an earlier one must be read again.

    Args:
        engine: must be empty.

    Attributes:
        keeps_marks: false where nothing will be taken away.
        on_layer: told within a segment how far all of the reading is, where the engine can tell.
    """

    def __init__(self, engine: Engine) -> None:
        self.keeps_marks = True
        self.on_layer: Callable[[PrefillProgress], None] | None = None
        self._engine = engine

    def catch_up(
        self, conversation: Conversation, cancelled: Callable[[], bool]
    ) -> Iterator[PrefillProgress]:
        """Put in what the conversation has and the engine has not, until ``cancelled``.

        Raises:
            Exception: whatever the engine raises; it is made to forget everything then, because one of its
                layers may have got further than another.
        """
        try:
            yield from self._catch_up(conversation, cancelled)
        except Exception:
            self.start_again(conversation)
            raise

    def _catch_up(
        self, conversation: Conversation, cancelled: Callable[[], bool]
    ) -> Iterator[PrefillProgress]:
        engine, tokens = self._engine, conversation.tokens
        origin, began = engine.length, time.perf_counter()
        if origin == len(tokens) or cancelled():
            return

        def progress(done: int) -> PrefillProgress:
            return PrefillProgress(done - origin, len(tokens) - origin, time.perf_counter() - began)

        def tell(done: int) -> None:
            if self.on_layer is not None:
                self.on_layer(progress(start + done))

        yield PrefillProgress(0, len(tokens) - origin, 0.0)
        for entry in [*self._entries_to_mark(conversation), None]:
            stop = len(tokens) if entry is None else entry.start
            start = engine.length
            if stop > start:
                for _ in engine.prefill(tokens[start:stop], finishes=entry is None, on_layer=tell):
                    yield progress(engine.length)
                    if cancelled():
                        return
            if entry is not None:
                entry.rewind_point = engine.rewind_point()
                _limit_marks(conversation)

    def forget(self, conversation: Conversation, entry: Entry) -> None:
        """Take away an entry and all after it, from the engine too."""
        conversation.cut(entry)
        if self._engine.length <= entry.start:
            return
        points = [
            other.rewind_point for other in (*conversation.entries, entry) if other.rewind_point is not None
        ]
        if points:
            self._engine.rewind(points[-1])
        else:
            self.start_again(conversation)

    def start_again(self, conversation: Conversation) -> None:
        """Let the engine forget everything; all of the conversation is to be read."""
        self._engine.reset()
        for entry in conversation.entries:
            entry.rewind_point = None

    def change(self, old: Conversation, new: Conversation) -> None:
        """Take back what the engine has read of ``old`` and ``new`` has not.

        Points before entries that only the new one has are given up: the engine may have been taken back
        beyond them.
        """
        for entry in new.entries:
            if entry not in old.entries:
                entry.rewind_point = None
        held = old.tokens[: self._engine.length]
        shared = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(held, new.tokens, strict=False))
        )
        if shared == self._engine.length:
            return
        points = [
            entry.rewind_point
            for entry in old.entries
            if entry.rewind_point is not None and entry.start <= shared
        ]
        if points:
            self._engine.rewind(points[-1])
        else:
            self.start_again(new)

    def _entries_to_mark(self, conversation: Conversation) -> list[Entry]:
        """Return the entries not yet read before which the engine is to be marked."""
        if not self.keeps_marks:
            return []
        position = self._engine.length
        # Nothing comes before the first entry, so a reset is as good as a mark.
        first = max(position, len(conversation.prompt.opening()) + 1)
        unread = [entry for entry in conversation.entries if entry.start >= first]
        chosen = list[Entry]()
        for entry in unread:
            is_free = entry.start == self._engine.length or entry is unread[-1]
            if is_free or entry.start - position >= _MARK_DISTANCE:
                chosen.append(entry)
                position = entry.start
        return chosen


def _limit_marks(conversation: Conversation) -> None:
    """Let the oldest points go, but the last, where all take too much memory."""
    marked = [entry for entry in conversation.entries if entry.rewind_point is not None]
    used = 0
    for entry in reversed(marked):
        used += entry.rewind_point.nbytes if entry.rewind_point is not None else 0
        if used > _MARK_BYTES and entry is not marked[-1]:
            entry.rewind_point = None
