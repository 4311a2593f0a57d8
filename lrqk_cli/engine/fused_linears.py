"""Linear layers for a single token, of plain weights and of packed ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import NamedTuple, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn

from lrqk_cli import kernels
from lrqk_cli.kernels.fixed_point import empty_fixed
from lrqk_cli.kernels.gated_gemv import Activation
from lrqk_cli.models.packed_layers import PackedLinear

Linear: TypeAlias = nn.Linear | PackedLinear


def is_its_own(module: nn.Module) -> bool:
    """Tell whether a module computes what its class says, and not what somebody else has put there.

    Accelerate does, where weights are elsewhere until they are used.
    """
    return "forward" not in vars(module)


def is_linear(module: object) -> TypeGuard[Linear]:
    """Tell whether ours can stand in for a layer."""
    if type(module) is PackedLinear:
        return is_its_own(module)
    return type(module) is nn.Linear and is_its_own(module) and module.weight.is_contiguous()


def linear_parts(module: nn.Module, names: Sequence[str]) -> list[Linear]:
    """Return those of a module's parts by these names that ours can stand in for."""
    return [part for name in names if is_linear(part := getattr(module, name, None))]


def _dtype(module: Linear) -> torch.dtype:
    """Return the type of what a layer takes and returns."""
    return module.dtype if isinstance(module, PackedLinear) else module.weight.dtype


def _takes(module: Linear, input: Tensor) -> bool:
    """Tell whether this is a single token, of the layer's type."""
    return input.numel() == module.in_features and input.dtype == _dtype(module)


class Vectors:
    """The newest token in fixed point, as packed weights take it: made once for all that take the same."""

    def __init__(self) -> None:
        self._input: Tensor | None = None
        self._fixed: Tensor | None = None

    def space_for(self, input: Tensor) -> Tensor:
        """Return where somebody may write ``input`` in fixed point, before anything asks for it."""
        self._input = input
        self._fixed = empty_fixed(input.numel(), input.dtype, input.device)
        return self._fixed

    def of(self, input: Tensor) -> Tensor:
        """Return a single token in fixed point."""
        fixed = self._fixed if self._is_newest(input) else None
        if fixed is None:
            fixed = self.space_for(input)
            kernels.fixed_point(fixed, input.reshape(-1))
        return fixed

    def _is_newest(self, input: Tensor) -> bool:
        """Tell whether this is the token, perhaps in another shape.

        Its address is enough: the reference to it keeps its memory from being used again, and models do not
        write into what they have handed on.
        """
        newest = self._input
        if newest is None or (newest.numel(), newest.dtype) != (input.numel(), input.dtype):
            return False
        return input.data_ptr() == newest.data_ptr() and input.is_contiguous()


class Residuals:
    """Sums of a residual and what a part of a model adds to it, which the part's last product can compute."""

    def __init__(self) -> None:
        self._waiting: dict[nn.Module, Tensor] = {}

    def add(self, residual: Tensor, last: nn.Module | None, compute: Callable[[], Tensor]) -> Tensor:
        """Return ``residual + compute()``.

        Args:
            last: the layer whose result is that of ``compute``; None where it is not known.
        """
        if last is None:
            return residual + compute()
        self._waiting[last] = residual
        try:
            result = compute()
        finally:
            is_added = self._waiting.pop(last, None) is None
        return result if is_added else residual + result

    def take(self, layer: nn.Module, result: Tensor) -> Tensor | None:
        """Return the residual to which a layer has to add a result, once, in the same shape and type."""
        residual = self._waiting.get(layer)
        if residual is None or (residual.shape, residual.dtype) != (result.shape, result.dtype):
            return None
        return self._waiting.pop(layer).contiguous()


class Shared(NamedTuple):
    """What the layers of a model have in common.

    Attributes:
        vectors: where weights are packed.
    """

    residuals: Residuals
    vectors: Vectors | None


def project_token(module: Linear, shared: Shared, input: Tensor) -> Tensor:
    """Apply a linear layer to a single token; leave more of them to the layer."""
    if not _takes(module, input):
        result: Tensor = MethodType(type(module).forward, module)(input)
        return result
    out = input.new_empty(*input.shape[:-1], module.out_features)
    residual = shared.residuals.take(module, out)
    flat = None if residual is None else residual.view(-1)
    _multiply((module,), shared.vectors, input, out.view(-1), flat)
    return out


def _multiply(
    layers: Sequence[Linear],
    vectors: Vectors | None,
    input: Tensor,
    out: Tensor,
    residual: Tensor | None = None,
) -> None:
    """Apply up to three layers of one kind to the same token, all results one after the other."""
    biases = tuple(layer.bias for layer in layers)
    if vectors is not None and isinstance(layers[0], PackedLinear):
        kernels.packed_gemv(
            tuple(layer.matrix for layer in layers if isinstance(layer, PackedLinear)),
            vectors.of(input),
            out,
            biases=biases,
            residual=residual,
        )
    else:
        weights = tuple(layer.weight for layer in layers if isinstance(layer, nn.Linear))
        kernels.gemv(weights, input.reshape(-1), out, biases=biases, residual=residual)


class SharedInput:
    """Linear layers that are asked one after the other about the same token: the first computes for all."""

    def __init__(self, layers: Sequence[Linear], shared: Shared) -> None:
        self._layers, self._shared = layers, shared
        self._input: Tensor | None = None
        self._results: dict[int, Tensor] = {}

    def project(self, number: int, input: Tensor) -> Tensor:
        """Apply layer ``number``."""
        if input is not self._input or number not in self._results:
            if number or not _takes(self._layers[0], input):
                return project_token(self._layers[number], self._shared, input)
            self._compute(input)
        result = self._results.pop(number)
        if not self._results:
            self._input = None
        return result

    def _compute(self, input: Tensor) -> None:
        sizes = [layer.out_features for layer in self._layers]
        out = input.new_empty(sum(sizes))
        _multiply(self._layers, self._shared.vectors, input, out)
        parts = out.split(sizes)
        self._results = {n: part.view(*input.shape[:-1], -1) for n, part in enumerate(parts)}
        self._input = input


class GatedMlp(NamedTuple):
    """The linear layers of ``down(act(gate(x)) ⊙ up(x))``."""

    gate: Linear
    up: Linear
    down: Linear


def apply_gated(
    original: Callable[[Tensor], Tensor],
    layers: GatedMlp,
    vectors: Vectors | None,
    activation: Activation,
    x: Tensor,
) -> Tensor:
    """Apply a gated MLP to a single token; leave all else to ``original``."""
    if not _takes(layers.gate, x):
        return original(x)
    inner = x.new_empty(*x.shape[:-1], layers.gate.out_features)
    gate, up, out = layers.gate, layers.up, inner.view(-1)
    if vectors is not None and isinstance(gate, PackedLinear) and isinstance(up, PackedLinear):
        kernels.packed_gated_gemv(gate.matrix, up.matrix, vectors.of(x), out, activation=activation)
    elif isinstance(gate, nn.Linear) and isinstance(up, nn.Linear):
        kernels.gated_gemv(gate.weight, up.weight, x.reshape(-1), out, activation=activation)
    projected: Tensor = layers.down(inner)
    return projected
