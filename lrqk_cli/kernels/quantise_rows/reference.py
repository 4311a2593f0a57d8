"""Write rows as 8-bit numbers with scales."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import StoredRows
from lrqk_cli.kernels.dequantise_rows.reference import values_of


def quantise_rows(
    key: Tensor, value: Tensor, into: StoredRows, position: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Write rows as codes of 8 bits, and return K and V as they will be read back.

    A number x of a row becomes ``code · factor · spread + centre``: centre and spread are the channel's, the
    factor is that of the row's K, or of its V. It is the largest ``|x - centre| / spread`` divided by the
    largest code, rounded up to bfloat16, so that no code saturates; codes are rounded half to even.

    Args:
        key, value: ``[KV, S, d]``.
        into: receives the rows, uint8 ``[KV, n, 2d + 4]``: d codes of K, d codes of V, then both factors as
            bfloat16.
        position: the first row to write, int64 ``[1]``; None for row 0.

    Returns:
        K and V ``[KV, S, d]``, in the dtype of ``key``.
    """
    target, scales = into
    assert scales is not None
    # In place where possible: a segment's rows are large.
    scaled = torch.stack((key, value), dim=2).float()
    scaled.sub_(scales.centre.unsqueeze(1)).div_(scales.spread.unsqueeze(1))
    factor = _rounded_up(scaled.abs().amax(3, keepdim=True) / scales.largest_code)
    scaled.div_(torch.where(factor > 0.0, factor, 1.0))
    codes = (scaled.round_() if scales.code_dtype == torch.int8 else scaled).to(scales.code_dtype)
    del scaled
    first = 0 if position is None else int(position)
    rows = target[:, first : first + key.shape[1]]
    codes_end = 2 * key.shape[2]
    rows[:, :, :codes_end] = codes.flatten(2).view(torch.uint8).to(rows.device)
    rows[:, :, codes_end:] = factor.bfloat16().flatten(2).view(torch.uint8).to(rows.device)
    key, value = values_of(codes, factor, scales).to(key.dtype).unbind(2)
    return key, value


def _rounded_up(numbers: Tensor) -> Tensor:
    """Return float32 numbers, at least 0, rounded up to bfloat16."""
    return ((numbers.view(torch.int32) + 0xFFFF) & ~0xFFFF).view(torch.float32)
