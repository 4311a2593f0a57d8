"""Points of a conversation that an engine can be taken back to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lrqk_cli.attention.rewind_points import CacheRewindPoint


@dataclass(frozen=True, eq=False)
class EngineRewindPoint:
    """A point of a conversation.

    Attributes:
        length: its tokens, with those that have not gone through the model yet.
        cache: the cache's point.
        logits: of the next token, ``[vocab]`` in host memory; None where the next step computes them.
    """

    length: int
    cache: CacheRewindPoint
    logits: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of host memory that it takes."""
        return self.cache.nbytes + (0 if self.logits is None else self.logits.nbytes)
