"""The same in one launch, one program per up to 64 units of a row; a lane takes whole words of codes."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.formats import UNIT
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.packed_gemv.triton import arguments, format_code
from lrqk_cli.kernels.packed_gemv.triton_dot import float_of, table_word

# Units per program, limited by registers; 8-bit codes take twice as many words.
_UNITS, _UNITS_OF_8_BITS = 64, 32


@triton.jit
def _values(codes, TABLE: tl.constexpr):
    """Return the values of codes in a 16-byte table."""
    is_lower = codes % 8 < 4
    first = tl.where(is_lower, table_word(TABLE, 0), table_word(TABLE, 1))
    last = tl.where(is_lower, table_word(TABLE, 2), table_word(TABLE, 3))
    return (tl.where(codes < 8, first, last) >> (codes % 4 * 8)) & 255


@triton.jit
def _codes(words, unit, inside, UNITS: tl.constexpr, BITS: tl.constexpr, TABLE: tl.constexpr):
    """Return the codes of units ``[n]``, ``[n, W, 32 / W]``, from W words of codes or of their low bits.

    The codes of a word are consecutive: four in its bytes or low nibbles, then four in its high nibbles.
    """
    WORDS: tl.constexpr = 8 if BITS == 8 else 4
    place = tl.arange(0, WORDS)[None, :]
    number = tl.arange(0, 32 // WORDS)[None, None, :]
    mask = inside[:, None] & (place >= 0)
    word = tl.load(words + place * UNITS + unit[:, None], mask=mask, other=0)[:, :, None]
    byte = number % 4 * 8
    if BITS == 8:
        return (word >> byte) & 255
    codes = (word >> (byte + number // 4 * 4)) & 15
    if TABLE > 0:
        return _values(codes, TABLE)
    group = place[:, :, None] * 2 + number // 4
    if BITS == 5:
        high = tl.load(words + 4 * UNITS + unit[:, None] + place * 0, mask=mask, other=0)[:, :, None]
        codes |= ((high >> (byte + group)) & 1) << 4
    if BITS == 6:
        high = tl.load(words + (4 + place // 2) * UNITS + unit[:, None], mask=mask, other=0)[:, :, None]
        codes |= ((high >> (byte + group % 4 * 2)) & 3) << 4
    return codes


@triton.jit
def _unpack_rows(
    words, floats, scales, rows, out, UNITS: tl.constexpr, FORMAT: tl.constexpr, SHARE: tl.constexpr
):
    BITS: tl.constexpr = FORMAT % 16
    ZERO: tl.constexpr = FORMAT // 16 % 256
    BLOCK: tl.constexpr = 8 if FORMAT // 4096 % 2 == 1 else 1
    HAS_SCALES: tl.constexpr = FORMAT // 8192 % 2 == 1
    HAS_MINIMUM: tl.constexpr = FORMAT // 16384 % 2 == 1
    IS_HALVED: tl.constexpr = FORMAT // 32768 % 2 == 1
    FLOATS: tl.constexpr = 2 if HAS_MINIMUM else 1
    WORDS: tl.constexpr = 8 if BITS == 8 else 4
    number = tl.program_id(0).to(tl.int64)
    row = tl.load(rows + number)
    unit = tl.program_id(1) * SHARE + tl.arange(0, SHARE)
    inside = unit < UNITS
    floats += row * (FLOATS * (UNITS // BLOCK)) + unit // BLOCK
    scales += row * (2 * UNITS) + unit
    codes = _codes(words + row * (BITS * UNITS), unit, inside, UNITS, BITS, FORMAT // 65536) - ZERO
    factor = float_of(tl.load(floats, mask=inside, other=0))
    if IS_HALVED:
        first = factor * tl.load(scales, mask=inside, other=0).to(tl.float32)
        second = factor * tl.load(scales + UNITS, mask=inside, other=0).to(tl.float32)
        is_first = tl.arange(0, WORDS)[None, :, None] < WORDS // 2
        weight = tl.where(is_first, first[:, None, None], second[:, None, None]) * codes.to(tl.float32)
    else:
        if HAS_SCALES:
            factor *= tl.load(scales, mask=inside, other=0).to(tl.float32)
        weight = factor[:, None, None] * codes.to(tl.float32)
    if HAS_MINIMUM:
        least = tl.load(floats + UNITS // BLOCK, mask=inside, other=0.0).to(tl.float32)
        if HAS_SCALES:
            least *= -tl.load(scales + UNITS, mask=inside, other=0).to(tl.float32)
        weight += least[:, None, None]
    place = tl.arange(0, WORDS)[None, :, None] * (32 // WORDS) + tl.arange(0, 32 // WORDS)[None, None, :]
    place += unit[:, None, None] * 32
    tl.store(
        out + number * (32 * UNITS) + place,
        weight.to(out.dtype.element_ty),
        mask=inside[:, None, None] & (place >= 0),
    )


def unpack_rows(out: Tensor, matrix: PackedMatrix, rows: Tensor) -> None:
    """See the reference; all tensors are contiguous."""
    units = matrix.width // UNIT
    share = min(_UNITS_OF_8_BITS if matrix.format.bits == 8 else _UNITS, triton.next_power_of_2(units))
    _unpack_rows[(rows.shape[0], triton.cdiv(units, share))](
        *arguments(matrix),
        rows,
        out,
        UNITS=units,
        FORMAT=format_code(matrix.format),
        SHARE=share,
        num_warps=4,
    )
