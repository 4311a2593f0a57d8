"""The same in one launch, one program per row; each row is read once and written once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.fixed_point.reference import planes_in
from lrqk_cli.kernels.fixed_point.triton import store_fixed


@triton.jit
def _normalise(
    rows,
    weight,
    out,
    fixed,
    width,
    eps,
    offset,
    WIDTH_PAD: tl.constexpr,
    ROUNDS_FIRST: tl.constexpr,
    PLANES: tl.constexpr,
):
    await_launch_before()
    start = tl.program_id(0).to(tl.int64) * width
    dim = tl.arange(0, WIDTH_PAD)
    inside = dim < width
    row = tl.load(rows + start + dim, mask=inside, other=0.0)
    factor = tl.load(weight + dim, mask=inside, other=0.0).to(tl.float32) + offset
    wide = row.to(tl.float32)
    scaled = wide * (1.0 / tl.sqrt(tl.sum(wide * wide, 0) / width + eps))
    if ROUNDS_FIRST:
        scaled = scaled.to(row.dtype).to(tl.float32)
    result = (scaled * factor).to(row.dtype)
    tl.store(out + start + dim, result, mask=inside)
    if PLANES > 0:
        UNITS: tl.constexpr = WIDTH_PAD // 32
        numbers = tl.reshape(tl.where(inside, result.to(tl.float32), 0.0), [UNITS, 32])
        fixed += tl.program_id(0) * ((8 * PLANES + 3) * (width // 32))
        store_fixed(numbers, fixed, width // 32, tl.arange(0, UNITS), PLANES, UNITS)


def rms_norm(
    rows: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    eps: float,
    offset: float,
    rounds_first: bool,
    fixed: Tensor | None = None,
) -> None:
    """See the reference; all tensors are contiguous."""
    count, width = rows.shape
    width_pad = triton.next_power_of_2(width)
    _normalise[(count,)](
        rows,
        weight,
        out,
        out if fixed is None else fixed,
        width,
        eps,
        offset,
        WIDTH_PAD=width_pad,
        ROUNDS_FIRST=rounds_first,
        PLANES=0 if fixed is None else planes_in(fixed),
        num_warps=min(16, max(1, width_pad // 512)),
        **DEPENDENT,
    )
