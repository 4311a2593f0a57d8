"""Multi-head latent attention: one compressed row of a token is key and value of all heads.

The row is the latent ``c`` of r numbers and the rotated key of p. A head's key is ``W_K c`` beside the
rotated key, and its value ``W_V c``. With the query ``(q, q_p)`` the logit is ``(W_Kᵀ q) · c + q_p · k_p``,
and the output ``W_V Σ w c``: query and output absorb the projections (DeepSeek-V2, section 2.1), so that no
head needs keys or values of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def absorb(module: nn.Module, query: Tensor) -> Tensor:
    """Return queries ``[1, H, S, r + p]`` that meet compressed rows.

    Args:
        module: transformers' attention module.
        query: ``[1, H, S, n + p]``: the part for the head's own key, and the rotated part.
    """
    own, rotated = query.split([query.shape[-1] - _rotated(module), _rotated(module)], -1)
    return torch.cat((torch.einsum("bhsn,hnr->bhsr", own, _up(module)[:, : own.shape[-1]]), rotated), -1)


def release(module: nn.Module, attended: Tensor, query: Tensor) -> Tensor:
    """Return the heads' outputs ``[1, H, S, v]`` from attention to compressed rows.

    Args:
        attended: weighted sums of rows, ``[1, H, S, r + p]``.
        query: as for ``absorb``.
    """
    up = _up(module)[:, query.shape[-1] - _rotated(module) :]
    return torch.einsum("bhsr,hvr->bhsv", attended[..., : up.shape[-1]], up)


def _rotated(module: Any) -> int:
    width: int = module.qk_rope_head_dim
    return width


def _up(module: Any) -> Tensor:
    """Return the projections of all heads to key and value, ``[H, n + v, r]``."""
    projection, rank = module.kv_b_proj, module.kv_lora_rank
    if isinstance(projection, nn.Linear):
        weight = projection.weight
    else:  # packed weights
        unit = torch.eye(rank, dtype=projection.dtype, device=projection.packed.device)
        weight = projection(unit).mT
    return weight.reshape(-1, module.qk_nope_head_dim + module.v_head_dim, rank)
