"""Where the prefix cache of documents is."""

from __future__ import annotations

from lrqk_cli.models.store import cache_root
from lrqk_cli.prefix_cache.store import PrefixStore


def document_cache(limit: int | None = None) -> PrefixStore:
    """Return the cache of documents that were read, in the folder ``documents`` below ``cache_root()``.

    Args:
        limit: most bytes of all files; None for a quarter of the disk space that is free without them.
    """
    return PrefixStore(cache_root() / "documents", limit)
