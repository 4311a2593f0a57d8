"""Multiply packed matrices by a vector, or by a few."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.fixed_point.reference import numbers_of
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.unpack_rows.reference import unpack_rows

# Weights to unpack at once.
_AT_ONCE = 1 << 22


def packed_gemv(
    matrices: tuple[PackedMatrix, ...],
    vector: Tensor,
    out: Tensor,
    *,
    biases: tuple[Tensor | None, ...],
    residual: Tensor | None = None,
) -> None:
    """Compute ``W x + b`` in float32 for up to three W, which may differ in format.

    Args:
        matrices: each W, ``[rows, width]``.
        vector: x in fixed point, see ``kernels.fixed_point``; or several, one after the other.
        out: receives all results, one after the other, rounded once: ``[rows of all W]``, or
            ``[vectors, rows of all W]``.
        biases: b ``[rows]`` of each W, or None.
        residual: added to the rounded results, in the shape of ``out``; the sum is rounded again. Or None.
    """
    if out.dim() > 1:
        residuals = [None] * len(out) if residual is None else list(residual)
        for number, one in enumerate(out):
            packed_gemv(matrices, vector[number], one, biases=biases, residual=residuals[number])
        return
    results, row = [], numbers_of(vector)
    for matrix, bias in zip(matrices, biases, strict=True):
        product = _product(matrix, row)
        results.append(product if bias is None else product + bias.float())
    out.copy_(torch.cat(results))
    if residual is not None:
        out += residual


def _product(matrix: PackedMatrix, row: Tensor) -> Tensor:
    step = max(1, _AT_ONCE // matrix.width)
    parts = []
    for start in range(0, matrix.rows, step):
        rows = torch.arange(start, min(start + step, matrix.rows), device=row.device)
        weights = row.new_empty(rows.shape[0], matrix.width)
        unpack_rows(weights, matrix, rows)
        parts.append(weights @ row)
    return torch.cat(parts)
