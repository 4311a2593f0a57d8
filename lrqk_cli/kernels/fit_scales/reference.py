"""Search for the best scales of groups of weights.

Each of 21 candidate scales around the range of a group gives codes, and a least-squares fit to these codes
gives the final scale. The candidate with the least error wins, as in llama.cpp without an importance matrix
(``make_qx_quants`` and ``make_qkx2_quants``).
"""

from __future__ import annotations

import torch
from torch import Tensor

# A candidate divides a group's range by the largest code plus a multiple of ``STEP``.
STEPS = 21
STEP = 0.1


def candidates() -> list[float]:
    """Return the number that each candidate adds to the largest code."""
    return [STEP * (number - STEPS // 2) for number in range(STEPS)]


def nearest_codes(numbers: Tensor, scale: Tensor, least: int, most: int) -> Tensor:
    """Return the codes whose multiples of a scale are closest to the numbers; 0 where the scale is 0."""
    return (numbers / torch.where(scale == 0, torch.inf, scale)).round().clamp(least, most)


def fit_scales(out: Tensor, groups: Tensor, *, zero: int) -> None:
    """Find s of each group for ``s · q``, with codes q from ``-zero`` to ``zero - 1``.

    The weight of the largest magnitude gets a code near ``-zero``; if it is positive, s is negative.

    Args:
        out: receives s, float32 ``[n]``.
        groups: float32 ``[n, g]``.
    """
    largest = groups.gather(1, groups.abs().argmax(1, keepdim=True)).squeeze(1)
    best, best_gain = torch.zeros_like(largest), torch.zeros_like(largest)
    for step in candidates():
        codes = nearest_codes(groups, (-largest / (zero + step))[:, None], -zero, zero - 1)
        along = (groups * codes).sum(1)
        length = codes.square().sum(1)
        gain = along.square() / length.clamp_min(1e-30)
        is_better = gain > best_gain
        best = torch.where(is_better, along / length.clamp_min(1e-30), best)
        best_gain = torch.where(is_better, gain, best_gain)
    out.copy_(best)


def fit_scales_and_minima(out: Tensor, groups: Tensor, *, most: int, at_most_zero: bool) -> None:
    """Find s and m of each group for ``s · q + m``, with codes q from 0 to ``most``.

    The error of a weight counts by its magnitude plus the root mean square of its group.

    Args:
        out: receives s and m, float32 ``[2, n]``.
        groups: float32 ``[n, g]``.
        at_most_zero: the format has no positive m.
    """
    weight = groups.square().mean(1, keepdim=True).sqrt() + groups.abs()
    least = groups.amin(1)
    if at_most_zero:
        least = least.clamp_max(0.0)
    extent = groups.amax(1) - least
    sum_w, sum_x = weight.sum(1), (weight * groups).sum(1)
    best, best_least = extent / most, least
    best_error = torch.full_like(extent, torch.inf)
    for step in candidates():
        codes = nearest_codes(groups - least[:, None], (extent / (most + step))[:, None], 0, most)
        weighted = weight * codes
        sum_l, sum_ll, sum_xl = weighted.sum(1), (weighted * codes).sum(1), (weighted * groups).sum(1)
        determinant = sum_w * sum_ll - sum_l.square()
        # No line can be fitted if all codes are equal.
        is_line = determinant > 1e-6 * sum_w * sum_ll
        determinant = torch.where(is_line, determinant, 1.0)
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        found = (sum_ll * sum_x - sum_l * sum_xl) / determinant
        if at_most_zero:
            scale = torch.where(found > 0, sum_xl / sum_ll.clamp_min(1e-30), scale)
            found = found.clamp_max(0.0)
        error = (weight * (scale[:, None] * codes + found[:, None] - groups).square()).sum(1)
        is_better = is_line & (error < best_error) & (scale >= 0)
        best, best_least = torch.where(is_better, scale, best), torch.where(is_better, found, best_least)
        best_error = torch.where(is_better, error, best_error)
    out[0], out[1] = best, best_least
