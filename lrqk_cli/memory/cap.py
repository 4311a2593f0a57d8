"""Emulate a smaller device by a cap on the memory that torch may allocate."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lrqk_cli.errors import UsageError
from lrqk_cli.memory.probe import total_device_bytes


@contextmanager
def memory_cap(device: torch.device, size: int) -> Iterator[None]:
    """Let torch allocate at most ``size`` bytes on the device inside this context.

    Raises:
        UsageError: see ``check_memory_cap``.
    """
    check_memory_cap(device, size)
    before = torch.cuda.get_per_process_memory_fraction(device)
    # Memory that the allocator caches would count against the cap.
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(size / total_device_bytes(device), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(before, device)


def check_memory_cap(device: torch.device, size: int) -> None:
    """Raise if a cap cannot be set.

    Raises:
        UsageError: the device is not a CUDA device, or has fewer than ``size`` bytes.
    """
    if device.type != "cuda":
        raise UsageError(
            f"`memory_cap` needs a CUDA device, and this runs on {device}.",
            "Leave it out, or choose `device` cuda.",
        )
    total = total_device_bytes(device)
    if size > total:
        raise UsageError(
            f"`memory_cap` is {size / 2**30:.1f} GiB, and {device} has {total / 2**30:.1f} GiB.",
            "Lower it, or leave it out.",
        )
