"""Write a vector in fixed point, with one scale for 32 numbers (a unit).

A product of packed codes with such a vector is exact, and a GPU instruction multiplies four small integers at
once; a float product would first convert every code. Scales are powers of two. A bfloat16 number has 8
significant bits and keeps them all in 16 bits, unless it is 128 times smaller than the largest of its unit;
then its error is below 2⁻¹⁵ of the largest.

The data of a vector of U units are int32 ``[8 planes + 3, U]``. A *plane* has one byte of every number: word
j of a unit has the bytes of the numbers 4 j to 4 j + 3. The first plane has the highest bytes, and is signed.
After the planes come the sums of the integers of a unit's two halves, and the bits of its float32 scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.formats import UNIT

WORDS = UNIT // 4
# The smallest exponent of a unit's largest number; units of smaller numbers use it too.
SMALLEST = -100


def planes_of(dtype: torch.dtype) -> int:
    """Return the bytes per number that make a product as exact as a float32 sum."""
    return 2 if dtype == torch.bfloat16 else 3


def empty_fixed(width: int, dtype: torch.dtype, device: torch.device, *vectors: int) -> Tensor:
    """Return an uninitialised vector for ``width`` numbers of a dtype, or ``vectors`` of them."""
    shape = *vectors, WORDS * planes_of(dtype) + 3, width // UNIT
    return torch.empty(shape, dtype=torch.int32, device=device)


def planes_in(fixed: Tensor) -> int:
    """Return the number of planes of a vector in fixed point."""
    return fixed.shape[-2] // WORDS


def fixed_point(out: Tensor, row: Tensor) -> None:
    """Write vectors in fixed point; a unit with an infinity or NaN gets the scale NaN.

    Args:
        out: from ``empty_fixed``.
        row: ``[width]``, a multiple of 32, or ``[vectors, width]``.
    """
    if row.dim() > 1:
        for vector, numbers in zip(out, row, strict=True):
            fixed_point(vector, numbers)
        return
    planes = planes_in(out)
    bits = 8 * planes
    numbers = row.float().view(-1, UNIT)
    exponent = ((numbers.view(torch.int32) & 0x7FFFFFFF).amax(1) >> 23) - 127
    is_finite = exponent < 128
    exponent = exponent.clamp_min(SMALLEST) - bits + 2
    scale = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)
    limit = (1 << (bits - 1)) - 1
    integers = (numbers / scale[:, None]).round().clamp(-limit, limit).nan_to_num().int()
    for plane in range(planes):
        part = (integers >> (8 * (planes - 1 - plane))).to(torch.uint8)
        out[WORDS * plane : WORDS * (plane + 1)] = part.view(torch.int32).mT
    out[WORDS * planes : WORDS * planes + 2] = integers.unflatten(1, (2, -1)).sum(2, dtype=torch.int32).mT
    scale[~is_finite] = torch.nan
    out[-1] = scale.view(torch.int32)


def numbers_of(fixed: Tensor) -> Tensor:
    """Return the numbers of a vector in fixed point, float32 ``[width]``."""
    planes = planes_in(fixed)
    units = fixed.shape[1]
    integers = torch.zeros(units, UNIT, dtype=torch.int32, device=fixed.device)
    for plane in range(planes):
        words = fixed[WORDS * plane : WORDS * (plane + 1)].mT.contiguous()
        integers = integers << 8 | words.view(torch.int8 if plane == 0 else torch.uint8).int()
    scale = fixed[-1].view(torch.float32)
    return (integers.float() * scale[:, None]).flatten()
