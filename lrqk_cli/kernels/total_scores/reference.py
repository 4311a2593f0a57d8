"""Score all tokens for many queries at once."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import Projected
from lrqk_cli.kernels.proxy_scores.reference import proxy_logits
from lrqk_cli.memory.activations import SCORE_CHUNK


def total_scores(
    projected: Projected, codes: Tensor, length: int, *, scaling: float, softcap: float | None = None
) -> Tensor:
    """Return the sum over all queries of the softmax of their predicted logits, float32 ``[sets, length]``.

    Computes the logits of one chunk of tokens at a time, twice, so memory allows many queries.

    Args:
        projected: see ``Projected``.
        codes: the index, ``[sets, context, r]`` or packed.
        length: tokens to score, at least one.
        scaling, softcap: as the model's attention uses them.
    """

    def logits(start: int) -> Tensor:
        part = codes[:, start : min(start + SCORE_CHUNK, length)]
        return proxy_logits(*projected, part, scaling=scaling, softcap=softcap)

    starts = range(0, length, SCORE_CHUNK)
    lse = torch.stack([logits(start).logsumexp(-1) for start in starts]).logsumexp(0).unsqueeze(-1)
    return torch.cat([torch.exp(logits(start) - lse).sum(1) for start in starts], 1)
