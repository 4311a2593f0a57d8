"""The same in one launch and a sum over its programs; it reads each row once for each tile of its set.

A set's result is small and has many terms, so the rows of a set are shared out among programs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.sum_products import reference

# Rows that a program multiplies at once; sides of its tile of the result, at most; programs of a launch, as
# many on every GPU, so that sums do not depend on it.
_ROWS, _SIDE, _PROGRAMS = 64, 128, 128
# Bytes of a number that the kernel takes.
_LARGEST_ITEM = 2


@triton.jit
def _load_shifted(rows, shift, row, dim, inside, row_stride, WIDTH: tl.constexpr, SHIFTS: tl.constexpr):
    """Return rows less their shift in float32, with zeros outside."""
    mask = inside[:, None] & (dim < WIDTH)[None, :]
    found = tl.load(rows + row[:, None] * row_stride + dim[None, :], mask=mask, other=0.0).to(tl.float32)
    if SHIFTS:
        found = tl.where(mask, found - tl.load(shift + dim, mask=dim < WIDTH, other=0.0)[None, :], 0.0)
    return found


@triton.jit
def _sum_products(
    left,
    right,
    left_shift,
    right_shift,
    products,
    sums,
    rows,
    rows_each,
    left_set_stride,
    left_member_stride,
    left_row_stride,
    right_set_stride,
    right_member_stride,
    right_row_stride,
    MEMBERS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    BLOCK: tl.constexpr,
    SHIFTS_LEFT: tl.constexpr,
    SHIFTS_RIGHT: tl.constexpr,
):
    part, tile, row_set = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    side_tiles = tl.cdiv(WIDTH, SIDE)
    left_dim = tile // side_tiles * SIDE + tl.arange(0, SIDE)
    right_dim = tile % side_tiles * SIDE + tl.arange(0, SIDE)
    member = (part % MEMBERS).to(tl.int64)
    start = part // MEMBERS * rows_each
    stop = tl.minimum(rows, start + rows_each)
    left += row_set * left_set_stride + member * left_member_stride
    right += row_set * right_set_stride + member * right_member_stride
    left_shift += row_set * WIDTH
    right_shift += row_set * WIDTH
    product = tl.zeros((SIDE, SIDE), tl.float32)
    total = tl.zeros((SIDE,), tl.float32)
    for first in range(start, stop, BLOCK):
        row = (first + tl.arange(0, BLOCK)).to(tl.int64)
        inside = row < stop
        lefts = _load_shifted(left, left_shift, row, left_dim, inside, left_row_stride, WIDTH, SHIFTS_LEFT)
        rights = _load_shifted(
            right, right_shift, row, right_dim, inside, right_row_stride, WIDTH, SHIFTS_RIGHT
        )
        total += tl.sum(rights, 0)
        kind = left.dtype.element_ty
        product += tl.dot(tl.trans(lefts.to(kind)), rights.to(kind))
    place = row_set * tl.num_programs(0) + part
    inside = (left_dim < WIDTH)[:, None] & (right_dim < WIDTH)[None, :]
    target = products + place * WIDTH * WIDTH + left_dim[:, None] * WIDTH + right_dim[None, :]
    tl.store(target, product, mask=inside)
    if tile < side_tiles:
        tl.store(sums + place * WIDTH + right_dim, total, mask=right_dim < WIDTH)


def sum_products(
    left: Tensor, right: Tensor, left_shift: Tensor | None = None, right_shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """See the reference; rows of more than 16 bits are left to it.

    Two tiles in float32 take more shared memory than most GPUs have, and TF32 would cut numbers off instead
    of rounding them.
    """
    if left.element_size() > _LARGEST_ITEM:
        return reference.sum_products(left, right, left_shift, right_shift)
    sets, members, rows, width = left.shape
    side = max(16, min(_SIDE, triton.next_power_of_2(width)))
    tiles = triton.cdiv(width, side) ** 2
    blocks = max(1, triton.cdiv(rows, _ROWS))
    blocks_each = triton.cdiv(blocks, max(1, _PROGRAMS // (sets * members * tiles)))
    parts = triton.cdiv(blocks, blocks_each) * members
    products = torch.empty(sets, parts, width, width, device=left.device)
    sums = torch.empty(sets, parts, width, device=left.device)
    _sum_products[(parts, tiles, sets)](
        left,
        right,
        # Without a shift any tensor takes its place, and is not read there.
        sums if left_shift is None else left_shift,
        sums if right_shift is None else right_shift,
        products,
        sums,
        rows,
        blocks_each * _ROWS,
        *left.stride()[:3],
        *right.stride()[:3],
        MEMBERS=members,
        WIDTH=width,
        SIDE=side,
        BLOCK=_ROWS,
        SHIFTS_LEFT=left_shift is not None,
        SHIFTS_RIGHT=right_shift is not None,
        num_warps=8 if side > 64 else 4,
        num_stages=2,
    )
    return products.sum(1), sums.sum(1)
