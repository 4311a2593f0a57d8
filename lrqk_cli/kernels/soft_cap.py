"""How some models limit their attention's logits."""

from __future__ import annotations

import torch
from torch import Tensor


def soft_cap(logits: Tensor, cap: float | None) -> Tensor:
    """Return ``cap · tanh(logits / cap)`` (Gemma 2, 2024); the logits themselves where there is no cap."""
    return logits if cap is None else cap * torch.tanh(logits / cap)
