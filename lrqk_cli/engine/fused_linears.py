"""Linear layers for a single token, and for the few of a verify step if their weights are packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import MethodType
from typing import NamedTuple, TypeAlias, TypeGuard

from torch import Tensor, nn

from lrqk_cli import kernels
from lrqk_cli.kernels.fixed_point import empty_fixed
from lrqk_cli.kernels.gated_gemv import Activation
from lrqk_cli.models.packed_layers import FEW_TOKENS, PackedLinear

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


def _takes(module: Linear, vectors: Vectors | None, input: Tensor) -> bool:
    """Return whether ``input`` is of the layer's dtype, and a single token, or a few for packed weights."""
    if input.shape[-1] != module.in_features:
        return False
    tokens = input.numel() // module.in_features
    if isinstance(module, PackedLinear):
        return input.dtype == module.dtype and tokens <= (1 if vectors is None else FEW_TOKENS)
    return input.dtype == module.weight.dtype and tokens == 1


class Vectors:
    """The newest tokens in fixed point, the input of packed products; converted once for all of them."""

    def __init__(self) -> None:
        self._input: Tensor | None = None
        self._fixed: Tensor | None = None

    def space_for(self, input: Tensor, tokens: int = 1) -> Tensor:
        """Return the tensor into which the caller writes ``input`` in fixed point, before its first use.

        Args:
            tokens: how many ``input`` has, one after the other.
        """
        self._input = input
        count = () if tokens == 1 else (tokens,)
        self._fixed = empty_fixed(input.numel() // tokens, input.dtype, input.device, *count)
        return self._fixed

    def of(self, input: Tensor) -> Tensor:
        """Return tokens ``[…, width]`` in fixed point."""
        fixed = self._fixed if self._is_newest(input) else None
        if fixed is None:
            tokens = input.numel() // input.shape[-1]
            fixed = self.space_for(input, tokens)
            rows = input.reshape(-1) if tokens == 1 else input.reshape(tokens, -1)
            kernels.fixed_point(fixed, rows.contiguous())
        return fixed

    def _is_newest(self, input: Tensor) -> bool:
        """Return whether ``input`` has the kept tokens, perhaps in another shape.

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
    """Apply a linear layer to a token, or to a few; pass other inputs to the layer itself."""
    if not _takes(module, shared.vectors, input):
        result: Tensor = MethodType(type(module).forward, module)(input)
        return result
    out = input.new_empty(*input.shape[:-1], module.out_features)
    residual = shared.residuals.take(module, out)
    _multiply((module,), shared.vectors, input, out, residual)
    return out


def _multiply(
    layers: Sequence[Linear],
    vectors: Vectors | None,
    input: Tensor,
    out: Tensor,
    residual: Tensor | None = None,
) -> None:
    """Apply up to three layers of one kind to tokens; a row of ``out`` has their results, one by one."""
    biases = tuple(layer.bias for layer in layers)
    if vectors is not None and isinstance(layers[0], PackedLinear):
        kernels.packed_gemv(
            tuple(layer.matrix for layer in layers if isinstance(layer, PackedLinear)),
            vectors.of(input),
            _rows(out),
            biases=biases,
            residual=None if residual is None else _rows(residual),
        )
    else:
        weights = tuple(layer.weight for layer in layers if isinstance(layer, nn.Linear))
        flat = None if residual is None else residual.view(-1)
        kernels.gemv(weights, input.reshape(-1), out.view(-1), biases=biases, residual=flat)


def _rows(out: Tensor) -> Tensor:
    """Return results as products of a single token, ``[rows]``, or of several, ``[tokens, rows]``."""
    return out.view(-1) if out.numel() == out.shape[-1] else out.view(-1, out.shape[-1])


class SharedInput:
    """Linear layers called in turn with the same tokens: the first call computes the results of all."""

    def __init__(self, layers: Sequence[Linear], shared: Shared) -> None:
        self._layers, self._shared = layers, shared
        self._input: Tensor | None = None
        self._results: dict[int, Tensor] = {}

    def project(self, number: int, input: Tensor) -> Tensor:
        """Apply layer ``number``."""
        if input is not self._input or number not in self._results:
            if number or not _takes(self._layers[0], self._shared.vectors, input):
                return project_token(self._layers[number], self._shared, input)
            self._compute(input)
        result = self._results.pop(number)
        if not self._results:
            self._input = None
        return result

    def _compute(self, input: Tensor) -> None:
        sizes = [layer.out_features for layer in self._layers]
        out = input.new_empty(*input.shape[:-1], sum(sizes))
        _multiply(self._layers, self._shared.vectors, input, out)
        self._results = dict(enumerate(out.split(sizes, -1)))
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
    """Apply a gated MLP to a token, or to a few; pass other inputs to ``original``."""
    if not _takes(layers.gate, vectors, x):
        return original(x)
    inner = x.new_empty(*x.shape[:-1], layers.gate.out_features)
    gate, up, out = layers.gate, layers.up, _rows(inner)
    if vectors is not None and isinstance(gate, PackedLinear) and isinstance(up, PackedLinear):
        kernels.packed_gated_gemv(gate.matrix, up.matrix, vectors.of(x), out, activation=activation)
    elif isinstance(gate, nn.Linear) and isinstance(up, nn.Linear):
        kernels.gated_gemv(gate.weight, up.weight, x.reshape(-1), out, activation=activation)
    projected: Tensor = layers.down(inner)
    return projected
