"""The same in one launch, a program for some numbers of a row, which it writes side by side."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.packed_gemv.triton import arguments, format_code

_BLOCK = 1024


@triton.jit
def _codes(words, unit, place, inside, UNITS: tl.constexpr, BITS: tl.constexpr):
    # Codes that follow one another are in the bytes of a word, and four further ones in higher bits.
    group, byte = place // 4, place % 4 * 8
    if BITS == 8:
        word = tl.load(words + group * UNITS + unit, mask=inside, other=0)
        return (word >> byte) & 255
    word = tl.load(words + group // 2 * UNITS + unit, mask=inside, other=0)
    code = (word >> (byte + group % 2 * 4)) & 15
    if BITS == 5:
        high = tl.load(words + 4 * UNITS + unit, mask=inside, other=0)
        code |= ((high >> (byte + group)) & 1) << 4
    if BITS == 6:
        high = tl.load(words + (4 + group // 4) * UNITS + unit, mask=inside, other=0)
        code |= ((high >> (byte + group % 4 * 2)) & 3) << 4
    return code


@triton.jit
def _unpack_rows(
    words, floats, scales, rows, out, UNITS: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr
):
    BITS: tl.constexpr = FORMAT % 16
    ZERO: tl.constexpr = FORMAT // 16 % 256
    SHARE: tl.constexpr = 8 if FORMAT // 4096 % 2 == 1 else 1
    HAS_SCALES: tl.constexpr = FORMAT // 8192 % 2 == 1
    HAS_MINIMUM: tl.constexpr = FORMAT // 16384 % 2 == 1
    IS_HALVED: tl.constexpr = FORMAT // 32768 % 2 == 1
    FLOATS: tl.constexpr = 2 if HAS_MINIMUM else 1
    number = tl.program_id(0)
    row = tl.load(rows + number)
    element = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = element < 32 * UNITS
    unit, place = element // 32, element % 32
    floats += row * (FLOATS * (UNITS // SHARE)) + unit // SHARE
    scales += row * (2 * UNITS) + unit
    code = _codes(words + row * (BITS * UNITS), unit, place, inside, UNITS, BITS) - ZERO
    factor = tl.load(floats, mask=inside, other=0.0).to(tl.float32)
    if IS_HALVED:
        factor *= tl.load(scales + place // 16 * UNITS, mask=inside, other=0).to(tl.float32)
    elif HAS_SCALES:
        factor *= tl.load(scales, mask=inside, other=0).to(tl.float32)
    weight = factor * code.to(tl.float32)
    if HAS_MINIMUM:
        least = tl.load(floats + UNITS // SHARE, mask=inside, other=0.0).to(tl.float32)
        if HAS_SCALES:
            least *= -tl.load(scales + UNITS, mask=inside, other=0).to(tl.float32)
        weight += least
    out += number.to(tl.int64) * (32 * UNITS) + element
    tl.store(out, weight.to(out.dtype.element_ty), mask=inside)


def unpack_rows(out: Tensor, matrix: PackedMatrix, rows: Tensor) -> None:
    """See the reference; all tensors are contiguous."""
    units = matrix.width // 32
    _unpack_rows[(rows.shape[0], triton.cdiv(matrix.width, _BLOCK))](
        *arguments(matrix),
        rows,
        out,
        UNITS=units,
        FORMAT=format_code(matrix.format),
        BLOCK=min(_BLOCK, triton.next_power_of_2(matrix.width)),
        num_warps=4,
    )
