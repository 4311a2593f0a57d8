"""The layout of packed 4-bit index codes, which all kernels use.

Byte j of a token holds dimension j in its low half and dimension ``j + r/2`` in its high half, so the low
halves, and the high halves, are contiguous dimensions. A code is stored plus 8.
"""

from __future__ import annotations

import torch
from torch import Tensor

_OFFSET = 8


def largest_code(dtype: torch.dtype) -> int | None:
    """Return the magnitude at which codes of this dtype saturate; None for a floating index."""
    return {torch.uint8: 7, torch.int8: 127}.get(dtype)


def pack_codes(codes: Tensor) -> Tensor:
    """Return uint8 ``[…, r / 2]`` for whole numbers ``[…, r]`` in [-8, 7]."""
    low, high = (codes.to(torch.int16) + _OFFSET).to(torch.uint8).chunk(2, dim=-1)
    return low | (high << 4)


def encoded(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Return k̂ ``[…, r]`` as codes of an index of this dtype, with k̂ for a code of one that broadcasts to it.

    Integers are rounded half to even, and outliers saturate.
    """
    codes = values / scale
    top = largest_code(dtype)
    if top is not None:
        codes = codes.round().clamp(-top, top)
    return (pack_codes(codes) if dtype == torch.uint8 else codes).to(dtype)


def unpack_codes(codes: Tensor) -> Tensor:
    """Return codes ``[…, r]`` in float32 from packed codes (uint8) or plain codes (any other dtype)."""
    if codes.dtype != torch.uint8:
        return codes.float()
    return torch.cat((codes & 15, codes >> 4), dim=-1).float() - _OFFSET
