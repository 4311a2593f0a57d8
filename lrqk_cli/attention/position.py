"""The number of tokens in a cache, which all its layers read."""

from __future__ import annotations

import torch


class Position:
    """The number of tokens that all layers have processed, on the host and on the device.

    It does not change during a segment or a step, whose first token is token ``length``; the last layer
    advances it.

    Attributes:
        length: the number on the host; a captured graph advances only ``tensor``, a capture only ``length``.
        tensor: the number on the device, int64 ``[1]``. Its address never changes, so a captured graph may
            read and advance it.
    """

    def __init__(self, device: torch.device) -> None:
        self.length = 0
        self.tensor = torch.zeros(1, dtype=torch.int64, device=device)

    def advance(self, count: int) -> None:
        """Add ``count`` tokens; inside a capture, every replay repeats the addition on the device."""
        self.length += count
        self.tensor += count

    def set(self, length: int) -> None:
        """Set both numbers to ``length`` tokens."""
        self.length = length
        self.tensor.fill_(length)
