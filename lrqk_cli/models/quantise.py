"""Quantises weights to 4 to 8 bits, without calibration data.

Scales are found by search (``kernels.fit_scales``), as llama.cpp does without an importance matrix; unlike
llama.cpp, formats without a minimum do not weight large numbers more. docs/quality.md compares the two.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli import kernels
from lrqk_cli.formats import UNIT, PackedFormat
from lrqk_cli.kernels.fit_scales import nearest_codes
from lrqk_cli.kernels.packed import PackedMatrix, empty_matrix, pack

# Weights packed at a time: temporary tensors take some thirty bytes per weight.
_AT_ONCE = 1 << 22
# Largest integers of packed scales: 6-bit scales and minima, and signed 8-bit scales.
_SIX_BITS, _EIGHT_BITS = 63, 127


def quantise(format: PackedFormat, weights: Tensor) -> PackedMatrix:
    """Pack a matrix ``[rows, width]`` on its device."""
    rows, width = weights.shape
    matrix = empty_matrix(format, rows, width, weights.device)
    step = max(1, _AT_ONCE // width)
    for start in range(0, rows, step):
        matrix.put(start, _packed(format, weights[start : start + step].float().contiguous()))
    return matrix


def _packed(format: PackedFormat, weights: Tensor) -> PackedMatrix:
    if format.has_minimum:
        return _with_minimum(format, weights)
    group = UNIT // 2 if format.is_halved else UNIT
    grouped = weights.unflatten(1, (-1, group))
    scale = torch.empty(grouped.shape[:2], device=weights.device)
    kernels.fit_scales(scale.view(-1), grouped.flatten(0, 1), zero=format.zero)
    small = None
    if format.is_halved:
        # The largest scale of each block gets the largest integer.
        scale = scale.unflatten(1, (-1, format.block // group))
        d = (scale.abs().amax(2) / _EIGHT_BITS).half()
        integers = nearest_codes(scale, d.float()[:, :, None], -_EIGHT_BITS - 1, _EIGHT_BITS)
        scale = (d.float()[:, :, None] * integers).flatten(1)
        small = integers.flatten(1).unflatten(1, (-1, 2)).mT.to(torch.int8)
        floats = d[:, None]
    else:
        floats = scale.half()[:, None]
        scale = floats[:, 0].float()
    codes = nearest_codes(grouped, scale[:, :, None], -format.zero, format.zero - 1) + format.zero
    return pack(format, codes.flatten(1).to(torch.uint8), floats, small)


def _with_minimum(format: PackedFormat, weights: Tensor) -> PackedMatrix:
    most = (1 << format.bits) - 1
    grouped = weights.unflatten(1, (-1, UNIT))
    found = torch.empty(2, *grouped.shape[:2], device=weights.device)
    kernels.fit_scales_and_minima(
        found.flatten(1), grouped.flatten(0, 1), most=most, at_most_zero=format.scales > 0
    )
    scale, least = found
    small = None
    if format.scales:
        pair = torch.stack((scale, -least), 1).unflatten(2, (-1, format.block // UNIT))  # [rows, 2, B, 8]
        floats = (pair.amax(3) / _SIX_BITS).half()
        integers = nearest_codes(pair, floats.float()[..., None], 0, _SIX_BITS)
        scale, minimum = (floats.float()[..., None] * integers).flatten(2).unbind(1)
        least = -minimum
        small = integers.flatten(2).to(torch.uint8)
    else:
        floats = torch.stack((scale, least), 1).half()
        scale, least = floats.float().unbind(1)
    codes = nearest_codes(grouped - least[:, :, None], scale[:, :, None], 0, most)
    return pack(format, codes.flatten(1).to(torch.uint8), floats, small)
