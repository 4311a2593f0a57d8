"""Merge attention over parts of the rows by their log-sum-exps."""

from __future__ import annotations

import torch
from torch import Tensor


def merge(output: Tensor, lse: Tensor, other_output: Tensor, other_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Merge two attentions of the same queries over disjoint rows.

    ``o = (e^lse·o + e^lse'·o') / (e^lse + e^lse')``; an attention over no rows has minus infinity as its lse.

    Args:
        output, other_output: ``[KV, G, S, d]``, in any dtype.
        lse, other_lse: ``[KV, G, S]`` in float32.

    Returns:
        The merged output and log-sum-exp, in float32.
    """
    total = torch.logaddexp(lse, other_lse)
    reference = total.nan_to_num(neginf=0.0)
    merged = output.float() * torch.exp(lse - reference).unsqueeze(-1)
    return merged.addcmul_(other_output.float(), torch.exp(other_lse - reference).unsqueeze(-1)), total
