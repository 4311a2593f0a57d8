"""How far a cache has got: the one count of tokens that all its layers read."""

from __future__ import annotations

import torch


class Position:
    """The number of tokens that have gone through all layers, on the host and on the device.

    While a segment or a step is under way, it still stands where that began: its first token is token
    ``length``. The last layer moves it on.

    Attributes:
        length: the number as the host knows it.
        tensor: the number on the device, int64 ``[1]``, which never moves, so that a captured graph may read
            it and count in it.
    """

    def __init__(self, device: torch.device) -> None:
        self.length = 0
        self.tensor = torch.zeros(1, dtype=torch.int64, device=device)

    def advance(self, count: int) -> None:
        """Count further tokens; within a capture, the device does so at every replay."""
        self.length += count
        self.tensor += count

    def set(self, length: int) -> None:
        """Go back to ``length`` tokens."""
        self.length = length
        self.tensor.fill_(length)

    def sync_host_length(self, length: int) -> None:
        """Note on the host where a graph's replay, or a capture that ran nothing, has left the device."""
        self.length = length
