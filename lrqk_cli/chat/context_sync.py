"""Keeps the tokens of an engine in step with a conversation: reads new ones, takes removed ones back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lrqk_cli.chat.chat import ReadingEvent
from lrqk_cli.chat.conversation import Conversation, Entry, Exchange
from lrqk_cli.chat.events import Notice, Remark, Reused
from lrqk_cli.engine.events import PrefillProgress
from lrqk_cli.engine.tokens import shared_length
from lrqk_cli.errors import OutOfMemoryError
from lrqk_cli.memory.units import format_bytes
from lrqk_cli.prefix_cache.tensor_file import DamagedFileError

if TYPE_CHECKING:
    from lrqk_cli.engine.generate import Engine
    from lrqk_cli.engine.prefix import PrefixKeeper

# A prefill stops for a rewind point at most once in so many tokens, and before its last entry.
_REWIND_DISTANCE = 4096
# Host memory for rewind points. Rewinding past a dropped point means reading the tokens again.
_REWIND_BYTES = 1 << 30
_NOTICES = {
    "segment": "Memory ran out, so the text is read again in shorter segments.",
    "hot": "Memory ran out, so the text is read again with fewer hot rows, which may cost some quality.",
}


class ContextSync:
    """Feeds an engine the tokens it lacks, and rewinds it when the conversation drops entries.

    The engine holds the first ``engine.length`` tokens of the conversation. A rewind point before documents
    and questions lets the last ones be removed exactly. Without that point, the tokens after an earlier point
    are read again.

    Args:
        engine: must be empty.
        keeper: restores documents that were read before, and keeps those that are read; None for neither.

    Attributes:
        keeps_rewind_points: whether to keep rewind points; false if nothing will be removed.
        on_layer: called within a segment with the progress of the whole prefill, where the engine reports it.
    """

    def __init__(self, engine: Engine, keeper: PrefixKeeper | None = None) -> None:
        self.keeps_rewind_points = True
        self.on_layer: Callable[[PrefillProgress], None] | None = None
        self._engine = engine
        self._keeper = keeper

    def catch_up(
        self, conversation: Conversation, cancelled: Callable[[], bool], told: set[str]
    ) -> Iterator[ReadingEvent]:
        """Prefill the tokens that the engine lacks, until ``cancelled``.

        Where memory runs out, the whole conversation is read again with less; see ``need_less``.

        Args:
            told: what the user has been told of that, which is not told again.

        Raises:
            OutOfMemoryError: less would not do either; the hint says what would fit.
            Exception: whatever the engine raises; the engine is then reset, because one layer may have got
                further than another.
        """
        is_damaged = False
        while True:
            try:
                yield from self._catch_up(conversation, cancelled)
                return
            except DamagedFileError as error:
                if self._keeper is None:
                    raise
                self._keeper.discard(error)
                self.start_again(conversation)
                if not is_damaged:
                    yield Notice(
                        "What was stored of this text is damaged, so the damaged part is read again."
                    )
                is_damaged = True
            except OutOfMemoryError as error:
                yield from self.need_less(conversation, error, told)
            except Exception:
                self.start_again(conversation)
                raise

    def _catch_up(self, conversation: Conversation, cancelled: Callable[[], bool]) -> Iterator[ReadingEvent]:
        engine, tokens = self._engine, conversation.tokens
        if engine.length == len(tokens) or cancelled():
            return
        keeper, documents_end = self._keeper, conversation.documents_end
        if keeper is not None:
            uses = conversation.documents
            keeper.label["documents"] = [
                {"title": use.title, "pages": use.pages, "tokens": use.tokens} for use in uses
            ]
        if keeper is not None and not engine.length and documents_end:
            # An answer needs the logits after its question, so the last token of that is read.
            newest = conversation.entries[-1]
            asks = isinstance(newest, Exchange) and newest.answer is None
            if reused := keeper.restore(tokens[: len(tokens) - asks], documents_end):
                yield Reused(reused, len(tokens))
                if reused == len(tokens):
                    return
        origin, began = engine.length, time.perf_counter()

        def progress(done: int) -> PrefillProgress:
            return PrefillProgress(done - origin, len(tokens) - origin, time.perf_counter() - began)

        def tell(done: int) -> None:
            if self.on_layer is not None:
                self.on_layer(progress(start + done))

        yield PrefillProgress(0, len(tokens) - origin, 0.0)
        entries = {entry.start: entry for entry in self._entries_with_rewind_points(conversation)}
        # A text that is restored later goes on from the end of its documents, so the first reading does too.
        ends = {len(tokens)} if keeper is None else {len(tokens), max(origin, documents_end)}
        for stop in sorted(ends | entries.keys()):
            start = engine.length
            if stop > start:
                for _ in engine.prefill(tokens[start:stop], finishes=stop in ends, on_layer=tell):
                    if keeper is not None and engine.length <= documents_end:
                        yield from self._keep(keeper, conversation, progress(engine.length))
                    yield progress(engine.length)
                    if cancelled():
                        return
            if (entry := entries.get(stop)) is not None:
                entry.rewind_point = engine.rewind_point()
                _limit_rewind_points(conversation)

    def _keep(
        self, keeper: PrefixKeeper, conversation: Conversation, read: PrefillProgress
    ) -> Iterator[Notice | Remark]:
        """Store what has been read of the documents, if that pays."""
        end, before = conversation.documents_end, keeper.writer.queued_bytes
        left = end - self._engine.length
        seconds = read.seconds * (read.done + left) / read.done
        keeper.segment_done(is_end=not left, expected_tokens=end, expected_seconds=seconds)
        if (failure := keeper.take_failure()) is not None:
            yield Notice(failure)
        if not left and keeper.writer.queued_bytes > before:
            yield Remark(
                f"What was read is stored for the next time: {format_bytes(keeper.writer.queued_bytes)}, see "
                "'lrqk cache'."
            )

    def keep_turns(self, name: str) -> None:
        """Keep the turns of the session ``name`` if its documents are kept."""
        if self._keeper is not None:
            self._keeper.label["session"] = name
            self._keeper.keep_turns()

    def forget(self, conversation: Conversation, entry: Entry) -> None:
        """Remove an entry and all later entries from the conversation and the engine."""
        conversation.cut(entry)
        if self._engine.length <= entry.start:
            return
        self._rewind((*conversation.entries, entry), conversation)

    def finish(self, conversation: Conversation, exchange: Exchange, answer: Sequence[int]) -> None:
        """Remove from the last exchange, and from the engine, what its template leaves out of earlier turns.

        Args:
            answer: the tokens of its answer.
        """
        marks = conversation.prompt.reasoning
        if marks is None:
            return
        answer_start = len(conversation.tokens) - len(answer)
        if marks.are_kept and answer and conversation.tokens[answer_start:] == [*answer]:
            exchange.answer_start = answer_start
            return
        generated = conversation.copy()
        conversation.finish(exchange, answer)
        self.change(generated, conversation)

    def start_again(self, conversation: Conversation) -> None:
        """Reset the engine, so that the whole conversation is read again."""
        self._engine.reset()
        for entry in conversation.entries:
            entry.rewind_point = None

    def need_less(
        self, conversation: Conversation, error: OutOfMemoryError, told: set[str]
    ) -> Iterator[Notice]:
        """Reset the engine, so that all is read again, with less memory; see ``Engine.need_less``.

        Yields what to tell the user, and adds it to ``told``.

        Raises:
            OutOfMemoryError: less would not do; the hint says what would fit.
        """
        self.start_again(conversation)
        saving = self._engine.need_less()
        if saving is None:
            raise self._engine.refusal(error) from None
        notice = _NOTICES[saving]
        if notice not in told:
            told.add(notice)
            yield Notice(notice)

    def change(self, old: Conversation, new: Conversation) -> None:
        """Rewind the engine to the tokens that ``old`` and ``new`` share.

        Drops the rewind points of entries that only ``new`` has: the engine may have been rewound past them.
        """
        for entry in new.entries:
            if entry not in old.entries:
                entry.rewind_point = None
        held = old.tokens[: self._engine.length]
        shared = shared_length(held, new.tokens)
        if shared == self._engine.length:
            return
        self._rewind([entry for entry in old.entries if entry.start <= shared], new)

    def _rewind(self, entries: Iterable[Entry], conversation: Conversation) -> None:
        """Rewind the engine to the last point of ``entries``.

        Without one, or where that needs more memory than there is, start ``conversation`` again.
        """
        points = [entry.rewind_point for entry in entries if entry.rewind_point is not None]
        if points:
            try:
                self._engine.rewind(points[-1])
                return
            except OutOfMemoryError:
                pass
        self.start_again(conversation)

    def _entries_with_rewind_points(self, conversation: Conversation) -> list[Entry]:
        """Return the unread entries before which to keep a rewind point."""
        if not self.keeps_rewind_points:
            return []
        position = self._engine.length
        # Only the opening comes before the first entry, so a reset serves as its rewind point.
        first = max(position, len(conversation.prompt.opening()) + 1)
        unread = [entry for entry in conversation.entries if entry.start >= first]
        chosen = list[Entry]()
        for entry in unread:
            is_free = entry.start == self._engine.length or entry is unread[-1]
            if is_free or entry.start - position >= _REWIND_DISTANCE:
                chosen.append(entry)
                position = entry.start
        return chosen


def _limit_rewind_points(conversation: Conversation) -> None:
    """Drop the oldest rewind points, but never the last, while they exceed ``_REWIND_BYTES``."""
    kept = [entry for entry in conversation.entries if entry.rewind_point is not None]
    used = 0
    for entry in reversed(kept):
        used += entry.rewind_point.nbytes if entry.rewind_point is not None else 0
        if used > _REWIND_BYTES and entry is not kept[-1]:
            entry.rewind_point = None
