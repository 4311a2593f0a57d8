"""Linear layers for a single token, with plain or packed weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import NamedTuple, TypeAlias, TypeGuard

from torch import Tensor, nn

from lrqk_cli import kernels
from lrqk_cli.kernels.fixed_point import empty_fixed
from lrqk_cli.kernels.gated_gemv import Activation
from lrqk_cli.models.packed_layers import PackedLinear

Linear: TypeAlias = nn.Linear | PackedLinear


def is_its_own(module: nn.Module) -> bool:
    """Return whether a module has its class's ``forward``.

    Accelerate replaces ``forward`` where it moves weights to the device for each use.
    """
    return "forward" not in vars(module)


def is_linear(module: object) -> TypeGuard[Linear]:
    """Return whether the fused product can replace a layer."""
    if type(module) is PackedLinear:
        return is_its_own(module)
    return type(module) is nn.Linear and is_its_own(module) and module.weight.is_contiguous()


def linear_parts(module: nn.Module, names: Sequence[str]) -> list[Linear]:
    """Return the named parts of a module that the fused product can replace."""
    return [part for name in names if is_linear(part := getattr(module, name, None))]


def _takes(module: Linear, input: Tensor) -> bool:
    """Return whether ``input`` is a single token of the layer's dtype."""
    dtype = module.dtype if isinstance(module, PackedLinear) else module.weight.dtype
    return input.numel() == module.in_features and input.dtype == dtype


class Vectors:
    """The newest token in fixed point, the input of packed products; converted once for all of them."""

    def __init__(self) -> None:
        self._input: Tensor | None = None
        self._fixed: Tensor | None = None

    def space_for(self, input: Tensor) -> Tensor:
        """Return the tensor into which the caller writes ``input`` in fixed point, before its first use."""
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
        """Return whether ``input`` is the kept token, perhaps in another shape.

        Comparing addresses is enough: the kept reference prevents reuse of the memory, and models do not
        write into activations that they have passed on.
        """
        newest = self._input
        if newest is None or (newest.numel(), newest.dtype) != (input.numel(), input.dtype):
            return False
        return input.data_ptr() == newest.data_ptr() and input.is_contiguous()


class Residuals:
    """Residual sums that the last product of a model's part computes itself."""

    def __init__(self) -> None:
        self._waiting: dict[nn.Module, Tensor] = {}

    def add(self, residual: Tensor, last: nn.Module | None, compute: Callable[[], Tensor]) -> Tensor:
        """Return ``residual + compute()``.

        Args:
            last: the linear layer that computes the result of ``compute``; None if unknown.
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
        """Return, once, the residual that a layer adds to its result, if shape and dtype match."""
        residual = self._waiting.get(layer)
        if residual is None or (residual.shape, residual.dtype) != (result.shape, result.dtype):
            return None
        return self._waiting.pop(layer).contiguous()


class Shared(NamedTuple):
    """State that all fused layers of a model share.

    Attributes:
        vectors: the token in fixed point; None without packed weights.
    """

    residuals: Residuals
    vectors: Vectors | None


def project_token(module: Linear, shared: Shared, input: Tensor) -> Tensor:
    """Apply a linear layer to a single token; pass several tokens to the layer itself."""
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
    """Apply up to three layers of one kind to a token; ``out`` holds their results one after the other."""
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
    """Linear layers called in turn with the same token: the first call computes the results of all."""

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
    """Apply a gated MLP to a single token; pass other inputs to ``original``."""
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
