"""Multiply two matrices by a vector, and the second result by the activation of the first (Shazeer, "GLU
Variants Improve Transformer", 2020)."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import gelu, linear, silu

Activation = Literal["silu", "gelu_tanh"]


def gated_gemv(gate: Tensor, up: Tensor, row: Tensor, out: Tensor, *, activation: Activation) -> None:
    """Compute ``act(G x) ⊙ (U x)`` in float32.

    Args:
        gate, up: G and U, ``[rows, width]``.
        row: x, ``[width]``.
        out: receives the result ``[rows]``.
        activation: ``x · sigmoid(x)``, or the tanh approximation of GELU.
    """
    gated, scaled = linear(row, gate).float(), linear(row, up).float()
    out.copy_((silu(gated) if activation == "silu" else gelu(gated, approximate="tanh")) * scaled)
