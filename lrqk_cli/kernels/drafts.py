"""Attention to the drafts of a verify step, for the plain step and for the reference of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.attend import attend
from lrqk_cli.kernels.merge import merge


def add_drafts(
    output: Tensor,
    lse: Tensor,
    query: Tensor,
    rows: Tensor,
    *,
    scaling: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor]:
    """Return the attention of a verify step with its drafts added, causally: draft i sees drafts 1 to i.

    Args:
        output, lse: attention to all other rows, ``[sets, G, M, d]`` and ``[sets, G, M]``.
        query: ``[sets, G, M, d]``; the first of each M is the newest token, which sees no draft.
        rows: of the drafts, ``[KV, M - 1, 2, d]``.
    """
    key, value = rows.repeat_interleave(query.shape[0] // rows.shape[0], 0).unbind(2)
    of_drafts = query[:, :, 1:].contiguous()
    added = attend(of_drafts, key, value, scaling=scaling, softcap=softcap, causal=True)
    merged, merged_lse = merge(output[:, :, 1:], lse[:, :, 1:].contiguous(), *added)
    merged = torch.cat((output[:, :, :1].to(merged.dtype), merged), 2)
    return merged, torch.cat((lse[:, :, :1], merged_lse), 2)
