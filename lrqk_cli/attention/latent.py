"""Multi-head latent attention: one compressed row of a token is key and value of all heads.

The row is the latent ``c`` of r numbers and the rotated key of p. A head's key is ``W_K c`` beside the
rotated key, and its value ``W_V c``. With the query ``(q, q_p)`` the logit is ``(W_Kᵀ q) · c + q_p · k_p``,
and the output ``W_V Σ w c``: query and output absorb the projections (DeepSeek-V2, section 2.1), so that no
head needs keys or values of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Projections(NamedTuple):
    """What takes the latent to key and value: ``[H, n, r]`` and ``[H, v, r]`` of all heads."""

    key: Tensor
    value: Tensor


def projections(module: Any) -> Projections:
    """Return the projections of transformers' attention module."""
    projection, rank = module.kv_b_proj, module.kv_lora_rank
    if isinstance(projection, nn.Linear):
        weight = projection.weight
    else:  # packed weights
        unit = torch.eye(rank, dtype=projection.dtype, device=projection.packed.device)
        weight = projection(unit).mT
    widths = module.qk_nope_head_dim, module.v_head_dim
    return Projections(*weight.reshape(-1, sum(widths), rank).split(widths, 1))


def absorb(query: Tensor, up: Projections) -> Tensor:
    """Return queries ``[1, H, S, r + p]`` that meet compressed rows.

    Args:
        query: ``[1, H, S, n + p]``: the part for the head's own key, and the rotated part.
    """
    own, rotated = query.tensor_split([up.key.shape[1]], -1)
    return torch.cat((torch.einsum("bhsn,hnr->bhsr", own, up.key), rotated), -1)


def release(attended: Tensor, up: Projections) -> Tensor:
    """Return the heads' outputs ``[1, H, S, v]`` from weighted sums of rows, ``[1, H, S, r + p]``."""
    return torch.einsum("bhsr,hvr->bhsv", attended[..., : up.value.shape[-1]], up.value)
