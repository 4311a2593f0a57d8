"""Scales for rows in 8 bits: the centre and the spread of each channel, from the first segment of a text."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.config import KvDtype, ModelSpec
from lrqk_cli.kernels.buffers import RowScales
from lrqk_cli.memory import accounting
from lrqk_cli.memory.tensors import empty

# The least spread of a channel, as a share of that of the KV head: a channel that hardly moves in the first
# segment may move later.
_LEAST_SHARE = 0.1


def empty_scales(spec: ModelSpec, kv_dtype: KvDtype, device: torch.device) -> RowScales | None:
    """Return scales to be fitted; None for rows as the model computes them."""
    if kv_dtype == "bf16":
        return None
    shape = accounting.channel_scale(spec)
    return RowScales(empty(shape, device), empty(shape, device), kv_dtype)


def fit_scales(scales: RowScales, key: Tensor, value: Tensor) -> None:
    """Fit the scales to K and V ``[KV, S, d]`` of a first segment, in place.

    The centre is the mean, because some models add large constants to their keys, which would take most of
    the codes. The spread is the root of the standard deviation: with none, a channel of large numbers decides
    over the precision of all; with the standard deviation itself, all channels get the same relative
    precision, although errors of large numbers move a logit more. docs/quality.md has their measurements.
    """
    for half, rows in enumerate((key, value)):
        deviation, mean = torch.std_mean(rows.float(), dim=1, correction=0)
        usual = deviation.square().mean(1, keepdim=True).sqrt()
        spread = deviation.maximum(_LEAST_SHARE * usual).sqrt()
        scales.centre[:, half] = mean
        scales.spread[:, half] = torch.where(spread > 0.0, spread, 1.0)
