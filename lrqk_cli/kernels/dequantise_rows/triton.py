"""The same in one launch; a program reads four rows. Bytes: the rows once, and 2·d numbers out."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.buffers import StoredRows
from lrqk_cli.memory.accounting import SCALE_TOKENS
from lrqk_cli.memory.scratch import blocks_of

_ROWS = 4
# Formats of rows, which kernels are compiled for.
PLAIN_ROWS, INT8_ROWS, FP8_ROWS = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


def row_format(stored: StoredRows) -> int:
    """Return the number of the rows' format."""
    if stored.scales is None:
        return int(PLAIN_ROWS.value)
    return int((INT8_ROWS if stored.scales.kv_dtype == "int8" else FP8_ROWS).value)


@triton.jit
def float_of_bfloat16(bits):
    """Return the float32 numbers of the bits of bfloat16 numbers in int16."""
    return (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def value_of_code(code, FORMAT: tl.constexpr):
    """Return the float32 numbers of codes in uint8."""
    if FORMAT == INT8_ROWS:
        return code.to(tl.int8, bitcast=True).to(tl.float32)
    # The bits of e4m3, moved up, are those of a float16 number 2^8 times as small. GPUs before Ada and Hopper
    # have no instruction for this type.
    bits = code.to(tl.uint16)
    moved = ((bits & 128) << 8) | ((bits & 127) << 7)
    return moved.to(tl.float16, bitcast=True).to(tl.float32) * 256.0


@triton.jit
def rounded_for(numbers, pointer):
    """Return float32 numbers in the type that ``pointer`` points to; its largest, if rounding has passed it.

    The other types reach as far as float32.
    """
    if pointer.dtype.element_ty == tl.float16:
        numbers = tl.clamp(numbers, -65504.0, 65504.0, propagate_nan=tl.PropagateNan.ALL)
    return numbers.to(pointer.dtype.element_ty)


@triton.jit
def load_rows(
    rows,
    factors,
    channels,
    row,
    token,
    inside,
    part,
    mask,
    WIDTH: tl.constexpr,
    FORMAT: tl.constexpr,
    SCALE_TOKENS: tl.constexpr,
):
    """Return rows ``[n, 2d]`` in float32; ``rows``, ``factors`` (the same in int16) and ``channels`` point to
    those of the KV head.

    Args:
        row, token: int64 ``[n]``, the number of the row and of its token; inside: whether to load it.
        part: the place in a row ``[1, 2d]``; mask: ``[n, 2d]``, what to load.
    """
    codes = tl.load(rows + row[:, None] * (2 * WIDTH + 4) + part, mask=mask, other=0)
    place = factors + row * (WIDTH + 2) + WIDTH
    of_key = float_of_bfloat16(tl.load(place, mask=inside, other=0))
    of_value = float_of_bfloat16(tl.load(place + 1, mask=inside, other=0))
    factor = tl.where(part < WIDTH, of_key[:, None], of_value[:, None])
    centre = channels + (token // SCALE_TOKENS)[:, None] * (4 * WIDTH) + part
    middle = tl.load(centre, mask=mask, other=0.0).to(tl.float32)
    wide = tl.load(centre + 2 * WIDTH, mask=mask, other=0.0).to(tl.float32)
    # Fused in all kernels, so that all read the same numbers.
    return tl.fma(value_of_code(codes, FORMAT) * factor, wide, middle)


@triton.jit
def _dequantise(
    rows,
    factors,
    channels,
    groups,
    out,
    first,
    count,
    head_stride,
    out_head_stride,
    WIDTH: tl.constexpr,
    PAD: tl.constexpr,
    ROWS: tl.constexpr,
    FORMAT: tl.constexpr,
    SCALE_TOKENS: tl.constexpr,
):
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part = tl.arange(0, PAD)[None, :]
    inside = row < count
    mask = inside[:, None] & (part < 2 * WIDTH)
    numbers = load_rows(
        rows + head * head_stride,
        factors + head * (head_stride // 2),
        channels + head * groups * (4 * WIDTH),
        row,
        first + row,
        inside,
        part,
        mask,
        WIDTH,
        FORMAT,
        SCALE_TOKENS,
    )
    place = out + head * out_head_stride + row[:, None] * (2 * WIDTH) + part
    tl.store(place, rounded_for(numbers, out), mask=mask)


def dequantise_rows(stored: StoredRows, out: Tensor, first: int = 0) -> None:
    """See the reference; the rows of a head are contiguous."""
    heads, count, _, width = out.shape
    _dequantise[(blocks_of(count, _ROWS), heads)](
        *stored.parts,
        out,
        first,
        count,
        stored.rows.stride(0),
        out.stride(0),
        WIDTH=width,
        PAD=triton.next_power_of_2(2 * width),
        ROWS=_ROWS,
        FORMAT=row_format(stored),
        SCALE_TOKENS=SCALE_TOKENS,
        num_warps=4,
    )
