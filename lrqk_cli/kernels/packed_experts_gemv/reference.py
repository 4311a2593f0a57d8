"""Multiply the packed matrix of each chosen expert by its vector."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.fixed_point.reference import numbers_of
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.unpack_rows.reference import unpack_rows


def packed_experts_gemv(
    out: Tensor, matrix: PackedMatrix, chosen: Tensor, vectors: Tensor, *, bias: Tensor | None = None
) -> None:
    """Compute ``W_e x_n + b_e`` for the n-th chosen expert e, in float32.

    Args:
        out: receives the results ``[k, rows]``, rounded once.
        matrix: all W, one after the other: ``[experts × rows, width]``; on the device of ``out``, or in
            pinned host memory.
        chosen: numbers of the experts, int64 ``[k]``.
        vectors: x in fixed point, one per expert or one for all: ``[k, …]`` or ``[1, …]``, see
            ``kernels.fixed_point``.
        bias: ``[experts, rows]``, or None.
    """
    rows = out.shape[1]
    for number, expert in enumerate(chosen.tolist()):
        weights = torch.empty(rows, matrix.width, device=out.device)
        unpack_rows(weights, matrix, torch.arange(expert * rows, (expert + 1) * rows, device=out.device))
        product = weights @ numbers_of(vectors[number % vectors.shape[0]])
        out[number] = product if bias is None else product + bias[expert].float()
