"""The same in one launch, one program per 8 units; other kernels call ``store_fixed`` for their results."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.formats import UNIT
from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.fixed_point.reference import planes_in

_UNITS = 8


@triton.jit
def store_fixed(numbers, out, units, unit, PLANES: tl.constexpr, UNITS: tl.constexpr):
    """Write units of 32 numbers, float32 ``[UNITS, 32]``, in fixed point; see the reference."""
    BITS: tl.constexpr = 8 * PLANES
    LIMIT: tl.constexpr = (1 << (BITS - 1)) - 1
    # Compare bits, not floats: the bits of a NaN exceed those of all numbers, so the maximum finds it.
    exponent = (tl.max(numbers.to(tl.int32, bitcast=True) & 0x7FFFFFFF, 1) >> 23) - 127
    is_finite = exponent < 128
    numbers = tl.where(is_finite[:, None], numbers, 0.0)
    exponent = tl.maximum(exponent, -100) - BITS + 2
    inverse = ((127 - exponent) << 23).to(tl.float32, bitcast=True)
    scaled = numbers * inverse[:, None]
    scaled = tl.minimum(tl.maximum(scaled + tl.where(scaled < 0, -0.5, 0.5), -LIMIT), LIMIT)
    integers = scaled.to(tl.int32)
    inside = unit < units
    words = tl.reshape(integers, [UNITS, 8, 4])
    shift = tl.arange(0, 4)[None, None, :] * 8
    place = out + tl.arange(0, 8)[None, :] * units + unit[:, None]
    for plane in tl.static_range(0, PLANES):
        part = ((words >> (BITS - 8 - 8 * plane)) & 255) << shift
        tl.store(place + plane * 8 * units, tl.sum(part, 2), mask=inside[:, None])
    halves = tl.sum(tl.reshape(integers, [UNITS, 2, 16]), 2)
    place = out + (8 * PLANES + tl.arange(0, 2))[None, :] * units + unit[:, None]
    tl.store(place, halves, mask=inside[:, None])
    # The scale is NaN if a number of the unit is infinite or NaN.
    scale = tl.where(is_finite, (127 + exponent) << 23, 0x7FC00000)
    tl.store(out + (8 * PLANES + 2) * units + unit, scale, mask=inside)


@triton.jit
def _fixed_point(row, out, units, PLANES: tl.constexpr, UNITS: tl.constexpr):
    await_launch_before()
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    row += tl.program_id(1) * units * 32
    out += tl.program_id(1) * units * (8 * PLANES + 3)
    place = unit[:, None] * 32 + tl.arange(0, 32)[None, :]
    numbers = tl.load(row + place, mask=(unit < units)[:, None], other=0.0).to(tl.float32)
    store_fixed(numbers, out, units, unit, PLANES, UNITS)


def fixed_point(out: Tensor, row: Tensor) -> None:
    """See the reference; all tensors are contiguous."""
    units = row.shape[-1] // UNIT
    vectors = row.numel() // row.shape[-1]
    _fixed_point[(triton.cdiv(units, _UNITS), vectors)](
        row, out, units, PLANES=planes_in(out), UNITS=_UNITS, num_warps=1, **DEPENDENT
    )
