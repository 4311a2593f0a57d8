"""Unpack rows of a matrix."""

from __future__ import annotations

from torch import Tensor

from lrqk_cli.formats import UNIT
from lrqk_cli.kernels.packed import PackedMatrix, codes_of


def unpack_rows(out: Tensor, matrix: PackedMatrix, rows: Tensor) -> None:
    """Write some rows of a matrix into ``out``, rounded once from float32.

    Args:
        out: ``[n, width]``.
        matrix: see ``kernels.packed``.
        rows: their numbers, int64 ``[n]``.
    """
    codes = codes_of(matrix, rows).view(out.shape[0], -1, UNIT)
    scale, minimum = _factors(matrix, rows)
    weights = scale * (codes.float() - matrix.format.zero)
    if minimum is not None:
        weights -= minimum
    out.copy_(weights.flatten(1))


def _factors(matrix: PackedMatrix, rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return s and m of some rows, float32 ``[n, U, 1]``; s of halves is ``[n, U, 32]``, m may be absent."""
    format = matrix.format
    floats = matrix.floats[rows].float().repeat_interleave(format.block // UNIT, 2)
    if format.is_halved:
        scales = matrix.scales[rows].float()
        return (floats * scales).mT.repeat_interleave(UNIT // 2, 2), None
    scale = floats[:, 0]
    minimum = -floats[:, 1] if format.has_minimum else None
    if format.scales:
        small = matrix.scales[rows].float()
        scale = scale * small[:, 0]
        minimum = floats[:, 1] * small[:, 1]
    return scale.unsqueeze(2), None if minimum is None else minimum.unsqueeze(2)
