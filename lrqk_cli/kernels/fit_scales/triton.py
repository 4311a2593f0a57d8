"""The same in one launch each; a program keeps its groups in registers while it tries all candidates."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from lrqk_cli.kernels.fit_scales.reference import STEP, STEPS

# Weights per program.
_WEIGHTS = 2048


@triton.jit
def _nearest_codes(numbers, scale, least, most):
    """Return the codes whose multiples of a scale are closest to the numbers; 0 where the scale is 0."""
    is_none = scale == 0.0
    inverse = tl.where(is_none, 0.0, 1.0 / tl.where(is_none, 1.0, scale))
    inside = tl.minimum(tl.maximum(numbers * inverse[:, None], least), most)
    # Adding 1.5 · 2²³ leaves no bits for a fraction, so the sum rounds to the nearest.
    return (inside + 12582912.0) - 12582912.0


@triton.jit
def _load_groups(groups, count, GROUP: tl.constexpr, GROUPS: tl.constexpr):
    member = tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)
    place = member[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    return member, tl.load(groups + place, mask=(member < count)[:, None], other=0.0)


@triton.jit
def _fit_scales(
    groups,
    out,
    count,
    zero,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    STEPS: tl.constexpr,
    STEP: tl.constexpr,
):
    member, numbers = _load_groups(groups, count, GROUP, GROUPS)
    highest, lowest = tl.max(numbers, 1), tl.min(numbers, 1)
    # Of two equal magnitudes the reference takes the first weight; either gives the same error.
    largest = tl.where(highest >= -lowest, highest, lowest)
    best, best_gain = tl.zeros([GROUPS], tl.float32), tl.zeros([GROUPS], tl.float32)
    for number in range(0, STEPS):
        scale = -largest / (zero + STEP * (number - STEPS // 2))
        codes = _nearest_codes(numbers, scale, -zero, zero - 1.0)
        along, length = tl.sum(numbers * codes, 1), tl.maximum(tl.sum(codes * codes, 1), 1e-30)
        gain = along * along / length
        best = tl.where(gain > best_gain, along / length, best)
        best_gain = tl.maximum(best_gain, gain)
    tl.store(out + member, best, mask=member < count)


@triton.jit
def _fit_scales_and_minima(
    groups,
    out,
    count,
    most,
    AT_MOST_ZERO: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
    STEPS: tl.constexpr,
    STEP: tl.constexpr,
):
    member, numbers = _load_groups(groups, count, GROUP, GROUPS)
    weight = tl.sqrt(tl.sum(numbers * numbers, 1) / GROUP)[:, None] + tl.abs(numbers)
    least = tl.min(numbers, 1)
    if AT_MOST_ZERO:
        least = tl.minimum(least, 0.0)
    extent = tl.max(numbers, 1) - least
    sum_w, sum_x = tl.sum(weight, 1), tl.sum(weight * numbers, 1)
    best, best_least = extent / most, least
    best_error = tl.full([GROUPS], float("inf"), tl.float32)
    for number in range(0, STEPS):
        tried = extent / (most + STEP * (number - STEPS // 2))
        codes = _nearest_codes(numbers - least[:, None], tried, 0.0, most)
        weighted = weight * codes
        sum_l, sum_ll = tl.sum(weighted, 1), tl.sum(weighted * codes, 1)
        sum_xl = tl.sum(weighted * numbers, 1)
        determinant = sum_w * sum_ll - sum_l * sum_l
        # No line can be fitted if all codes are equal.
        is_line = determinant > 1e-6 * sum_w * sum_ll
        determinant = tl.where(is_line, determinant, 1.0)
        scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        found = (sum_ll * sum_x - sum_l * sum_xl) / determinant
        if AT_MOST_ZERO:
            scale = tl.where(found > 0.0, sum_xl / tl.maximum(sum_ll, 1e-30), scale)
            found = tl.minimum(found, 0.0)
        difference = scale[:, None] * codes + found[:, None] - numbers
        error = tl.sum(weight * difference * difference, 1)
        is_better = is_line & (error < best_error) & (scale >= 0.0)
        best, best_least = tl.where(is_better, scale, best), tl.where(is_better, found, best_least)
        best_error = tl.where(is_better, error, best_error)
    tl.store(out + member, best, mask=member < count)
    tl.store(out + count + member, best_least, mask=member < count)


def fit_scales(out: Tensor, groups: Tensor, *, zero: int) -> None:
    """See the reference; all tensors are contiguous."""
    count, group = groups.shape
    taken = _WEIGHTS // group
    _fit_scales[(triton.cdiv(count, taken),)](
        groups, out, count, float(zero), GROUP=group, GROUPS=taken, STEPS=STEPS, STEP=STEP, num_warps=4
    )


def fit_scales_and_minima(out: Tensor, groups: Tensor, *, most: int, at_most_zero: bool) -> None:
    """See the reference; all tensors are contiguous."""
    count, group = groups.shape
    taken = _WEIGHTS // group
    _fit_scales_and_minima[(triton.cdiv(count, taken),)](
        groups,
        out,
        count,
        float(most),
        AT_MOST_ZERO=at_most_zero,
        GROUP=group,
        GROUPS=taken,
        STEPS=STEPS,
        STEP=STEP,
        num_warps=4,
    )
