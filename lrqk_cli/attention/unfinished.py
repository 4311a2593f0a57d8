"""The work that a prefill leaves for the next decode step, or for the first one that chooses rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrqk_cli.attention.params import AttentionParams


@dataclass(slots=True)
class UnfinishedPrefill:
    """The state of one layer from its first segment after a decode step on, until the index fits the text.

    That is the next decode step or, while all rows are resident, the first step that has to choose rows.

    Attributes:
        indexed: number of indexed tokens, the first of the text.
        filled: filled hot slots of each row set; not up to date once ``is_held``.
        newest: the newest queries ``[KV, G, S, d]``, which seed the hot set, and their attention parameters;
            None before the first segment.
        is_solved: the projector and the tail fit the text.
        seeded: tokens of the text for which the hot set has been seeded with ``newest``; 0 before that.
        is_held: decode steps may run, since all candidates are in hot slots, and those of the steps follow.
    """

    indexed: int
    filled: int
    newest: tuple[Tensor, AttentionParams] | None = None
    is_solved: bool = False
    seeded: int = 0
    is_held: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes of the queries."""
        return 0 if self.newest is None else self.newest[0].nbytes

    def to(self, device: torch.device) -> UnfinishedPrefill:
        """Return a copy with the queries on ``device``; solving and seeding must be repeated for it."""
        newest = self.newest and (self.newest[0].to(device, copy=True), self.newest[1])
        return replace(self, newest=newest, is_solved=False, seeded=0)
