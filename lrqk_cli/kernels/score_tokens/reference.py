"""Predict the logits of all tokens, with the masses that their softmax and the tail correction need."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import SCORE_BLOCK, Projected, TokenScores
from lrqk_cli.kernels.proxy_scores.reference import proxy_logits


def score_tokens(
    projected: Projected,
    codes: Tensor,
    length: Tensor,
    out: TokenScores,
    *,
    recent: int,
    scaling: float,
    softcap: float | None = None,
) -> None:
    """Compute ``((q̂ k̂ᵀ) + offset) · scaling`` for the n tokens, softcapped where asked.

    Args:
        projected: see ``Projected``.
        codes: the index ``[sets, context, r]``, int8 or floating.
        length: int64 ``[1]``, tokens before this step.
        out: gets logits and masses; nothing is written past n.
        recent: W, the newest tokens, which are no candidates.
        scaling, softcap: as the model's attention uses them.
    """
    count = int(length) + 1
    logits = proxy_logits(*projected, codes[:, :count], scaling=scaling, softcap=softcap)
    out.logits[:, :, :count] = logits
    for start in range(0, count, SCORE_BLOCK):
        block = logits[:, :, start : start + SCORE_BLOCK]
        peak = block.amax(-1)
        mass = torch.exp(block - peak.unsqueeze(-1))
        candidates = max(0, count - recent - start)
        masses = (peak, mass.sum(-1), mass[:, :, :candidates].sum(-1))
        out.masses[..., start // SCORE_BLOCK] = torch.stack(masses, 2)
