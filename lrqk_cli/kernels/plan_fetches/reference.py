"""Which rows a step must fetch, and into which slots of the hot set."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Fetches(NamedTuple):
    """Rows to copy: entry i puts ``token[i]`` of KV head ``head[i]`` into ``slot[i]``; all int64, ``[n]``."""

    head: Tensor
    token: Tensor
    slot: Tensor


def plan_fetches(scores: Tensor, resident: Tensor, slot_token: Tensor, wanted: int) -> Fetches:
    """Demand that the best ``wanted`` tokens of each KV head are resident.

    The missing ones replace the residents with the lowest scores; no wanted resident leaves, and empty slots
    are filled first.

    Args:
        scores: ``[KV, T]``, finite; candidates only.
        resident: bool ``[KV, T]``.
        slot_token: token held by each slot, ``[KV, C]``; -1 where empty.
        wanted: at most ``min(T, C)``.
    """
    best = scores.topk(wanted, dim=1, sorted=False).indices
    missing = ~resident.gather(1, best)
    most = int(missing.sum(1).max()) if wanted else 0
    if most == 0:
        none = best.new_empty(0)
        return Fetches(none, none, none)
    held = slot_token.clamp(min=0)
    is_best = torch.zeros_like(resident).scatter_(1, best, True)
    slot_score = scores.gather(1, held).masked_fill(is_best.gather(1, held), float("inf"))
    slot_score = slot_score.masked_fill(slot_token < 0, float("-inf"))
    victims = slot_score.topk(most, dim=1, largest=False).indices
    order = (missing.cumsum(1) - 1).clamp(min=0, max=most - 1)
    head, column = missing.nonzero(as_tuple=True)
    return Fetches(head, best[head, column], victims[head, order[head, column]])
