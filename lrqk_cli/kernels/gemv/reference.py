"""Multiply a matrix by a vector."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import linear


def gemv(weight: Tensor, row: Tensor, out: Tensor, *, bias: Tensor | None = None) -> None:
    """Compute ``W x + b``, summed in float32 where the element type has less.

    Args:
        weight: W, ``[rows, width]``.
        row: x, ``[width]``.
        out: ``[rows]``.
        bias: b, ``[rows]``.
    """
    out.copy_(linear(row, weight, bias))
