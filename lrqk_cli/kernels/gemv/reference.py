"""Multiply matrices by a vector."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear


def gemv(
    weights: tuple[Tensor, ...],
    row: Tensor,
    out: Tensor,
    *,
    biases: tuple[Tensor | None, ...],
    residual: Tensor | None = None,
) -> None:
    """Compute ``W x + b`` for up to three W, summed in at least float32.

    Args:
        weights: each W, ``[rows, width]``.
        row: x, ``[width]``.
        out: receives all results, one after the other.
        biases: b ``[rows]`` of each W, or None.
        residual: added to the rounded results, in the shape of ``out``; the sum is rounded again. Or None.
    """
    results = [linear(row, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    out.copy_(torch.cat(results))
    if residual is not None:
        out += residual
