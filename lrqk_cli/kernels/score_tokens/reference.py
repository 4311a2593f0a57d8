"""Predict the logits of all tokens, with the sums that their softmax and the tail correction need."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import Projected, TokenScores
from lrqk_cli.kernels.codes import unpack_codes
from lrqk_cli.kernels.proxy_scores.reference import proxy_logits


def score_tokens(
    projected: Projected,
    codes: Tensor,
    resident: Tensor,
    length: Tensor,
    out: TokenScores,
    *,
    recent: int,
    scaling: float,
    softcap: float | None = None,
) -> None:
    """Compute ``((q̂ k̂ᵀ) + offset) · scaling`` for the n tokens, and apply the softcap if there is one.

    Args:
        projected: see ``Projected``.
        codes: the index.
        resident: bool ``[sets, context]``, whether a token is in a hot slot.
        length: int64 ``[1]``, tokens before this step.
        out: receives logits and sums; nothing is written beyond n.
        recent: W, the number of newest tokens that are not candidates.
        scaling, softcap: as the model's attention uses them.
    """
    count = int(length) + 1
    logits = proxy_logits(*projected, codes[:, :count], scaling=scaling, softcap=softcap)
    out.logits[:, :, :count] = logits
    for number, start in enumerate(range(0, count, out.span)):
        block = logits[:, :, start : start + out.span]
        peak = block.amax(-1)
        mass = torch.exp(block - peak.unsqueeze(-1))
        of_candidates = mass[:, :, : max(0, count - recent - start)]
        stop = start + of_candidates.shape[2]
        of_candidates = of_candidates.masked_fill(resident[:, None, start:stop], 0.0)
        out.masses[..., number] = torch.stack((peak, mass.sum(-1), of_candidates.sum(-1)), 2)
        if out.code_sums is not None:
            out.code_sums[:, :, number] = of_candidates @ unpack_codes(codes[:, start:stop])
