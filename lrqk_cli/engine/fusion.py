"""The operations of a model around its attention, for a decode step: fewer launches, at the memory's speed.

A decode step of an eager transformers layer is some 30 element-wise launches around its matrix products; in a
CUDA graph each still costs about 2 µs. Normalisations, the rotation, and a gated MLP up to its last product
are one launch each, and a product with a single token reads its matrix as fast as it can. What is replaced is
found by what it computes, not by its name: every candidate is tried on random numbers first, and stays as it
is where ours gives something else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FunctionType, MethodType
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lrqk_cli.kernels import decode
from lrqk_cli.kernels.gated_gemv.reference import Activation

_ROTATION = "apply_rotary_pos_emb"
_GATED_MLP = ("gate_proj", "up_proj", "down_proj")
_EPSILONS = ("variance_epsilon", "eps")


class _NormKind(NamedTuple):
    """Where a model rounds, and from where it counts the weight; see ``decode.rms_norm``."""

    offset: float
    rounds_first: bool


_NORM_KINDS = (_NormKind(0.0, True), _NormKind(0.0, False), _NormKind(1.0, False))


@contextmanager
def fused(model: PreTrainedModel) -> Iterator[None]:
    """Let the model use fused operations inside this context; it needs Triton and a GPU to gain by them."""
    replaced: list[nn.Module] = []
    try:
        for module in model.modules():
            # A forward of the module's own was put there by somebody else, as accelerate does.
            if "forward" not in vars(module) and (forward := _fused_forward(module)) is not None:
                module.forward = forward
                replaced.append(module)
        yield
    finally:
        for module in replaced:
            del module.forward


def _fused_forward(module: nn.Module) -> Callable[..., Any] | None:
    if type(module) is nn.Linear:
        return partial(_project, module)
    for find in (_fused_norm, _fused_gate, _with_fused_rotation):
        if (forward := find(module)) is not None:
            return forward
    return None


def _project(module: nn.Linear, input: Tensor) -> Tensor:
    """Apply a linear layer to a single token; leave more of them to torch."""
    weight = module.weight
    if input.numel() != module.in_features or input.dtype != weight.dtype or not weight.is_contiguous():
        return nn.Linear.forward(module, input)
    out = input.new_empty(*input.shape[:-1], module.out_features)
    decode.gemv(weight, input.reshape(-1), out.view(-1), bias=module.bias)
    return out


class _GatedMlp(NamedTuple):
    """The linear layers of ``down(act(gate(x)) ⊙ up(x))``."""

    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear


def _fused_gate(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return a gated MLP's forward with one product for both matrices of the gate; None where it is none."""
    parts = [part for name in _GATED_MLP if type(part := getattr(module, name, None)) is nn.Linear]
    if len(parts) < len(_GATED_MLP):
        return None
    layers = _GatedMlp(*parts)
    if any(part.bias is not None or not part.weight.is_contiguous() for part in layers[:2]):
        return None
    original = MethodType(type(module).forward, module)
    row = _probe(1, 1, layers.gate.in_features, like=layers.gate.weight)
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
    gate = layers.gate.weight
    if x.numel() != layers.gate.in_features or x.dtype != gate.dtype:
        return original(x)
    inner = x.new_empty(*x.shape[:-1], layers.gate.out_features)
    decode.gated_gemv(gate, layers.up.weight, x.reshape(-1), inner.view(-1), activation=activation)
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
    weight = next(module.parameters())
    width = getattr(module, "head_dim", None)
    if not isinstance(width, int) or width % 2:
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


def _probe(*shape: int, like: Tensor) -> Tensor:
    """Return random numbers, none of whose rows has a mean of zero."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(shape, generator=generator) + 0.5
    return numbers.to(like.device, like.dtype)


def _is_same(found: Tensor, expected: Tensor) -> bool:
    """Tell whether numbers are equal but for the rounding of a few operations."""
    rounding = 4 * torch.finfo(expected.dtype).eps
    return found.dtype == expected.dtype and torch.allclose(found, expected, rtol=rounding, atol=rounding)
