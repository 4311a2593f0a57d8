"""The prefix cache of a conversation's documents: where it is, and its end with the conversation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrqk_cli.chat.protocols import OpeningView
from lrqk_cli.models.store import cache_root
from lrqk_cli.prefix_cache.store import PrefixStore

if TYPE_CHECKING:
    from lrqk_cli.config import WeightForm
    from lrqk_cli.engine.generate import Engine
    from lrqk_cli.engine.prefix import PrefixKeeper
    from lrqk_cli.models.loading import LoadedModel
    from lrqk_cli.models.resolving import ModelSource

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


def document_cache(limit: int | None = None) -> PrefixStore:
    """Return the user's cache of documents."""
    return PrefixStore(cache_root() / "documents", limit)


@contextmanager
def kept_documents(
    choice: CacheChoice,
    engine: Engine,
    source: ModelSource,
    loaded: LoadedModel,
    form: WeightForm | None,
    view: OpeningView,
) -> Iterator[PrefixKeeper | None]:
    """Give a conversation a keeper for its documents; at the end wait until all is written.

    Args:
        form: the form of the weights in memory.
    """
    if not choice.is_on:
        yield None
        return
    from lrqk_cli.engine.prefix import PrefixKeeper
    from lrqk_cli.models.fingerprint import model_parts

    keeper = PrefixKeeper(engine, document_cache(choice.limit), lambda: model_parts(source, loaded, form))
    keeper.label["model"] = source.name
    try:
        yield keeper
        if keeper.is_writing:
            view.note(_STORING)
        with suppress(KeyboardInterrupt):
            keeper.close()
        if (failure := keeper.take_failure()) is not None:
            view.note(failure)
    finally:
        keeper.stop()
