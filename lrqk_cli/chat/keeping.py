"""The prefix cache of a conversation's documents, from its opening to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrqk_cli.chat.document_cache import document_cache
from lrqk_cli.chat.protocols import OpeningView

if TYPE_CHECKING:
    from lrqk_cli.engine.generate import Engine
    from lrqk_cli.engine.prefix import PrefixKeeper

# Texts that are read in less time are not stored: it would wear out the disk for little.
WORTH_SECONDS = 10.0
_STORING = "Storing what was read, for the next time. Ctrl-C skips it."


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """Whether documents are stored when they have been read, and how much of them.

    Attributes:
        is_on: store them, and restore what is stored.
        limit: most bytes of the cache; None for a share of the free disk space.
    """

    is_on: bool = True
    limit: int | None = None


@contextmanager
def kept_documents(
    choice: CacheChoice,
    engine: Engine,
    name: str,
    model: Callable[[], dict[str, str]],
    view: OpeningView,
) -> Iterator[PrefixKeeper | None]:
    """Give a conversation a keeper for its documents; at the end wait until all is written.

    Args:
        name: of the model; ``model`` returns what identifies it, see ``PrefixKeeper``.
    """
    if not choice.is_on:
        yield None
        return
    from lrqk_cli.engine.prefix import PrefixKeeper

    keeper = PrefixKeeper(engine, document_cache(choice.limit), model, worth_seconds=WORTH_SECONDS)
    keeper.label["model"] = name
    try:
        yield keeper
        if keeper.writer.is_writing:
            view.note(_STORING)
        with suppress(KeyboardInterrupt):
            keeper.writer.close()
        if (failure := keeper.take_failure()) is not None:
            view.note(failure)
    finally:
        keeper.writer.stop()
