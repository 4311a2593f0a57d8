"""Write rows as 8-bit numbers with scales."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import StoredRows
from lrqk_cli.kernels.dequantise_rows.reference import groups_among, values_of
from lrqk_cli.memory.accounting import SCALE_TOKENS


def quantise_rows(
    key: Tensor, value: Tensor, into: StoredRows, first: int = 0, position: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Write rows as codes of 8 bits, and return K and V as they will be read back.

    A number x of a row becomes ``code · factor · spread + centre``: centre and spread are the channel's, for
    the token's scale group of ``SCALE_TOKENS``, and the factor is that of the row's K, or of its V. It is the
    largest ``|x - centre| / spread`` divided by the largest code, rounded up to bfloat16, so that no code
    saturates; codes are rounded half to even.

    Args:
        key, value: ``[KV, S, d]``.
        into: receives the rows, uint8 ``[KV, n, 2d + 4]``: d codes of K, d codes of V, then both factors as
            bfloat16. Its scales are fitted.
        first: the token of row 0 of ``into``, which receives the first row.
        position: of the first token instead, int64 ``[1]``: its number, and the number of its row. A scale
            group that begins with one of the tokens takes the scales of the group before it.

    Returns:
        K and V ``[KV, S, d]``, in the dtype of ``key``.
    """
    target, scales = into
    assert scales is not None
    row = 0
    if position is not None:
        row = first = int(position)
        begun, newest = max(row - 1, 0) // SCALE_TOKENS, (row + key.shape[1] - 1) // SCALE_TOKENS
        scales.channels[:, begun + 1 : newest + 1] = scales.channels[:, begun : begun + 1]
    target = target[:, row : row + key.shape[1]]
    back = torch.stack((key, value), dim=2)
    for group, part in groups_among(first, key.shape[1]):
        centre, spread = scales.of_group(group)
        scaled = (back[:, part].float() - centre).div_(spread)
        factor = _rounded_up(scaled.abs().amax(3, keepdim=True) / scales.largest_code)
        scaled.div_(torch.where(factor > 0.0, factor, 1.0))
        codes = (scaled.round_() if scales.code_dtype == torch.int8 else scaled).to(scales.code_dtype)
        written = torch.cat(
            (codes.flatten(2).view(torch.uint8), factor.bfloat16().flatten(2).view(torch.uint8)), 2
        )
        target[:, part] = written.to(target.device)
        back[:, part] = values_of(codes, factor, centre, spread, key.dtype)
    key, value = back.unbind(2)
    return key, value


def _rounded_up(numbers: Tensor) -> Tensor:
    """Return float32 numbers, at least 0, rounded up to bfloat16."""
    return ((numbers.view(torch.int32) + 0xFFFF) & ~0xFFFF).view(torch.float32)
