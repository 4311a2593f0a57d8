"""The operations of a model around its attention, for a decode step: fewer launches, at the memory's speed.

A decode step of an eager transformers layer is some 30 element-wise launches around its matrix products; in a
CUDA graph each still costs about 2 µs. Normalisations, the rotation, and a gated MLP up to its last product
are one launch each, and a product with a single token reads its matrix as fast as it can. What is replaced is
found by what it computes, not by its name: every candidate is tried on random numbers first, and stays as it
is where ours gives something else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple, TypeAlias, TypeGuard, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lrqk_cli.kernels import decode
from lrqk_cli.kernels.gated_gemv.reference import Activation
from lrqk_cli.models.packed_layers import PackedLinear

Linear: TypeAlias = nn.Linear | PackedLinear

_ROTATION = "apply_rotary_pos_emb"
_GATED_MLP = ("gate_proj", "up_proj", "down_proj")
_SAME_INPUT = ("q_proj", "k_proj", "v_proj")
_EPSILONS = ("variance_epsilon", "eps")


class _NormKind(NamedTuple):
    """Where a model rounds, and from where it counts the weight; see ``decode.rms_norm``."""

    offset: float
    rounds_first: bool


_NORM_KINDS = (_NormKind(0.0, True), _NormKind(0.0, False), _NormKind(1.0, False))


@contextmanager
def fused(model: PreTrainedModel) -> Iterator[None]:
    """Let the model use fused operations inside this context; it needs Triton and a GPU to gain by them."""
    # All are found before any is replaced, since what is tried should be as it was.
    forwards: dict[nn.Module, Callable[..., Any]] = {}
    for module in model.modules():
        for part, forward in _fused_forwards(module):
            forwards.setdefault(part, forward)
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            del module.forward


def _is_its_own(module: nn.Module) -> bool:
    """Tell whether a module computes what its class says, and not what somebody else has put there.

    Accelerate does, where weights are elsewhere until they are used.
    """
    return "forward" not in vars(module)


def _is_linear(module: object) -> TypeGuard[Linear]:
    if type(module) is PackedLinear:
        return _is_its_own(module)
    return type(module) is nn.Linear and _is_its_own(module) and module.weight.is_contiguous()


def _linear_parts(module: nn.Module, names: Sequence[str]) -> list[Linear]:
    """Return those of a module's parts by these names that ours can stand in for."""
    return [part for name in names if _is_linear(part := getattr(module, name, None))]


def _fused_forwards(module: nn.Module) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """Yield what a module, or parts of it, should do instead."""
    if not _is_its_own(module):
        return
    if _is_linear(module):
        yield module, partial(_project, module)
    for find in (_fused_norm, _fused_gate, _with_fused_rotation):
        if (forward := find(module)) is not None:
            yield module, forward
            break
    parts = _linear_parts(module, _SAME_INPUT)
    if len({(part.in_features, type(part)) for part in parts}) == 1 < len(parts):
        shared = _SharedInput(parts)
        for number, part in enumerate(parts):
            yield part, partial(shared.project, number)


def _dtype(module: Linear) -> torch.dtype:
    """Return the type of what a layer takes and returns."""
    return module.dtype if isinstance(module, PackedLinear) else module.weight.dtype


def _takes(module: Linear, input: Tensor) -> bool:
    """Tell whether this is a single token, of the layer's type."""
    return input.numel() == module.in_features and input.dtype == _dtype(module)


def _project(module: Linear, input: Tensor) -> Tensor:
    """Apply a linear layer to a single token; leave more of them to the layer."""
    if not _takes(module, input):
        result: Tensor = MethodType(type(module).forward, module)(input)
        return result
    out = input.new_empty(*input.shape[:-1], module.out_features)
    _multiply((module,), input.reshape(-1), out.view(-1))
    return out


