"""How index codes of four bits are packed: all kernels read and write them through this layout.

Byte j of a token holds dimension j in its low half and dimension ``j + r/2`` in its high half, so that both
halves of the bytes are contiguous dimensions. Each is stored with 8 added.
"""

from __future__ import annotations

import torch
from torch import Tensor

_OFFSET = 8


def largest_code(dtype: torch.dtype) -> int | None:
    """Return the magnitude at which codes of this type saturate; None for a floating index."""
    return {torch.uint8: 7, torch.int8: 127}.get(dtype)


def pack_codes(codes: Tensor) -> Tensor:
    """Return uint8 ``[…, r / 2]`` for whole numbers ``[…, r]`` in [-8, 7]."""
    low, high = (codes.to(torch.int16) + _OFFSET).to(torch.uint8).chunk(2, dim=-1)
    return low | (high << 4)


def unpack_codes(codes: Tensor) -> Tensor:
    """Return codes ``[…, r]`` in float32, of packed ones in uint8 or of plain ones in any other type."""
    if codes.dtype != torch.uint8:
        return codes.float()
    return torch.cat((codes & 15, codes >> 4), dim=-1).float() - _OFFSET
