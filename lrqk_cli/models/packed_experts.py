"""Experts of a mixture with packed weights, which replace transformers' own modules."""

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

# An expert computes 1 / ``_PARTS`` of all tokens at a time, but no fewer than are worth unpacking it.
_PARTS, _LEAST_PART = 4, 256


class PackedExperts(nn.Module):
    """The experts of a layer with packed weights; each computes ``down(gate(gate_up(x)))``.

    For a few tokens the kernels read the expert numbers on the device, so the host does not wait for them.
    More tokens are sorted by expert, and the experts' matrices are unpacked one after the other. The matrices
    may stay in pinned host memory, where the same kernels read the chosen experts.

    Args:
        original: the module to replace; its biases are kept, its weights are not.
        dtype: dtype of activations.

    Attributes:
        is_transposed: the original's weights are ``[experts, width, rows]``.
        gate_up_proj, down_proj: the matrices of all experts ``[experts × rows, width]``, one expert after the
            other; ``put`` sets them.
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
        # Most models compute silu(gate) ⊙ up, some clamp, and the order of gate and up rows differs. The
        # bound method keeps the original alive; its weights are freed.
        self._gate: Callable[[Tensor], Tensor] = original._apply_gate
        for name in EXPERT_WEIGHTS:
            self.register_parameter(f"{name}_bias", getattr(original, f"{name}_bias", None))
            delattr(original, name)

    def put(self, name: str, matrix: PackedMatrix, *, on_host: bool) -> None:
        """Set one of ``EXPERT_WEIGHTS``.

        Args:
            on_host: the matrix stays in host memory, whatever the model's device.
        """
        setattr(self, name, PackedModule(matrix, self.dtype, stays=on_host))

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Apply the experts ``[n, k]`` to their tokens ``[n, width]``; return the weighted sums."""
        if reads_packed(hidden_states):
            return self.apply_to_few(hidden_states, top_k_index, top_k_weights)
        return self.apply_by_expert(hidden_states, top_k_index, top_k_weights)

    def apply_to_few(self, tokens: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Apply experts to a few tokens; reads an expert once for each of its tokens."""
        chosen = experts.flatten()
        given = empty_fixed(self._width, tokens.dtype, tokens.device, tokens.shape[0])
        kernels.fixed_point(given, tokens.contiguous())
        if tokens.shape[0] > 1:
            given = given.repeat_interleave(experts.shape[1], 0)
        gate_up = tokens.new_empty(chosen.shape[0], self._inner)
        matrix, bias = self.gate_up_proj.matrix, self.gate_up_proj_bias
        kernels.packed_experts_gemv(gate_up, matrix, chosen, given, bias=bias)
        inner = self._gate(gate_up).contiguous()
        given = empty_fixed(inner.shape[1], tokens.dtype, tokens.device, chosen.shape[0])
        kernels.fixed_point(given, inner)
        results = tokens.new_empty(*experts.shape, self._width, dtype=torch.float32)
        matrix, bias = self.down_proj.matrix, self.down_proj_bias
        kernels.packed_experts_gemv(results.flatten(0, 1), matrix, chosen, given, bias=bias)
        return torch.bmm(weights.float().unsqueeze(1), results).squeeze(1).to(tokens.dtype)

    def apply_by_expert(self, tokens: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """Apply experts to many tokens, one expert after the other."""
        out = torch.zeros_like(tokens)
        flat = experts.flatten()
        order = flat.argsort(stable=True)
        # The host waits for the device only here. A number beyond the experts may stand for no expert.
        counts = torch.bincount(flat, minlength=self._experts).tolist()[: self._experts]
        # Bounds the memory, however unevenly tokens are spread over the experts.
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


def put_packed(
    model: nn.Module, path: str, matrix: PackedMatrix, dtype: torch.dtype, *, experts_on_host: bool = False
) -> None:
    """Replace a model's linear layer, embeddings or experts' weight by a packed matrix.

    Args:
        path: path of the module, or of the experts' weight.
        experts_on_host: an experts' weight stays in host memory; see ``kernels.packed.on_host``.
    """
    parent_path, _, name = path.rpartition(".")
    parent = model.get_submodule(parent_path)
    if is_packable_experts(parent):
        parent = PackedExperts(parent, dtype)
        model.set_submodule(parent_path, parent)
    if isinstance(parent, PackedExperts):
        parent.put(name, matrix, on_host=experts_on_host)
    else:
        model.set_submodule(path, packed_module(model.get_submodule(path), matrix, dtype))
