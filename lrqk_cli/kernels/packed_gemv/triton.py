"""The same in two launches: the vector is spread out, and then every byte of the matrices is read once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.formats import UNIT, PackedFormat
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.packed_gemv.triton_dot import dot_packed_rows

# Rows of a program, which is a single warp, and units of a row that it takes at once, four a lane. More warps
# would pass the vector on through shared memory; with more rows registers do not suffice.
ROWS, CHUNK = 4, 128
_SPREAD_UNITS = 32


@triton.jit
def _spread(row, out, units, UNITS: tl.constexpr):
    unit = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    place = tl.arange(0, 32)
    inside = (unit < units)[:, None] & (place < 32)[None, :]
    numbers = tl.load(row + unit[:, None] * 32 + place[None, :], mask=inside, other=0.0)
    numbers = numbers.to(tl.float32)
    tl.store(out + place[None, :] * units + unit[:, None], numbers, mask=inside)
    is_first = (place < 16)[None, :]
    for half in tl.static_range(0, 2):
        total = tl.sum(tl.where(is_first if half == 0 else is_first == 0, numbers, 0.0), 1)
        tl.store(out + (32 + half) * units + unit, total, mask=unit < units)


def spread(row: Tensor) -> Tensor:
    """Return a vector ``[32 U]`` in float32 as ``[34, U]``, so that neighbouring units lie side by side.

    The last two rows are the sums of the first and the second half of each unit.
    """
    units = row.shape[0] // UNIT
    out = torch.empty(UNIT + 2, units, dtype=torch.float32, device=row.device)
    _spread[(triton.cdiv(units, _SPREAD_UNITS),)](row, out, units, UNITS=_SPREAD_UNITS, num_warps=4)
    return out


def format_code(format: PackedFormat) -> int:
    """Return a number that holds what ``dot_packed_rows`` needs to know of a format."""
    flags = (format.block > UNIT, format.scales > 0, format.has_minimum, format.is_halved)
    return format.bits + (format.zero << 4) + sum(flag << (12 + n) for n, flag in enumerate(flags))


def exponent(matrix: PackedMatrix) -> int:
    """Return the bits of ``2 ** bits`` as a float32, for a matrix whose codes have so many bits."""
    return (127 + matrix.format.bits) << 23


def arguments(matrix: PackedMatrix) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix's parts; a format without small integers has some other tensor in their place."""
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
    out,
    exponent,
    HAS_BIAS: tl.constexpr,
    UNITS: tl.constexpr,
    FORMAT: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Multiply the rows of a matrix that are a program's."""
    member = program * ROWS + tl.arange(0, ROWS)
    total = dot_packed_rows(words, floats, scales, member, rows, vector, exponent, UNITS, FORMAT, ROWS, CHUNK)
    inside = member < rows
    if HAS_BIAS:
        total += tl.load(bias + member, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + member, total.to(out.dtype.element_ty), mask=inside)


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
    out,
    programs_0,
    programs_1,
    rows_0,
    rows_1,
    rows_2,
    exponent_0,
    exponent_1,
    exponent_2,
    UNITS: tl.constexpr,
    FORMAT_0: tl.constexpr,
    FORMAT_1: tl.constexpr,
    FORMAT_2: tl.constexpr,
    BIASES: tl.constexpr,
    ROWS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    program = tl.program_id(0)
    # A branch for each, since formats differ in their instructions.
    if program < programs_0:
        _store_rows(
            words_0, floats_0, scales_0, bias_0, program, rows_0, vector, out,
            exponent_0, BIASES % 2, UNITS, FORMAT_0, ROWS, CHUNK,
        )  # fmt: skip
    elif program < programs_0 + programs_1:
        _store_rows(
            words_1, floats_1, scales_1, bias_1, program - programs_0, rows_1, vector, out + rows_0,
            exponent_1, BIASES // 2 % 2, UNITS, FORMAT_1, ROWS, CHUNK,
        )  # fmt: skip
    else:
        _store_rows(
            words_2, floats_2, scales_2, bias_2, program - programs_0 - programs_1, rows_2, vector,
            out + rows_0 + rows_1, exponent_2, BIASES // 4, UNITS, FORMAT_2, ROWS, CHUNK,
        )  # fmt: skip


def packed_gemv(
    matrices: tuple[PackedMatrix, ...], row: Tensor, out: Tensor, *, biases: tuple[Tensor | None, ...]
) -> None:
    """See the reference; all tensors are contiguous."""
    # Absent ones have no rows; their parts are never read.
    absent = 3 - len(matrices)
    three = (*matrices, *matrices[:1] * absent)
    rows = [*[matrix.rows for matrix in matrices], *[0] * absent]
    programs = [triton.cdiv(count, ROWS) for count in rows]
    units = row.shape[0] // UNIT
    parts: list[Tensor] = []
    for matrix, bias in zip(three, (*biases, *[None] * absent), strict=True):
        parts += [*arguments(matrix), row if bias is None else bias]
    formats = {f"FORMAT_{number}": format_code(matrix.format) for number, matrix in enumerate(three)}
    _packed_gemv[(sum(programs),)](
        *parts,
        spread(row),
        out,
        *programs[:2],
        *rows,
        *map(exponent, three),
        UNITS=units,
        **formats,
        BIASES=sum((bias is not None) << number for number, bias in enumerate(biases)),
        ROWS=ROWS,
        CHUNK=min(CHUNK, triton.next_power_of_2(units)),
        num_warps=1,
    )
