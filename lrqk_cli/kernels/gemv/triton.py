"""The same in one launch, a program for a few rows of the matrix, each of which is read once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.primitives import dot_rows

# Numbers of a row that a program takes at once, and rows of a program; see docs/performance.md.
CHUNK = 1024
_FEW_ROWS, _MANY_ROWS, _MANY = 1, 4, 4096


def rows_of_program(rows: int) -> int:
    """Return how many rows a program takes, so that small matrices occupy the GPU too."""
    return _MANY_ROWS if rows >= _MANY else _FEW_ROWS


@triton.jit
def _gemv(
    weight,
    row,
    bias,
    out,
    rows,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    BIAS: tl.constexpr,
):
    member = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    total = dot_rows(weight, member, rows, row, WIDTH, ROWS, CHUNK)
    inside = member < rows
    if BIAS:
        total += tl.load(bias + member, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + member, total.to(out.dtype.element_ty), mask=inside)


def gemv(weight: Tensor, row: Tensor, out: Tensor, *, bias: Tensor | None = None) -> None:
    """See the reference; all tensors are contiguous."""
    rows, width = weight.shape
    taken = rows_of_program(rows)
    _gemv[(triton.cdiv(rows, taken),)](
        weight,
        row,
        out if bias is None else bias,
        out,
        rows,
        WIDTH=width,
        ROWS=taken,
        CHUNK=min(CHUNK, triton.next_power_of_2(width)),
        BIAS=bias is not None,
        num_warps=4,
    )
