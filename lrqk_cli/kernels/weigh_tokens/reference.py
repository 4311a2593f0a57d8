"""Add the attention weight of each resident row to the entry of its token."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import Residents
from lrqk_cli.kernels.soft_cap import soft_cap


def weigh_tokens(
    query: Tensor,
    residents: Residents,
    lse: Tensor,
    length: Tensor,
    out: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
) -> None:
    """Add the weights of a step's residents, summed over queries and sets, to their tokens' entries.

    Args:
        query: ``[sets, N, d]``.
        residents: see ``Residents``, after ``attend_residents``.
        lse: the log-sum-exp over the residents, float32 ``[sets, N]``.
        length: int64 ``[1]``, tokens before this step.
        out: the sums to add to, float32 ``[context]``.
        scaling, softcap: as the model's attention uses them.
    """
    newest, recent = int(length), residents.recent
    in_ring = min(newest + 1, recent)
    in_slots = min(max(0, newest + 1 - recent), residents.hot)
    ring = torch.arange(in_ring, device=out.device)
    token = (newest - (newest - ring) % recent).expand(query.shape[0], -1)
    token = torch.cat((token, residents.slot_token[:, :in_slots]), 1)
    keys = residents.rows[:, : in_ring + in_slots, 0].float()
    logits = soft_cap(query.float() @ keys.mT * scaling, softcap)
    weights = torch.exp(logits - lse.unsqueeze(2)).sum(1)
    out.index_add_(0, token.flatten(), weights.flatten())
