"""Rotate queries and keys by their position: RoPE (Su et al., 2021), pairing the two halves of a head."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate(
    query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor, out_query: Tensor, out_key: Tensor
) -> None:
    """Compute ``x · cos + (-x₂, x₁) · sin`` for each token, with x₁ and x₂ the halves of x, in float32.

    Args:
        query: ``[H, S, d]``, d even.
        key: ``[KV, S, d]``.
        cosine, sine: ``[S, d]``, of the tokens' positions.
        out_query, out_key: receive the results, in their own dtypes.
    """
    for rows, out in ((query, out_query), (key, out_key)):
        first, second = rows.float().chunk(2, -1)
        turned = torch.cat((-second, first), -1)
        out.copy_(rows.float() * cosine.float() + turned * sine.float())
