"""Points of a conversation to which an engine can rewind."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lrqk_cli.attention.rewind_points import CacheRewindPoint


@dataclass(frozen=True, eq=False)
class EngineRewindPoint:
    """A point of a conversation.

    Attributes:
        length: number of its tokens, unread ones included.
        cache: the rewind point of the cache.
        logits: logits of the next token, ``[vocab]`` in host memory; None if the next step computes them.
    """

    length: int
    cache: CacheRewindPoint
    logits: Tensor | None

    @property
    def nbytes(self) -> int:
        """The bytes of host memory that the point takes."""
        return self.cache.nbytes + (0 if self.logits is None else self.logits.nbytes)
