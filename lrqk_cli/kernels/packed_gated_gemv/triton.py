"""The same in one launch; see ``packed_gemv``. Results are rounded once, at the end."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.formats import UNIT
from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.fixed_point.reference import planes_in
from lrqk_cli.kernels.gated_gemv.reference import Activation
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.packed_gemv.triton import ROWS, arguments, format_code, tiling
from lrqk_cli.kernels.packed_gemv.triton_dot import dot_packed_rows
from lrqk_cli.kernels.primitives import activated


@triton.jit
def _packed_gated_gemv(
    gate_words,
    gate_floats,
    gate_scales,
    up_words,
    up_floats,
    up_scales,
    vector,
    out,
    count,
    vector_stride,
    rows,
    UNITS: tl.constexpr,
    GATE_FORMAT: tl.constexpr,
    UP_FORMAT: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
    SILU: tl.constexpr,
):
    await_launch_before()
    number = tl.program_id(0) % count
    vector += number * vector_stride
    out += number * rows
    member = tl.program_id(0) // count * ROWS + tl.arange(0, ROWS)
    gated = dot_packed_rows(
        gate_words,
        gate_floats,
        gate_scales,
        member,
        rows,
        vector,
        UNITS,
        GATE_FORMAT,
        PLANES,
        ROWS,
        CHUNK,
    )
    scaled = dot_packed_rows(
        up_words, up_floats, up_scales, member, rows, vector, UNITS, UP_FORMAT, PLANES, ROWS, CHUNK
    )
    result = activated(gated, SILU) * scaled
    tl.store(out + member, result.to(out.dtype.element_ty), mask=member < rows)


def packed_gated_gemv(
    gate: PackedMatrix, up: PackedMatrix, vector: Tensor, out: Tensor, *, activation: Activation
) -> None:
    """See the reference; all tensors are contiguous."""
    units = gate.width // UNIT
    chunk, warps = tiling(units)
    count = out.numel() // gate.rows
    _packed_gated_gemv[(triton.cdiv(gate.rows, ROWS) * count,)](
        *arguments(gate),
        *arguments(up),
        vector,
        out,
        count,
        vector.numel() // count,
        gate.rows,
        UNITS=units,
        GATE_FORMAT=format_code(gate.format),
        UP_FORMAT=format_code(up.format),
        PLANES=planes_in(vector),
        ROWS=ROWS,
        CHUNK=chunk,
        SILU=activation == "silu",
        num_warps=warps,
        **DEPENDENT,
    )
