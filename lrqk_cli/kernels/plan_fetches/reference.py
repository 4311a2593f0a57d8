"""Plan the rows that a plain step fetches, and their hot slots, by sorting scores."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.kernels.buffers import FetchPlan


def plan_fetches(scores: Tensor, resident: Tensor, slot_token: Tensor, wanted: int) -> FetchPlan:
    """Plan fetches that make the best ``wanted`` tokens of each row set resident.

    Missing tokens replace the residents with the lowest scores; a wanted resident stays.

    Args:
        scores: ``[sets, T]``, finite; candidates only.
        resident: bool ``[sets, T]``.
        slot_token: the token in each slot, ``[sets, C]``; all slots are filled.
        wanted: at most ``min(T, C)``.
    """
    best = scores.topk(wanted, dim=1, sorted=False).indices
    missing = ~resident.gather(1, best)
    is_best = torch.zeros_like(resident).scatter_(1, best, True)
    stays = (is_best & resident).gather(1, slot_token)
    slot_score = scores.gather(1, slot_token).masked_fill(stays, float("inf"))
    order = missing.to(torch.uint8).argsort(dim=1, descending=True, stable=True)
    token, slot = torch.zeros(2, *slot_token.shape, dtype=torch.int32, device=scores.device)
    token[:, :wanted] = best.gather(1, order)
    slot[:, :wanted] = slot_score.topk(wanted, dim=1, largest=False).indices
    counts = missing.sum(1, dtype=torch.int32)
    totals = torch.stack((torch.full_like(counts, wanted), counts), 1).sum(0)
    taken = torch.arange(wanted, device=scores.device) < counts.unsqueeze(1)
    leaving = torch.zeros(slot_token.shape, dtype=torch.bool, device=scores.device)
    leaving.scatter_(1, slot[:, :wanted].long(), taken)
    return FetchPlan(token, slot, counts, totals, leaving)
