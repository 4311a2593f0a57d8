"""The same in one launch, which reads k̂ once (4·sets·S·r bytes) and writes the codes once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.codes import largest_code
from lrqk_cli.kernels.primitives import rounded_code

# Codes per program.
_TILE = 2048


@triton.jit
def _load_code(values, scale, token, dim, inside, FIRST: tl.constexpr, RANK: tl.constexpr, TOP: tl.constexpr):
    """Return the codes of the dimensions from ``FIRST`` on; pointers are the set's own."""
    value = tl.load(values + token[:, None] * RANK + FIRST + dim[None, :], mask=inside, other=0.0)
    unit = tl.load(scale + FIRST + dim, mask=FIRST + dim < RANK, other=1.0)
    return rounded_code(tl.div_rn(value, tl.broadcast_to(unit[None, :], value.shape)), TOP)


@triton.jit
def _encode(
    values,
    scale,
    out,
    tokens,
    out_stride,
    RANK: tl.constexpr,
    BYTES: tl.constexpr,
    BYTES_PAD: tl.constexpr,
    BLOCK: tl.constexpr,
    TOP: tl.constexpr,
):
    row_set = tl.program_id(1).to(tl.int64)
    values += row_set * tokens * RANK
    scale += row_set * RANK
    token = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    dim = tl.arange(0, BYTES_PAD)
    inside = (token < tokens)[:, None] & (dim < BYTES)[None, :]
    code = _load_code(values, scale, token, dim, inside, 0, RANK, TOP)
    if out.dtype.element_ty == tl.uint8:
        low = code.to(tl.int32) + 8
        high = _load_code(values, scale, token, dim, inside, BYTES, RANK, TOP).to(tl.int32) + 8
        code = low | (high << 4)
    target = out + row_set * out_stride + token[:, None] * BYTES + dim[None, :]
    tl.store(target, code.to(out.dtype.element_ty), mask=inside)


def encode_codes(values: Tensor, scale: Tensor, out: Tensor) -> None:
    """See the reference."""
    sets, tokens, rank = values.shape
    if not values.numel():
        return
    width = out.shape[2]
    width_pad = triton.next_power_of_2(width)
    block = max(1, _TILE // width_pad)
    _encode[(triton.cdiv(tokens, block), sets)](
        values.contiguous(),
        scale,
        out,
        tokens,
        out.stride(0),
        RANK=rank,
        BYTES=width,
        BYTES_PAD=width_pad,
        BLOCK=block,
        TOP=largest_code(out.dtype) or 0,
        num_warps=4,
    )
