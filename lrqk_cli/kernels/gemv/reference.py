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
    """Compute ``W x + b`` for up to three W, summed in float32 where the element type has less.

    Args:
        weights: each W, ``[rows, width]``.
        row: x, ``[width]``.
        out: all results, one after the other.
        biases: of each W its b, ``[rows]``, or None.
        residual: what is added to the rounded results, in the shape of ``out``, and rounded again; or None.
    """
    results = [linear(row, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
    out.copy_(torch.cat(results))
    if residual is not None:
        out += residual
