"""Unpack rows of a packed matrix."""

from __future__ import annotations

from torch import Tensor

from lrqk_cli.kernels.packed import PackedMatrix, codes_of, weights_of


def unpack_rows(out: Tensor, matrix: PackedMatrix, rows: Tensor) -> None:
    """Write some rows of a packed matrix into ``out``, rounded once from float32.

    Args:
        out: receives the weights, ``[n, width]``.
        matrix: see ``kernels.packed``.
        rows: row numbers, int64 ``[n]``.
    """
    parts = codes_of(matrix, rows), matrix.floats[rows], matrix.scales[rows]
    out.copy_(weights_of(matrix.format, *parts))
