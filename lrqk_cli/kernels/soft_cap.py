"""The softcap, by which some models limit their attention logits."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """Return ``cap · tanh(logits / cap)`` (Gemma 2, 2024), or the logits unchanged if ``cap`` is None."""
    return logits if cap is None else cap * torch.tanh(logits / cap)
