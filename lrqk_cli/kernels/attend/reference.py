"""Exact attention of a block of queries over given rows, with the log-sum-exp for merging."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.soft_cap import soft_cap
from lrqk_cli.memory.activations import PLAIN_LOGITS


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    causal: bool = False,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend in float32.

    Args:
        query: ``[KV, G, S, d]``; with ``causal``, the queries of the newest S of the T tokens.
        key, value: ``[KV, T, d]``.
        scaling: factor of the logits.
        softcap: logits become ``softcap · tanh(logits / softcap)``.
        causal: query i sees only the keys up to ``T - S + i``.
        window: with ``causal``, query i sees only the newest ``window`` of those keys.

    Returns:
        The output ``[KV, G, S, d]`` in float32 and the log-sum-exp ``[KV, G, S]`` of the logits in float32.
        A query that sees no key gets zeros and minus infinity.
    """
    heads, group, length, width = query.shape
    total = key.shape[1]
    key, value = key.float(), value.float()
    # Compute the logits of one block of queries at a time, to limit memory.
    block = max(1, PLAIN_LOGITS // max(1, heads * group * total)) if length else 1
    output = query.new_empty((heads, group, length, width), dtype=torch.float32)
    lse = query.new_empty((heads, group, length), dtype=torch.float32)
    for start in range(0, length, block):
        stop = min(length, start + block)
        # A causal block needs no key beyond its newest query, or before the window of its oldest query.
        last = total - length + stop if causal else total
        first = max(0, total - length + start + 1 - window) if causal and window else 0
        visible = None
        if causal:
            visible = _visible(total - length + start, stop - start, first, last, window, query.device)
        rows = query[:, :, start:stop].float(), key[:, first:last], value[:, first:last]
        output[:, :, start:stop], lse[:, :, start:stop] = _attend_at_once(*rows, visible, scaling, softcap)
    return output, lse


def _attend_at_once(
    query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None, scaling: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Attend with ``query`` to the keys that ``visible``, ``[S, T]``, marks; all of them for None."""
    rows = query.shape[1:3]
    # The queries of a group become one longer sequence: torch would copy the keys for each of them.
    logits = (query.flatten(1, 2) @ key.mT).unflatten(1, rows) * scaling
    logits = soft_cap(logits, softcap)
    if visible is not None:
        logits = logits.masked_fill(~visible, float("-inf"))
    lse = logits.logsumexp(-1)
    # Not by the log-sum-exp: where logits are large, it has lost the logarithm of the sum.
    weights = logits.softmax(-1).masked_fill(lse.unsqueeze(-1) == float("-inf"), 0.0)
    return (weights.flatten(1, 2) @ value).unflatten(1, rows), lse


def _visible(
    position: int, queries: int, first: int, last: int, window: int | None, device: torch.device
) -> Tensor:
    query_position = torch.arange(position, position + queries, device=device).unsqueeze(1)
    key_position = torch.arange(first, last, device=device).unsqueeze(0)
    visible = key_position <= query_position
    if window is not None:
        visible &= key_position > query_position - window
    return visible
