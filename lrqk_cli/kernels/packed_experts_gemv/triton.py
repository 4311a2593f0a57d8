"""The same in one launch, which reads the experts' numbers on the device; see ``packed_gemv``."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.formats import UNIT
from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.fixed_point.reference import planes_in
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.packed_gemv.triton import ROWS, arguments, format_code, tiling
from lrqk_cli.kernels.packed_gemv.triton_dot import dot_packed_rows


@triton.jit
def _packed_experts_gemv(
    words,
    floats,
    scales,
    bias,
    chosen,
    vectors,
    out,
    count,
    rows,
    vector_stride,
    HAS_BIAS: tl.constexpr,
    UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    await_launch_before()
    # Adjacent programs take the same rows, so several vectors with the same expert read its rows once.
    number = tl.program_id(0) % count
    expert = tl.load(chosen + number)
    member = tl.program_id(0) // count * ROWS + tl.arange(0, ROWS)
    first = expert * rows
    vector = vectors + number * vector_stride
    total = dot_packed_rows(
        words, floats, scales, first + member, first + rows, vector, UNITS, FORMAT, PLANES, ROWS, CHUNK
    )
    inside = member < rows
    if HAS_BIAS:
        total += tl.load(bias + first + member, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + number * rows + member, total.to(out.dtype.element_ty), mask=inside)


def packed_experts_gemv(
    out: Tensor, matrix: PackedMatrix, chosen: Tensor, vectors: Tensor, *, bias: Tensor | None = None
) -> None:
    """See the reference; all tensors are contiguous."""
    count, rows = out.shape
    units = matrix.width // UNIT
    chunk, warps = tiling(units)
    _packed_experts_gemv[(triton.cdiv(rows, ROWS) * count,)](
        *arguments(matrix),
        out if bias is None else bias,
        chosen,
        vectors,
        out,
        count,
        rows,
        vectors.stride(0) if vectors.shape[0] > 1 else 0,
        HAS_BIAS=bias is not None,
        UNITS=units,
        FORMAT=format_code(matrix.format),
        PLANES=planes_in(vectors),
        ROWS=ROWS,
        CHUNK=chunk,
        num_warps=warps,
        **DEPENDENT,
    )
