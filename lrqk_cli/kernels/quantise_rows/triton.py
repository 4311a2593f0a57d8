"""The same in one launch, one program per row of a KV head. Bytes: K and V twice, and the rows once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.buffers import StoredRows
from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.dequantise_rows.triton import INT8_ROWS, rounded_for, row_format, value_of_code
from lrqk_cli.memory.accounting import SCALE_TOKENS


@triton.jit
def _code_of(number, FORMAT: tl.constexpr):
    """Return the codes in uint8 of float32 numbers, rounded half to even."""
    if FORMAT == INT8_ROWS:
        # Adding 1.5·2^23 leaves no bits for a fraction.
        return ((number + 12582912.0) - 12582912.0).to(tl.int8).to(tl.uint8, bitcast=True)
    bits = number.to(tl.int32, bitcast=True)
    size = tl.abs(number)
    magnitude = bits & 0x7FFFFFFF
    # e4m3 has 3 bits of fraction and its exponents are 120 less than float32's; below 2^-6 its numbers are
    # multiples of 2^-9.
    normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120 << 3)
    subnormal = ((size * 512.0 + 12582912.0) - 12582912.0).to(tl.int32)
    code = tl.where(size < 0.015625, subnormal, normal) | ((bits >> 24) & 128)
    return code.to(tl.uint8)


@triton.jit
def _quantise_half(
    vector,
    channels,
    own_channels,
    codes,
    factors,
    back,
    WIDTH: tl.constexpr,
    PAD: tl.constexpr,
    LARGEST: tl.constexpr,
    FORMAT: tl.constexpr,
    COPIES: tl.constexpr,
):
    """Quantise K, or V, of a row; ``back`` receives it as it will be read back."""
    dim = tl.arange(0, PAD)
    inside = dim < WIDTH
    centre = tl.load(channels + dim, mask=inside, other=0.0)
    spread = tl.load(channels + 2 * WIDTH + dim, mask=inside, other=1.0)
    if COPIES:
        tl.store(own_channels + dim, centre, mask=inside)
        tl.store(own_channels + 2 * WIDTH + dim, spread, mask=inside)
    middle = centre.to(tl.float32)
    wide = spread.to(tl.float32)
    relative = tl.div_rn(tl.load(vector + dim, mask=inside, other=0.0).to(tl.float32) - middle, wide)
    relative = tl.where(inside, relative, 0.0)
    # The maximum ignores NaN; this sum is zero unless a number is not finite, and then the whole row is NaN.
    top = tl.max(tl.abs(relative), 0) + tl.sum(relative - relative, 0)
    # Rounded up to bfloat16, so that no code saturates. A GPU's NaN has all bits set and would become zero.
    bits = ((tl.div_rn(top, LARGEST)).to(tl.int32, bitcast=True) + 0xFFFF) & -65536
    bits = tl.where(top == top, bits, 0x7FC00000)
    factor = bits.to(tl.float32, bitcast=True)
    code = _code_of(tl.div_rn(relative, tl.where(factor > 0.0, factor, 1.0)), FORMAT)
    tl.store(codes + dim, code, mask=inside)
    tl.store(factors, (bits >> 16).to(tl.int16))
    value = tl.fma(value_of_code(code, FORMAT) * factor, wide, middle)
    tl.store(back + dim, rounded_for(value, back), mask=inside)


@triton.jit
def _quantise(
    key,
    value,
    rows,
    factors,
    channels,
    groups,
    position,
    key_back,
    value_back,
    key_head_stride,
    key_stride,
    value_head_stride,
    value_stride,
    head_stride,
    first,
    length,
    WIDTH: tl.constexpr,
    PAD: tl.constexpr,
    LARGEST: tl.constexpr,
    FORMAT: tl.constexpr,
    HAS_POSITION: tl.constexpr,
    SCALE_TOKENS: tl.constexpr,
):
    await_launch_before()
    number = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    row = number
    token = first + number
    begun = token // SCALE_TOKENS
    if HAS_POSITION:
        start = tl.load(position)
        row += start
        token = row
        # A scale group that begins with one of the tokens takes the scales of the group before it.
        begun = tl.maximum(start - 1, 0) // SCALE_TOKENS
    group = token // SCALE_TOKENS
    own = channels + (head * groups + group) * (4 * WIDTH)
    source = channels + (head * groups + (tl.minimum(group, begun) if HAS_POSITION else group)) * (4 * WIDTH)
    rows += head * head_stride + row * (2 * WIDTH + 4)
    factors += head * (head_stride // 2) + row * (WIDTH + 2) + WIDTH
    place = (head * length + number) * WIDTH
    # fmt: off
    _quantise_half(
        key + head * key_head_stride + number * key_stride, source, own, rows, factors, key_back + place,
        WIDTH, PAD, LARGEST, FORMAT, HAS_POSITION,
    )
    _quantise_half(
        value + head * value_head_stride + number * value_stride, source + WIDTH, own + WIDTH, rows + WIDTH,
        factors + 1, value_back + place, WIDTH, PAD, LARGEST, FORMAT, HAS_POSITION,
    )
    # fmt: on


def quantise_rows(
    key: Tensor, value: Tensor, into: StoredRows, first: int = 0, position: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See the reference; the GPU can write ``into.rows``. The last dimensions are contiguous."""
    heads, length, width = key.shape
    assert into.scales is not None
    back = torch.empty(2, heads, length, width, dtype=key.dtype, device=key.device)
    _quantise[(length, heads)](
        key,
        value,
        *into.parts,
        key if position is None else position,
        back[0],
        back[1],
        *key.stride()[:2],
        *value.stride()[:2],
        into.rows.stride(0),
        first,
        length,
        WIDTH=width,
        PAD=triton.next_power_of_2(width),
        LARGEST=into.scales.largest_code,
        FORMAT=row_format(into),
        HAS_POSITION=position is not None,
        SCALE_TOKENS=SCALE_TOKENS,
        num_warps=1,
        **DEPENDENT,
    )
    return back[0], back[1]
