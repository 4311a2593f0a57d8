"""Settings of torch's CUDA allocator, which must be made before torch is imported."""

from __future__ import annotations

import os
import sys

_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
_EXPANDABLE = "expandable_segments:True"


def expands_segments() -> bool:
    """Return whether segments expand: blocks of all sizes share one address range, which grows page by page.

    Freed memory can then be reused for any size. Linux only. A user-set PYTORCH_CUDA_ALLOC_CONF wins.
    """
    return sys.platform == "linux" and _EXPANDABLE in os.environ.get(_VARIABLE, _EXPANDABLE)


def expand_segments() -> None:
    """Switch on expandable segments where torch supports them. Call this before torch is imported."""
    if expands_segments():
        os.environ.setdefault(_VARIABLE, _EXPANDABLE)


def unusable_bytes(transient: int, layers: int) -> int:
    """Return an upper bound of the bytes that the allocator holds but cannot reuse.

    With expandable segments and 0.2 GiB of temporary tensors on a full GPU, one run lacked 78 MiB, and others
    succeeded with 108 MiB. Without them, runs lacked up to 344 MiB. Then each large tensor also loses up to
    1 MiB, since segments are multiples of 2 MiB: the three tensors of an MLP, and the hot rows.

    Args:
        transient: peak bytes of temporary tensors.
        layers: layers of the model.
    """
    if expands_segments():
        return (128 << 20) + transient // 4
    return (128 << 20) + transient + layers * (4 << 20)
