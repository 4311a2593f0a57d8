"""Scales for rows in 8 bits: the centre and the spread of each channel, for every scale group of tokens.

A *scale group* is ``SCALE_TOKENS`` consecutive tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.config import KvDtype
from lrqk_cli.kernels.buffers import RowScales
from lrqk_cli.memory import accounting
from lrqk_cli.memory.accounting import SCALE_TOKENS
from lrqk_cli.memory.tensors import empty
from lrqk_cli.model_spec import ModelSpec

# The least spread of a channel, as a share of that of the KV head: one that hardly moves in the tokens so far
# may move later.
_LEAST_SHARE = 0.1
# Below it a KV head's channels do not move. Squares of such numbers are no longer numbers in float32.
_LEAST_SPREAD = 1e-18
# A group's scales are fitted to its tokens if it begins with this many at once, else copied from the group
# before it.
_LEAST_TOKENS = SCALE_TOKENS // 4


def empty_scales(spec: ModelSpec, context: int, kv_dtype: KvDtype, device: torch.device) -> RowScales | None:
    """Return scales to be fitted; None for rows as the model computes them."""
    if kv_dtype == "bf16":
        return None
    return RowScales(empty(accounting.channel_scales(spec, context), device), kv_dtype)


def fit_row_scales(scales: RowScales, start: int, key: Tensor, value: Tensor) -> None:
    """Fit all scale groups that begin among the tokens from ``start`` on to their K and V ``[KV, S, d]``.

    The centre is the mean: some models add large constants to their keys, which would take most of the codes.
    The spread is the root of the standard deviation: without one, channels of large numbers decide over the
    precision of all; with the standard deviation itself, all channels have the same relative precision,
    although an error of a large number moves a logit more. docs/quality.md has what each is worth.
    """
    stop = start + key.shape[1]
    begun = range(-(-start // SCALE_TOKENS), -(-stop // SCALE_TOKENS))
    whole = [group for group in begun if (group + 1) * SCALE_TOKENS <= stop]
    if whole:
        first = whole[0] * SCALE_TOKENS - start
        inside = slice(first, first + len(whole) * SCALE_TOKENS)
        groups = slice(whole[0], whole[-1] + 1)
        for half, rows in enumerate((key, value)):
            _fit(scales, groups, half, rows[:, inside].unflatten(1, (len(whole), SCALE_TOKENS)))
    for group in begun[len(whole) :]:  # at most one
        first = group * SCALE_TOKENS - start
        if group and stop - start - first < _LEAST_TOKENS:
            scales.channels[:, group] = scales.channels[:, group - 1]
            continue
        for half, rows in enumerate((key, value)):
            _fit(scales, slice(group, group + 1), half, rows[:, None, first:])


def _fit(scales: RowScales, groups: slice, half: int, rows: Tensor) -> None:
    """Fit the scales of K (``half`` 0) or of V to their rows ``[KV, groups, S, d]``."""
    deviation, mean = torch.std_mean(rows, dim=2, correction=0)
    usual = deviation.float().square().mean(2, keepdim=True).sqrt()
    spread = deviation.float().maximum(_LEAST_SHARE * usual).sqrt()
    scales.channels[:, groups, 0, half] = mean.to(scales.channels.dtype)
    scales.channels[:, groups, 1, half] = torch.where(usual > _LEAST_SPREAD, spread, 1.0).to(
        scales.channels.dtype
    )
