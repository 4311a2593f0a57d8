"""Scale rows by their root mean square (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.fixed_point.reference import fixed_point


def rms_norm(
    rows: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    eps: float,
    offset: float,
    rounds_first: bool,
    fixed: Tensor | None = None,
) -> None:
    """Compute ``x / sqrt(mean(x²) + eps) · (offset + weight)`` for each row, in float32.

    Models differ in where they round, and some store the weight minus one.

    Args:
        rows: ``[rows, width]``.
        weight: ``[width]``.
        out: receives the result, in the rows' shape and dtype.
        eps: added to the mean square.
        offset: 0 or 1.
        rounds_first: round to the dtype also before multiplying by the weight.
        fixed: receives the rounded rows in fixed point too, one after the other; see ``kernels.fixed_point``.
    """
    wide = rows.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    if rounds_first:
        scaled = scaled.to(rows.dtype).float()
    out.copy_(scaled * (weight.float() + offset))
    if fixed is not None:
        fixed_point(fixed.view(len(out), -1, fixed.shape[-1]), out)
