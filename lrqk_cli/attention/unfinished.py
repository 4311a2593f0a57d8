"""What a prefill leaves to do until the next decode step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrqk_cli.attention.params import AttentionParams


@dataclass(slots=True)
class UnfinishedPrefill:
    """The state of one layer between its first segment after a decode step and its next decode step.

    Attributes:
        indexed: tokens in the index; all others have still to be indexed.
        filled: filled hot slots of each row set.
        newest: the newest queries ``[KV, G, S, d]``, by which the hot set is seeded, and the parameters of
            their attention; None before the first segment.
        is_solved: the projector and the tail fit the text.
        is_seeded: the hot set is seeded by ``newest``.
    """

    indexed: int
    filled: int
    newest: tuple[Tensor, AttentionParams] | None = None
    is_solved: bool = False
    is_seeded: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the queries."""
        return 0 if self.newest is None else self.newest[0].nbytes

    def to(self, device: torch.device) -> UnfinishedPrefill:
        """Return a copy with its queries on ``device``, for a hot set that will have changed meanwhile."""
        newest = self.newest and (self.newest[0].to(device, copy=True), self.newest[1])
        return replace(self, newest=newest, is_solved=False, is_seeded=False)
