"""The experts of a mixture whose weights stay packed; they stand in for transformers' own in a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lrqk_cli import kernels
from lrqk_cli.kernels.fixed_point import empty_fixed
from lrqk_cli.kernels.packed import PackedMatrix
from lrqk_cli.models.matrices import EXPERT_WEIGHTS, expert_shape, is_packable_experts
from lrqk_cli.models.packed_layers import PackedModule, multiply_unpacked, packed_module, reads_packed

# Tokens that go through an expert at a time: a part of all, and no fewer than are worth unpacking it.
_PARTS, _LEAST_PART = 4, 256


class PackedExperts(nn.Module):
    """The experts of a layer, ``down(gate(gate_up(x)))`` each, of packed weights.

    Few tokens read the matrices of their experts by their numbers on the device, so that nothing waits for
    these. More of them are sorted by expert, whose matrices are unpacked one after the other.

    Args:
        original: what it stands in for; its biases are taken over, its weights are not.
        dtype: of activations.

    Attributes:
        is_transposed: the weights of the original are ``[experts, width, rows]``.
        gate_up_proj, down_proj: the matrices of all experts, one after the other, once ``put`` has set them:
            ``[experts × rows, width]``.
    """

    gate_up_proj: PackedModule
    down_proj: PackedModule
    gate_up_proj_bias: nn.Parameter | None
    down_proj_bias: nn.Parameter | None

    def __init__(self, original: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.is_transposed: bool = original.is_transposed
        shapes = {name: expert_shape(original, name) for name in EXPERT_WEIGHTS}
        self._experts, self._inner, self._width = shapes["gate_up_proj"]
        # Most models' is silu(gate) ⊙ up, some clamp; all know how gate and up share rows. It keeps the
        # original alive, whose weights go.
        self._gate: Callable[[Tensor], Tensor] = original._apply_gate
        for name in EXPERT_WEIGHTS:
            self.register_parameter(f"{name}_bias", getattr(original, f"{name}_bias", None))
            delattr(original, name)

    def put(self, name: str, matrix: PackedMatrix) -> None:
        """Set one of ``EXPERT_WEIGHTS``."""
        setattr(self, name, PackedModule(matrix, self.dtype))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Apply to tokens ``[n, width]`` their experts ``[n, k]``, whose results are weighted and summed."""
        if reads_packed(hidden_states):
            return self.apply_to_few(hidden_states, top_k_index, top_k_weights)
        return self.apply_by_expert(hidden_states, top_k_index, top_k_weights)

    def apply_to_few(self, tokens: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Apply to a few tokens their experts, each of which is read for each of its tokens."""
        chosen = experts.flatten()
        given = empty_fixed(self._width, tokens.dtype, tokens.device, tokens.shape[0])
        kernels.fixed_point(given, tokens.contiguous())
        if tokens.shape[0] > 1:
            given = given.repeat_interleave(experts.shape[1], 0)
        gate_up = tokens.new_empty(chosen.shape[0], self._inner)
        kernels.packed_experts_gemv(
            self.gate_up_proj.matrix, chosen, given, gate_up, bias=self.gate_up_proj_bias
        )
        inner = self._gate(gate_up).contiguous()
        given = empty_fixed(inner.shape[1], tokens.dtype, tokens.device, chosen.shape[0])
        kernels.fixed_point(given, inner)
        results = tokens.new_empty(*experts.shape, self._width, dtype=torch.float32)
        kernels.packed_experts_gemv(
            self.down_proj.matrix, chosen, given, results.flatten(0, 1), bias=self.down_proj_bias
        )
        return torch.bmm(weights.float().unsqueeze(1), results).squeeze(1).to(tokens.dtype)

    def apply_by_expert(self, tokens: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Apply to tokens their experts, one expert after the other."""
        out = torch.zeros_like(tokens)
        flat = experts.flatten()
        order = flat.argsort(stable=True)
        # The only time that the host waits for the device; beyond the experts there may be a mark for none.
        counts = torch.bincount(flat, minlength=self._experts).tolist()[: self._experts]
        # However unevenly tokens go to experts, what exists at a time is that of a part of them.
        most = max(_LEAST_PART, tokens.shape[0] // _PARTS)
        for expert, places in enumerate(order[: sum(counts)].split(counts)):
            for part in places.split(most) if len(places) else ():
                members = part // experts.shape[1]
                result = self._apply_expert(expert, tokens[members])
                result = result * weights.flatten()[part, None]
                out.index_add_(0, members, result.to(out.dtype))
        return out

    def _apply_expert(self, expert: int, tokens: Tensor) -> Tensor:
        gate_up = self._multiply("gate_up_proj", expert, tokens)
        return self._multiply("down_proj", expert, self._gate(gate_up))

    def _multiply(self, name: str, expert: int, tokens: Tensor) -> Tensor:
        matrix, bias = getattr(self, name).matrix, getattr(self, f"{name}_bias")
        count = matrix.rows // self._experts
        out = tokens.new_empty(tokens.shape[0], count)
        rows = range(expert * count, (expert + 1) * count)
        multiply_unpacked(tokens, matrix, rows, out, None if bias is None else bias[expert])
        return out


def put_packed(model: nn.Module, path: str, matrix: PackedMatrix, dtype: torch.dtype) -> None:
    """Put a packed matrix where a model has a linear layer, embeddings, or the weight of experts.

    Args:
        path: of the module, or of the experts' weight.
    """
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if is_packable_experts(parent):
        parent = PackedExperts(parent, dtype)
        model.set_submodule(parent_path, parent)
    if isinstance(parent, PackedExperts):
        parent.put(name, matrix)
    else:
        model.set_submodule(path, packed_module(model.get_submodule(path), matrix, dtype))
