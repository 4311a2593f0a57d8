"""The same in one launch, one program per one or four rows of a matrix; each row is read once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.primitives import dot_rows, store_sum

# Numbers of a row that a program takes at once. A program takes four short rows.
CHUNK = 2048
_SHORT, _SHORT_ROWS = 1024, 4


def rows_of_program(width: int) -> int:
    """Return the number of rows of ``width`` numbers per program."""
    return _SHORT_ROWS if width <= _SHORT else 1


@triton.jit
def _gemv(
    weight_0,
    weight_1,
    weight_2,
    row,
    bias_0,
    bias_1,
    bias_2,
    residual,
    out,
    programs_0,
    programs_1,
    rows_0,
    rows_1,
    rows_2,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    BIASES: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
):
    await_launch_before()
    program = tl.program_id(0)
    is_first = program < programs_0
    is_last = program >= programs_0 + programs_1
    weight = tl.where(is_first, weight_0, tl.where(is_last, weight_2, weight_1))
    rows = tl.where(is_first, rows_0, tl.where(is_last, rows_2, rows_1))
    program -= tl.where(is_first, 0, tl.where(is_last, programs_0 + programs_1, programs_0))
    place = tl.where(is_first, 0, tl.where(is_last, rows_0 + rows_1, rows_0))
    member = program * ROWS + tl.arange(0, ROWS)
    inside = member < rows
    total = dot_rows(weight, member, rows, row, WIDTH, ROWS, CHUNK)
    if BIASES > 0:
        bias = tl.where(is_first, bias_0, tl.where(is_last, bias_2, bias_1))
        # A matrix without a bias has zero biased rows, so the mask skips its loads.
        rows_1 *= BIASES // 2 % 2
        biased = tl.where(is_first, rows_0 * (BIASES % 2), tl.where(is_last, rows_2 * (BIASES // 4), rows_1))
        total += tl.load(bias + member, mask=member < biased, other=0.0).to(tl.float32)
    store_sum(total, residual, out, place + member, inside, HAS_RESIDUAL)


def gemv(
    weights: tuple[Tensor, ...],
    row: Tensor,
    out: Tensor,
    *,
    biases: tuple[Tensor | None, ...],
    residual: Tensor | None = None,
) -> None:
    """See the reference; all tensors are contiguous, and weights and biases have one dtype."""
    width = row.shape[0]
    taken = rows_of_program(width)
    rows = [weight.shape[0] for weight in weights]
    programs = [triton.cdiv(count, taken) for count in rows]
    absent = 3 - len(weights)
    _gemv[(sum(programs),)](
        *weights,
        *[weights[0]] * absent,
        row,
        *[weights[0] if bias is None else bias for bias in biases],
        *[weights[0]] * absent,
        out if residual is None else residual,
        out,
        *[*programs, 0, 0][:2],
        *rows,
        *[0] * absent,
        WIDTH=width,
        ROWS=taken,
        CHUNK=min(CHUNK, triton.next_power_of_2(width)),
        BIASES=sum((bias is not None) << number for number, bias in enumerate(biases)),
        HAS_RESIDUAL=residual is not None,
        num_warps=4,
        **DEPENDENT,
    )
