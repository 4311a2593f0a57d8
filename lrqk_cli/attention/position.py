"""The number of tokens in a cache, which all its layers read."""

from __future__ import annotations

import torch


class Position:
    """The number of tokens that all layers have processed, on the host and on the device.

    It does not change during a segment or a step, whose first token is token ``length``; the last layer
    advances it. After a verify step the host accepts drafts one by one, and sends the result to the device
    once, before the next launch.

    Attributes:
        length: the number on the host; a captured graph advances only ``tensor``, a capture only ``length``.
        tensor: the number on the device, int64 ``[1]``. Its address never changes, so a captured graph may
            read and advance it.
        pending: the newest tokens that are accepted drafts, whose rows are not in the rings yet.
        pending_tensor: the same on the device, as ``tensor``.
    """

    def __init__(self, device: torch.device) -> None:
        self.length = self.pending = 0
        self.tensor = torch.zeros(1, dtype=torch.int64, device=device)
        self.pending_tensor = torch.zeros_like(self.tensor)
        self._is_sent = True

    def advance(self, count: int) -> None:
        """Add ``count`` tokens; none is pending then.

        Inside a capture, every replay repeats this on the device.
        """
        self.advance_host(count)
        self.tensor += count
        self.pending_tensor.zero_()

    def advance_host(self, count: int) -> None:
        """Add on the host ``count`` tokens that a replay of a captured graph adds on the device."""
        self.length += count
        self.pending = 0

    def accept_draft(self) -> None:
        """Add one draft of the newest verify step, on the host only."""
        self.length += 1
        self.pending += 1
        self._is_sent = False

    def send(self) -> None:
        """Bring the numbers on the device up to date, if drafts were accepted since they were."""
        if not self._is_sent:
            self.tensor.fill_(self.length)
            self.pending_tensor.fill_(self.pending)
            self._is_sent = True

    def set(self, length: int) -> None:
        """Set all numbers to ``length`` tokens, none of which is pending."""
        self.length, self.pending, self._is_sent = length, 0, False
        self.send()
