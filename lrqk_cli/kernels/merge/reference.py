"""Merge attention over parts of the rows by their log-sum-exps."""

from __future__ import annotations

import torch
from torch import Tensor


def merge(
    output: Tensor,
    lse: Tensor,
    other_output: Tensor,
    other_lse: Tensor,
    third: tuple[Tensor, Tensor] | None = None,
    *,
    in_place: bool = False,
) -> tuple[Tensor, Tensor]:
    """Merge two or three attentions of the same queries over disjoint rows.

    ``o = (e^lse·o + e^lse'·o') / (e^lse + e^lse')``; an attention over no rows has minus infinity as its lse.

    Args:
        output, other_output: ``[KV, G, S, d]``, in any dtype.
        lse, other_lse: ``[KV, G, S]`` in float32.
        third: output and log-sum-exp of one more attention, which this merges without reading and writing a
            sum of the others first.
        in_place: write the merged output over ``output``, which an earlier merge has returned.

    Returns:
        The merged output and log-sum-exp, in float32.
    """
    if third is not None:
        two = merge(output, lse, other_output, other_lse, in_place=in_place)
        return merge(*two, *third, in_place=True)
    peak = torch.maximum(lse, other_lse)
    # If neither side has rows, subtracting minus infinity from itself would give NaN.
    base = peak.nan_to_num(nan=torch.nan, neginf=0.0)
    mass, other_mass = torch.exp(lse - base), torch.exp(other_lse - base)
    both = mass + other_mass
    # Shares of the sum, because the logarithm of the sum has lost it where log-sum-exps are large.
    shares = (part / both.clamp(min=1e-37) for part in (mass, other_mass))
    share, other_share = (part.unsqueeze(-1) for part in shares)
    # Shares are in float32, so products of them with 16 bits are too.
    merged = output.mul_(share) if in_place else output * share
    return merged.addcmul_(other_output, other_share), base + both.log()
