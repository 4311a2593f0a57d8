"""The same attention by torch's own flash kernels, which also return the log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.memory.activations import flash_takes


def supports(query: Tensor, *, softcap: float | None, causal: bool, window: int | None, total: int) -> bool:
    """Return whether torch has a flash kernel for these arguments of ``attend``."""
    if softcap is not None or window is not None or query.numel() == 0 or total == 0:
        return False
    if causal and total != query.shape[2]:
        return False
    if query.device.type == "cpu":
        return True
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.device.type == "cuda" and half and flash_takes(query.shape[-1])


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, scaling: float, causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attend as the reference does, with an output in the query's dtype; ``causal`` needs T = S.

    On a GPU the kernel knows groups of query heads. On a CPU, without a causal mask the queries of a group
    become one longer sequence of their KV head, so K and V are not repeated. With it they are repeated, but
    only those of the segment.
    """
    heads, group, length, width = query.shape
    if query.is_cuda:
        output, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(
            query.reshape(1, heads * group, length, width),
            key.unsqueeze(0),
            value.unsqueeze(0),
            0.0,
            causal,
            False,
            scale=scaling,
        )
        return output.view(query.shape), lse.view(heads, group, length)
    if causal:
        rows = query.reshape(1, heads * group, length, width)
        key, value = key.repeat_interleave(group, 0), value.repeat_interleave(group, 0)
    else:
        rows = query.reshape(1, heads, group * length, width)
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        rows, key.unsqueeze(0), value.unsqueeze(0), 0.0, causal, attn_mask=None, scale=scaling
    )
    return output.reshape(query.shape), lse.reshape(heads, group, length).float()