def _multiply(layers: Sequence[Linear], row: Tensor, out: Tensor) -> None:
    """Apply up to three layers of one kind to the same token, all results one after the other."""
    biases = tuple(layer.bias for layer in layers)
    if isinstance(layers[0], PackedLinear):
        decode.packed_gemv(
            tuple(layer.matrix for layer in layers if isinstance(layer, PackedLinear)),
            row,
            out,
            biases=biases,
        )
    else:
        decode.gemv(
            tuple(layer.weight for layer in layers if isinstance(layer, nn.Linear)), row, out, biases=biases
        )


class _SharedInput:
    """Linear layers that are asked one after the other about the same token: the first computes for all."""

    def __init__(self, layers: Sequence[Linear]) -> None:
        self._layers = layers
        self._input: Tensor | None = None
        self._results: dict[int, Tensor] = {}

    def project(self, number: int, input: Tensor) -> Tensor:
        """Apply layer ``number``."""
        if input is not self._input or number not in self._results:
            if number or not _takes(self._layers[0], input):
                return _project(self._layers[number], input)
            self._compute(input)
        result = self._results.pop(number)
        if not self._results:
            self._input = None
        return result

    def _compute(self, input: Tensor) -> None:
        sizes = [layer.out_features for layer in self._layers]
        out = input.new_empty(sum(sizes))
        _multiply(self._layers, input.reshape(-1), out)
        parts = out.split(sizes)
        self._results = {n: part.view(*input.shape[:-1], -1) for n, part in enumerate(parts)}
        self._input = input


class _GatedMlp(NamedTuple):
    """The linear layers of ``down(act(gate(x)) ⊙ up(x))``."""

    gate: Linear
    up: Linear
    down: Linear


