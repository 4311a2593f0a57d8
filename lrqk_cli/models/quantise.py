"""Weights in 4 to 8 bits, from the weights alone.

Scales are searched for, not calculated: of some 20 candidates around the range of a group, each followed by a
least-squares fit to the codes that it leads to, the one with the least error is taken. That is what llama.cpp
does where it has no importance matrix (``make_qkx2_quants``, ``make_qx_quants``), but for the weights that it
gives to large numbers where there is no minimum: docs/quality.md has both.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.formats import UNIT, PackedFormat
from lrqk_cli.kernels.packed import PackedMatrix, empty_matrix, pack

# Weights that are looked at once: what comes and goes takes some thirty bytes for each.
_AT_ONCE = 1 << 22
# Candidates: how many codes more or fewer than there are the range of a group is cut into.
_STEPS = tuple(0.1 * step for step in range(-10, 11))
# The small integers of formats that have them: scales and minima of 6 bits, or signed scales of 8.
_SIX_BITS, _EIGHT_BITS = 63, 127


def quantise(format: PackedFormat, weights: Tensor) -> PackedMatrix:
    """Pack a matrix ``[rows, width]``, on its device."""
    rows, width = weights.shape
    whole = empty_matrix(format, rows, width, weights.device)
    step = max(1, _AT_ONCE // width)
    for start in range(0, rows, step):
        whole.put(start, _packed(format, weights[start : start + step].float()))
    return whole


def _packed(format: PackedFormat, weights: Tensor) -> PackedMatrix:
    if format.has_minimum:
        return _with_minimum(format, weights)
    group = UNIT // 2 if format.is_halved else UNIT
    grouped = weights.unflatten(1, (-1, group))
    scale = _symmetric_scale(grouped, format.zero)
    small = None
    if format.is_halved:
        # Each block's largest scale gets the largest integer.
        scale = scale.unflatten(1, (-1, format.block // group))
        d = (scale.abs().amax(2) / _EIGHT_BITS).half()
        integers = _whole(scale, d.float()[:, :, None], -_EIGHT_BITS - 1, _EIGHT_BITS)
        scale = (d.float()[:, :, None] * integers).flatten(1)
        small = integers.flatten(1).unflatten(1, (-1, 2)).mT.to(torch.int8)
        floats = d[:, None]
    else:
        floats = scale.half()[:, None]
        scale = floats[:, 0].float()
    codes = _whole(grouped, scale[:, :, None], -format.zero, format.zero - 1) + format.zero
    return pack(format, codes.flatten(1).to(torch.uint8), floats, small)


def _with_minimum(format: PackedFormat, weights: Tensor) -> PackedMatrix:
    most = (1 << format.bits) - 1
    grouped = weights.unflatten(1, (-1, UNIT))
    scale, least = _scale_and_minimum(grouped, most, at_most_zero=format.scales > 0)
    small = None
    if format.scales:
        pair = torch.stack((scale, -least), 1).unflatten(2, (-1, format.block // UNIT))  # [rows, 2, B, 8]
        floats = (pair.amax(3) / _SIX_BITS).half()
        integers = _whole(pair, floats.float()[..., None], 0, _SIX_BITS)
        scale, minimum = (floats.float()[..., None] * integers).flatten(2).unbind(1)
        least = -minimum
        small = integers.flatten(2).to(torch.uint8)
    else:
        floats = torch.stack((scale, least), 1).half()
        scale, least = floats.float().unbind(1)
    codes = _whole(grouped - least[:, :, None], scale[:, :, None], 0, most)
    return pack(format, codes.flatten(1).to(torch.uint8), floats, small)


def _whole(numbers: Tensor, scale: Tensor, least: int, most: int) -> Tensor:
    """Return the multiples of a scale that come closest to numbers; 0 where the scale is 0."""
    return (numbers / torch.where(scale == 0, torch.inf, scale)).round().clamp(least, most)


def _symmetric_scale(grouped: Tensor, zero: int) -> Tensor:
    """Return s of each group ``[rows, groups, g]``, for codes from ``-zero`` to ``zero - 1``.

    The largest weight may be of either sign; with a negative s it gets the code ``-zero``.
    """
    largest = grouped.gather(2, grouped.abs().argmax(2, keepdim=True)).squeeze(2)
    best, best_gain = torch.zeros_like(largest), torch.zeros_like(largest)
    for step in _STEPS:
        codes = _whole(grouped, (-largest / (zero + step))[:, :, None], -zero, zero - 1)
        along = (grouped * codes).sum(2)
        length = codes.square().sum(2)
        gain = along.square() / length.clamp_min(1e-30)
        is_better = gain > best_gain
        best = torch.where(is_better, along / length.clamp_min(1e-30), best)
        best_gain = torch.where(is_better, gain, best_gain)
    return best


def _scale_and_minimum(grouped: Tensor, most: int, *, at_most_zero: bool) -> tuple[Tensor, Tensor]:
    """Return s and m of each group ``[rows, groups, g]`` for ``s · q + m``, with codes from 0 to ``most``.

    Args:
        at_most_zero: the format has no positive m.
    """
    size = grouped.square().mean(2, keepdim=True).sqrt()
    weight = size + grouped.abs()
    least = grouped.amin(2)
    if at_most_zero:
        least = least.clamp_max(0.0)
    extent = grouped.amax(2) - least
    sum_w, sum_x = weight.sum(2), (weight * grouped).sum(2)
    best, best_least = extent / most, least
    best_error = torch.full_like(extent, torch.inf)
    for step in _STEPS:
        codes = _whole(grouped - least[:, :, None], (extent / (most + step))[:, :, None], 0, most)
        weighted = weight * codes
        sum_l, sum_ll, sum_xl = weighted.sum(2), (weighted * codes).sum(2), (weighted * grouped).sum(2)
        determinant = sum_w * sum_ll - sum_l.square()
        # With one code for all there is no line to fit.
        is_line = determinant > 1e-6 * sum_w * sum_ll
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant.clamp_min(1e-30)
        found = (sum_ll * sum_x - sum_l * sum_xl) / determinant.clamp_min(1e-30)
        if at_most_zero:
            scale = torch.where(found > 0, sum_xl / sum_ll.clamp_min(1e-30), scale)
            found = found.clamp_max(0.0)
        error = (weight * (scale[:, :, None] * codes + found[:, :, None] - grouped).square()).sum(2)
        is_better = is_line & (error < best_error) & (scale >= 0)
        best, best_least = torch.where(is_better, scale, best), torch.where(is_better, found, best_least)
        best_error = torch.where(is_better, error, best_error)
    return best, best_least
