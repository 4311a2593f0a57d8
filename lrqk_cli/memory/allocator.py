"""How torch's allocator hands out device memory; this has to be said before torch is imported."""

from __future__ import annotations

import os
import sys

_VARIABLE = "PYTORCH_CUDA_ALLOC_CONF"
_EXPANDABLE = "expandable_segments:True"


def expands_segments() -> bool:
    """Tell whether blocks of all sizes share one range of addresses, which grows page by page.

    What was freed can then be handed out again, whatever its size. torch has it on Linux. A
    user-set PYTORCH_CUDA_ALLOC_CONF wins.
    """
    return sys.platform == "linux" and _EXPANDABLE in os.environ.get(_VARIABLE, _EXPANDABLE)


def expand_segments() -> None:
    """Let torch's allocator, which is still to be loaded, do so where it can."""
    if expands_segments():
        os.environ.setdefault(_VARIABLE, _EXPANDABLE)


def unusable_bytes(transient: int, layers: int) -> int:
    """Return the bytes, at most, that the allocator holds and cannot hand out.

    With segments that expand, a run on a full GPU lacked 78 MiB, and others ran with 108, where 0.2 GiB come
    and go. Without, they lacked up to 344 MiB; and of each large tensor up to 1 MiB is lost, since segments
    are multiples of 2 MiB: the three of an MLP, and the hot rows.

    Args:
        transient: bytes that come and go.
        layers: of the model.
    """
    if expands_segments():
        return (128 << 20) + transient // 4
    return (128 << 20) + transient + layers * (4 << 20)