def _fused_gate(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return a gated MLP's forward with one product for both matrices of the gate; None where it is none."""
    parts = _linear_parts(module, _GATED_MLP)
    if len(parts) < len(_GATED_MLP) or any(part.bias is not None for part in parts[:2]):
        return None
    layers = _GatedMlp(*parts)
    like = _sample(layers.gate)
    if like is None or type(layers.gate) is not type(layers.up):
        return None
    original = MethodType(type(module).forward, module)
    row = _probe(1, 1, layers.gate.in_features, like=like)
    with torch.no_grad():
        expected = original(row)
        for activation in get_args(Activation):
            forward = partial(_apply_gated, original, layers, activation)
            difference = (forward(row) - expected).float().norm()
            if difference <= 4 * torch.finfo(expected.dtype).eps * expected.float().norm():
                return forward
    return None


def _apply_gated(
    original: Callable[[Tensor], Tensor], layers: _GatedMlp, activation: Activation, x: Tensor
) -> Tensor:
    """Apply a gated MLP to a single token; leave all else to ``original``."""
    if not _takes(layers.gate, x):
        return original(x)
    inner = x.new_empty(*x.shape[:-1], layers.gate.out_features)
    gate, up, row, out = layers.gate, layers.up, x.reshape(-1), inner.view(-1)
    if isinstance(gate, PackedLinear) and isinstance(up, PackedLinear):
        decode.packed_gated_gemv(gate.matrix, up.matrix, row, out, activation=activation)
    elif isinstance(gate, nn.Linear) and isinstance(up, nn.Linear):
        decode.gated_gemv(gate.weight, up.weight, row, out, activation=activation)
    projected: Tensor = layers.down(inner)
    return projected


def _fused_norm(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return what normalises as the module does; None where nothing here does."""
    weight = getattr(module, "weight", None)
    eps = next((getattr(module, name) for name in _EPSILONS if hasattr(module, name)), None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1 or not isinstance(eps, float):
        return None
    if len(list(module.parameters())) != 1 or next(module.children(), None) is not None:
        return None
    rows = _probe(4, weight.shape[0], like=weight)
    with torch.no_grad():
        expected = module(rows)
        for kind in _NORM_KINDS:
            norm = partial(_normalise, MethodType(type(module).forward, module), weight, eps, kind)
            if expected.shape == rows.shape and _is_same(norm(rows), expected):
                return norm
    return None


def _normalise(
    original: Callable[[Tensor], Tensor], weight: Tensor, eps: float, kind: _NormKind, hidden_states: Tensor
) -> Tensor:
    """Normalise rows of the weight's element type; leave all else to ``original``."""
    if hidden_states.dtype != weight.dtype:
        return original(hidden_states)
    rows = hidden_states.contiguous()
    out = torch.empty_like(rows)
    width = rows.shape[-1]
    decode.rms_norm(rows.view(-1, width), weight, out.view(-1, width), eps=eps, **kind._asdict())
    return out


def _with_fused_rotation(module: nn.Module) -> Callable[..., Any] | None:
    """Return the module's forward with our rotation; None where it has none, or another one.

    The rotation is a global function of the module's file. A copy of ``forward`` with globals of its own sees
    ours in its place, and nothing else does.
    """
    forward = inspect.unwrap(type(module).forward)
    if not isinstance(forward, FunctionType) or _ROTATION not in forward.__code__.co_names:
        return None
    original = forward.__globals__.get(_ROTATION)
    if original is None or not _rotates_alike(original, module):
        return None
    names = {**forward.__globals__, _ROTATION: partial(_rotate, original)}
    copy = FunctionType(forward.__code__, names, forward.__name__, forward.__defaults__, forward.__closure__)
    copy.__kwdefaults__ = forward.__kwdefaults__
    return MethodType(copy, module)


def _rotates_alike(original: Callable[..., tuple[Tensor, Tensor]], module: nn.Module) -> bool:
    weight = _sample(module)
    width = getattr(module, "head_dim", None)
    if weight is None or not isinstance(width, int) or width % 2:
        return False
    query, key = (_probe(1, heads, 1, width, like=weight) for heads in (3, 2))
    angle = torch.linspace(0.0, 3.0, width // 2, device=weight.device).repeat(2).view(1, 1, width)
    cosine, sine = angle.cos().to(weight.dtype), angle.sin().to(weight.dtype)
    try:
        expected = original(query, key, cosine, sine)
    except (RuntimeError, TypeError, ValueError):
        return False
    return all(map(_is_same, _rotate(original, query, key, cosine, sine), expected))


def _rotate(
    original: Callable[..., tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *others: Any,
    **named: Any,
) -> tuple[Tensor, Tensor]:
    """Rotate a single token's queries ``[1, H, 1, d]`` and keys ``[1, KV, 1, d]``; else call ``original``."""
    width = q.shape[-1]
    if others or named or q.shape[:3:2] != (1, 1) or cos.numel() != width:
        return original(q, k, cos, sin, *others, **named)
    query, key = q.contiguous(), k.contiguous()
    turned = torch.empty_like(query), torch.empty_like(key)
    decode.rotate(
        query.view(-1, width),
        key.view(-1, width),
        cos.contiguous().view(-1),
        sin.contiguous().view(-1),
        *(rows.view(-1, width) for rows in turned),
    )
    return turned


def _sample(module: nn.Module) -> Tensor | None:
    """Return a tensor of the type and on the device of what a module takes; None where nothing tells."""
    for part in module.modules():
        if isinstance(part, PackedLinear):
            return torch.empty(0, dtype=part.dtype, device=part.packed.device)
        if (parameter := next(part.parameters(recurse=False), None)) is not None:
            return parameter
    return None


def _probe(*shape: int, like: Tensor) -> Tensor:
    """Return random numbers, none of whose rows has a mean of zero."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(shape, generator=generator) + 0.5
    return numbers.to(like.device, like.dtype)


def _is_same(found: Tensor, expected: Tensor) -> bool:
    """Tell whether numbers are equal but for the rounding of a few operations."""
    rounding = 4 * torch.finfo(expected.dtype).eps
    return found.dtype == expected.dtype and torch.allclose(found, expected, rtol=rounding, atol=rounding)
