"""The same in one launch, in which every byte of the matrices is read once."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.formats import UNIT, PackedFormat
from lrqk_cli.kernels.dependent_launch import DEPENDENT, await_launch_before
from lrqk_cli.kernels.fixed_point.reference import planes_in
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.packed_gemv.triton_dot import dot_packed_rows
from lrqk_cli.kernels.primitives import store_sum

# Rows per program; more rows would need too many registers.
ROWS = 2
# Units that a warp takes at once, four per lane, and the most warps of a program.
_WARP_UNITS, _WARPS = 128, 4


def tiling(units: int) -> tuple[int, int]:
    """Return the units of a row that a program takes at once, and its number of warps.

    Warps take different units of the same rows. So no warp passes the vector to another through shared
    memory, and the loads of a row are all in flight at once.
    """
    if units < _WARP_UNITS:
        return max(32, triton.next_power_of_2(units)), 1
    warps = _WARPS
    # Halve the warps until they leave no more idle units than a single warp.
    while warps > 1 and _taken(units, warps) > _taken(units, 1):
        warps //= 2
    return warps * _WARP_UNITS, warps


def _taken(units: int, warps: int) -> int:
    """Return the units that ``warps`` warps take for a row, with idle ones."""
    chunk = warps * _WARP_UNITS
    return -(-units // chunk) * chunk


def format_code(format: PackedFormat) -> int:
    """Return the fields of a format that ``dot_packed_rows`` needs, in one number.

    From the lowest bits on: 4 bits for ``bits``, 8 for ``zero``, four flags, and 16 bytes for the table, each
    a value plus ``zero``; 0 without a table.
    """
    flags = (format.block > UNIT, format.scales > 0, format.has_minimum, format.is_halved)
    table = int.from_bytes((value + format.zero for value in format.values), "little")
    known = format.bits + (format.zero << 4) + sum(flag << (12 + n) for n, flag in enumerate(flags))
    return known + (table << 16)


def arguments(matrix: PackedMatrix) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix's parts; without integer scales, ``words`` takes their place and is not read."""
    return matrix.words, matrix.floats, matrix.scales if matrix.format.scales else matrix.words


@triton.jit
def _store_rows(
    words,
    floats,
    scales,
    bias,
    program,
    rows,
    vector,
    residual,
    out,
    place,
    HAS_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Multiply a program's rows of a matrix; the matrix's results begin at ``place`` in ``out``."""
    member = program * ROWS + tl.arange(0, ROWS)
    total = dot_packed_rows(words, floats, scales, member, rows, vector, UNITS, FORMAT, PLANES, ROWS, CHUNK)
    inside = member < rows
    if HAS_BIAS:
        total += tl.load(bias + member, mask=inside, other=0.0).to(tl.float32)
    store_sum(total, residual, out, place + member, inside, HAS_RESIDUAL)


@triton.jit
def _packed_gemv(
    words_0,
    floats_0,
    scales_0,
    bias_0,
    words_1,
    floats_1,
    scales_1,
    bias_1,
    words_2,
    floats_2,
    scales_2,
    bias_2,
    vector,
    residual,
    out,
    count,
    vector_stride,
    out_stride,
    programs_0,
    programs_1,
    rows_0,
    rows_1,
    rows_2,
    UNITS: tl.constexpr,
    FORMAT_0: tl.constexpr,
    FORMAT_1: tl.constexpr,
    FORMAT_2: tl.constexpr,
    BIASES: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    PLANES: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    await_launch_before()
    # Adjacent programs take the same rows, so several vectors read them once from the memory.
    number = tl.program_id(0) % count
    program = tl.program_id(0) // count
    vector += number * vector_stride
    residual += number * out_stride
    out += number * out_stride
    # One branch per matrix, because formats differ in their instructions.
    if program < programs_0:
        _store_rows(
            words_0, floats_0, scales_0, bias_0, program, rows_0, vector, residual, out, 0,
            BIASES % 2, HAS_RESIDUAL, UNITS, FORMAT_0, PLANES, ROWS, CHUNK,
        )  # fmt: skip
    elif program < programs_0 + programs_1:
        _store_rows(
            words_1, floats_1, scales_1, bias_1, program - programs_0, rows_1, vector, residual, out,
            rows_0, BIASES // 2 % 2, HAS_RESIDUAL, UNITS, FORMAT_1, PLANES, ROWS, CHUNK,
        )  # fmt: skip
    else:
        _store_rows(
            words_2, floats_2, scales_2, bias_2, program - programs_0 - programs_1, rows_2, vector,
            residual, out, rows_0 + rows_1, BIASES // 4, HAS_RESIDUAL, UNITS, FORMAT_2, PLANES, ROWS, CHUNK,
        )  # fmt: skip


def packed_gemv(
    matrices: tuple[PackedMatrix, ...],
    vector: Tensor,
    out: Tensor,
    *,
    biases: tuple[Tensor | None, ...],
    residual: Tensor | None = None,
) -> None:
    """See the reference; all tensors are contiguous."""
    # An absent matrix has no rows, so its parts are never read.
    absent = 3 - len(matrices)
    three = (*matrices, *matrices[:1] * absent)
    rows = [*[matrix.rows for matrix in matrices], *[0] * absent]
    programs = [triton.cdiv(count, ROWS) for count in rows]
    parts: list[Tensor] = []
    for matrix, bias in zip(three, (*biases, *[None] * absent), strict=True):
        parts += [*arguments(matrix), out if bias is None else bias]
    formats = {f"FORMAT_{number}": format_code(matrix.format) for number, matrix in enumerate(three)}
    units = matrices[0].width // UNIT
    chunk, warps = tiling(units)
    count = out.numel() // sum(rows)
    _packed_gemv[(sum(programs) * count,)](
        *parts,
        vector,
        out if residual is None else residual,
        out,
        count,
        vector.numel() // count,
        sum(rows),
        *programs[:2],
        *rows,
        UNITS=units,
        **formats,
        BIASES=sum((bias is not None) << number for number, bias in enumerate(biases)),
        HAS_RESIDUAL=residual is not None,
        PLANES=planes_in(vector),
        ROWS=ROWS,
        CHUNK=chunk,
        num_warps=warps,
        **DEPENDENT,
    )
