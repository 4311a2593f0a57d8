"""The same in one launch; see ``gemv``. Results are rounded once, at the end."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.gated_gemv.reference import Activation
from lrqk_cli.kernels.gemv.triton import CHUNK, rows_of_program
from lrqk_cli.kernels.primitives import activated, dot_rows


@triton.jit
def _gated_gemv(
    gate,
    up,
    row,
    out,
    rows,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    SILU: tl.constexpr,
):
    await_launch_before()
    member = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    gated = dot_rows(gate, member, rows, row, WIDTH, ROWS, CHUNK)
    scaled = dot_rows(up, member, rows, row, WIDTH, ROWS, CHUNK)
    result = activated(gated, SILU) * scaled
    tl.store(out + member, result.to(out.dtype.element_ty), mask=member < rows)


def gated_gemv(gate: Tensor, up: Tensor, row: Tensor, out: Tensor, *, activation: Activation) -> None:
    """See the reference; all tensors are contiguous."""
    rows, width = gate.shape
    taken = rows_of_program(width)
    _gated_gemv[(triton.cdiv(rows, taken),)](
        gate,
        up,
        row,
        out,
        rows,
        WIDTH=width,
        ROWS=taken,
        CHUNK=min(CHUNK, triton.next_power_of_2(width)),
        SILU=activation == "silu",
        num_warps=4,
        **DEPENDENT,
    )
