"""The same in one launch, a program a row; each row is read once and written once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _normalise(
    rows,
    weight,
    out,
    width,
    eps,
    offset,
    WIDTH_PAD: tl.constexpr,
    ROUNDS_FIRST: tl.constexpr,
):
    start = tl.program_id(0).to(tl.int64) * width
    dim = tl.arange(0, WIDTH_PAD)
    inside = dim < width
    row = tl.load(rows + start + dim, mask=inside, other=0.0)
    factor = tl.load(weight + dim, mask=inside, other=0.0).to(tl.float32) + offset
    wide = row.to(tl.float32)
    scaled = wide * (1.0 / tl.sqrt(tl.sum(wide * wide, 0) / width + eps))
    if ROUNDS_FIRST:
        scaled = scaled.to(row.dtype).to(tl.float32)
    tl.store(out + start + dim, (scaled * factor).to(row.dtype), mask=inside)


def rms_norm(
    rows: Tensor, weight: Tensor, out: Tensor, *, eps: float, offset: float, rounds_first: bool
) -> None:
    """See the reference; all tensors are contiguous."""
    count, width = rows.shape
    width_pad = triton.next_power_of_2(width)
    _normalise[(count,)](
        rows,
        weight,
        out,
        width,
        eps,
        offset,
        WIDTH_PAD=width_pad,
        ROUNDS_FIRST=rounds_first,
        num_warps=min(16, max(1, width_pad // 256)),
    )
