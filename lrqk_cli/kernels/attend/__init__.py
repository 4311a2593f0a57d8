"""Exact attention with its log-sum-exp."""

from __future__ import annotations

from torch import Tensor

from lrqk_cli.kernels.attend import library, reference


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scaling: float,
    softcap: float | None = None,
    causal: bool = False,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend by torch's flash kernel if it supports the arguments, else by the reference; see there."""
    if library.supports(query, softcap=softcap, causal=causal, window=window, total=key.shape[1]):
        return library.attend(query, key, value, scaling=scaling, causal=causal)
    return reference.attend(query, key, value, scaling=scaling, softcap=softcap, causal=causal, window=window)
