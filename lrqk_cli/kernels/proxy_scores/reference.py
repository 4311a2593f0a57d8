"""Predict logits and scores of all tokens from the low-rank index."""

from __future__ import annotations

import torch
from torch import Tensor

from lrqk_cli.config import Aggregate
from lrqk_cli.kernels.codes import unpack_codes
from lrqk_cli.kernels.soft_cap import soft_cap


def proxy_logits(
    projected: Tensor, offset: Tensor, codes: Tensor, *, scaling: float, softcap: float | None = None
) -> Tensor:
    """Return the predicted logits.

    Args:
        projected: ``q W_Q`` times the scale of the index, ``[KV, N, r]``.
        offset: ``q μᵀ``, by which centring the keys lowered all logits of a query, ``[KV, N]``.
        codes: the index, ``[KV, T, r]``, int8 or floating, or packed (``kernels.codes``).
        scaling, softcap: as the model's attention uses them.

    Returns:
        Logits ``[KV, N, T]`` in float32, on the scale of the exact ones.
    """
    logits = projected.float() @ unpack_codes(codes).mT
    return soft_cap((logits + offset.float().unsqueeze(-1)) * scaling, softcap)


def group_scores(logits: Tensor, aggregate: Aggregate = "sum") -> Tensor:
    """Return each token's score ``[KV, T]``: the sum or maximum over queries of the softmax of their logits.

    Args:
        logits: ``[KV, N, T]``.
    """
    shares = torch.softmax(logits, dim=-1)
    return shares.sum(1) if aggregate == "sum" else shares.amax(1)
