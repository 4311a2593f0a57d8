"""Multiply two packed matrices by a vector, and the second result by the activation of the first."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from lrqk_cli.kernels.gated_gemv.reference import Activation
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.kernels.packed_gemv.reference import packed_gemv


def packed_gated_gemv(
    gate: PackedMatrix, up: PackedMatrix, vector: Tensor, out: Tensor, *, activation: Activation
) -> None:
    """Compute ``act(G x) ⊙ (U x)`` in float32.

    Args:
        gate, up: G and U, ``[rows, width]``, which may differ in format.
        vector: x in fixed point, see ``kernels.fixed_point``; or several, one after the other.
        out: receives the result ``[rows]``, or ``[vectors, rows]``, rounded once.
        activation: see ``gated_gemv``.
    """
    both = torch.empty(*out.shape[:-1], 2 * gate.rows, device=vector.device)
    packed_gemv((gate, up), vector, both, biases=(None, None))
    gated, scaled = both.chunk(2, -1)
    out.copy_((silu(gated) if activation == "silu" else gelu(gated, approximate="tanh")) * scaled)
