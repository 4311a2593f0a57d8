"""The same in one launch of few programs, for managed memory, see ``memory.managed``.

CUDA's own copies of managed memory either wait on the CPU or, with addresses of the device, hold up other
kernels. A program has 64 KiB on the way at a time, so two keep the link busy, and leave the other
multiprocessors to what runs beside. Bytes: those of the rows, once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.memory.scratch import blocks_of

# Programs; words that one copies at once, and its warps.
_PROGRAMS, _BLOCK, _WARPS = 2, 16384, 16


@triton.jit
def _copy(source, target, heads, words, source_stride, target_stride, BLOCK: tl.constexpr):
    blocks = tl.cdiv(words, BLOCK)
    number = tl.program_id(0)
    while number < heads * blocks:
        head = (number // blocks).to(tl.int64)
        place = number % blocks * BLOCK + tl.arange(0, BLOCK)
        inside = place < words
        part = tl.load(source + head * source_stride + place, mask=inside)
        tl.store(target + head * target_stride + place, part, mask=inside)
        number += tl.num_programs(0)


def copy_to_host(rows: Tensor, host: Tensor) -> None:
    """See the reference; the GPU can read and write ``host``."""
    _launch(rows, host)


def copy_from_host(rows: Tensor, host: Tensor) -> None:
    """See the reference; the GPU can read ``host``."""
    _launch(host, rows)


def _launch(source: Tensor, target: Tensor) -> None:
    source, target = source.flatten(2).view(torch.int32), target.flatten(2).view(torch.int32)
    heads, words = source.shape[0], source[0].numel()
    programs = min(_PROGRAMS, heads * blocks_of(words, _BLOCK))
    _copy[(programs,)](
        source, target, heads, words, source.stride(0), target.stride(0), BLOCK=_BLOCK, num_warps=_WARPS
    )
