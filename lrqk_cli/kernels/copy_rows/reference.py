"""Copy rows between a device and the host's memory."""

from __future__ import annotations

from torch import Tensor


def copy_to_host(rows: Tensor, host: Tensor) -> None:
    """Copy rows ``[KV, S, ...]`` of a device to the host.

    Both tensors have the same shape and type, rows of one KV head are contiguous, and a row has a multiple
    of four bytes.
    """
    host.copy_(rows)


def copy_from_host(rows: Tensor, host: Tensor) -> None:
    """Copy rows of the host to a device; see ``copy_to_host``."""
    rows.copy_(host)
