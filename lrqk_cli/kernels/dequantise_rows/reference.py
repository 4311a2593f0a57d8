"""Read rows of 8-bit numbers back."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import StoredRows
from lrqk_cli.memory.accounting import SCALE_TOKENS


def dequantise_rows(stored: StoredRows, out: Tensor, first: int = 0) -> None:
    """Read rows that ``quantise_rows`` has written.

    Args:
        stored: ``rows`` uint8 ``[KV, S, 2d + 4]``, and their scales.
        out: receives K and V ``[KV, S, 2, d]``, in its own dtype.
        first: the token of the first row.
    """
    rows, scales = stored
    assert scales is not None
    for group, part in groups_among(first, rows.shape[1]):
        codes, factor = codes_and_factors(rows[:, part], scales.code_dtype)
        out[:, part] = values_of(codes, factor, *scales.of_group(group), out.dtype)


def groups_among(first: int, count: int) -> Iterator[tuple[int, slice]]:
    """Yield the scale groups of ``count`` tokens from ``first`` on, and the place of each one's tokens."""
    start = first
    while start < first + count:
        group = start // SCALE_TOKENS
        stop = min(first + count, (group + 1) * SCALE_TOKENS)
        yield group, slice(start - first, stop - first)
        start = stop


def codes_and_factors(rows: Tensor, code_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the codes ``[KV, S, 2, d]`` and the factors ``[KV, S, 2, 1]``, float32, of rows."""
    width = (rows.shape[2] - 4) // 2
    factor = rows[:, :, 2 * width :].contiguous().view(torch.bfloat16).unsqueeze(3).float()
    return rows[:, :, : 2 * width].view(code_dtype).unflatten(2, (2, width)), factor


def values_of(codes: Tensor, factor: Tensor, centre: Tensor, spread: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the numbers of codes ``[KV, S, 2, d]``; the dtype's largest, if rounding has passed it."""
    numbers = codes.float().mul_(factor).mul_(spread).add_(centre)
    return numbers.clamp_(-torch.finfo(dtype).max, torch.finfo(dtype).max).to(dtype)
