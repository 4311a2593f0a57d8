"""Read rows of 8-bit numbers back."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import RowScales, StoredRows


def dequantise_rows(stored: StoredRows, out: Tensor) -> None:
    """Read rows that ``quantise_rows`` has written.

    Args:
        stored: ``rows`` uint8 ``[KV, S, 2d + 4]``, and their scales.
        out: receives K and V ``[KV, S, 2, d]``, in its own dtype.
    """
    rows, scales = stored
    assert scales is not None
    width = out.shape[3]
    codes = rows[:, :, : 2 * width].view(scales.code_dtype).unflatten(2, (2, width))
    factor = rows[:, :, 2 * width :].contiguous().view(torch.bfloat16).unsqueeze(3)
    out.copy_(values_of(codes, factor.float(), scales))


def values_of(codes: Tensor, factor: Tensor, scales: RowScales) -> Tensor:
    """Return the numbers of codes ``[KV, S, 2, d]`` with the scales ``factor`` ``[KV, S, 2, 1]``, float32."""
    return codes.float().mul_(factor).mul_(scales.spread.unsqueeze(1)).add_(scales.centre.unsqueeze(1))
