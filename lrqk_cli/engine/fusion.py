"""The operations of a model around its attention, for a decode step: fewer launches, at the memory's speed.

A decode step of an eager transformers layer is some 30 element-wise launches around its matrix products; in a
CUDA graph each still costs about 2 µs. Normalisations, the rotation, and a gated MLP up to its last product
are one launch each, and a product with a single token reads its matrix at the memory's speed. Modules are
chosen by their results, not by their names: a module is replaced only if the fused operation gives the same
results on random numbers.
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

from lrqk_cli import kernels
from lrqk_cli.engine.fused_layers import layers_with_sums
from lrqk_cli.engine.fused_linears import (
    GatedMlp,
    Residuals,
    Shared,
    SharedInput,
    Vectors,
    apply_gated,
    is_its_own,
    is_linear,
    linear_parts,
    project_token,
)
from lrqk_cli.formats import UNIT
from lrqk_cli.kernels.gated_gemv import Activation
from lrqk_cli.models.packed_layers import FEW_TOKENS, PackedLinear

_ROTATION = "apply_rotary_pos_emb"
_GATED_MLP = ("gate_proj", "up_proj", "down_proj")
_SAME_INPUT = ("q_proj", "k_proj", "v_proj")
_EPSILONS = ("variance_epsilon", "eps")


class _NormKind(NamedTuple):
    """Where a norm rounds, and whether its weight counts from one; see ``kernels.rms_norm``."""

    offset: float
    rounds_first: bool


_NORM_KINDS = (_NormKind(0.0, True), _NormKind(0.0, False), _NormKind(1.0, False))


@contextmanager
def fused(model: PreTrainedModel) -> Iterator[Shared]:
    """Let the model use fused operations inside this context; they are faster with Triton on a GPU only.

    Yields the shared state, with the newest token in fixed point if weights are packed.
    """
    # Find all modules before replacing any, so that each is tested against original modules.
    forwards: dict[nn.Module, Callable[..., Any]] = {}
    is_packed = any(isinstance(module, PackedLinear) for module in model.modules())
    shared = Shared(Residuals(), Vectors() if is_packed else None)
    for module in model.modules():
        for part, forward in _fused_forwards(module, shared):
            forwards.setdefault(part, forward)
    try:
        for module, forward in forwards.items():
            module.forward = forward
        # Layers are tested with their fused parts in place.
        for layer, forward in list(layers_with_sums(model, shared.residuals)):
            layer.forward = forwards[layer] = forward
        yield shared
    finally:
        for module in forwards:
            del module.forward


def _fused_forwards(module: nn.Module, shared: Shared) -> Iterator[tuple[nn.Module, Callable[..., Any]]]:
    """Yield the fused forwards of a module or of its parts."""
    if not is_its_own(module):
        return
    if is_linear(module):
        yield module, partial(project_token, module, shared)
    for find in (_fused_norm, _fused_gate, _with_fused_rotation):
        if (forward := find(module, shared.vectors)) is not None:
            yield module, forward
            break
    parts = linear_parts(module, _SAME_INPUT)
    if len({(part.in_features, type(part)) for part in parts}) == 1 < len(parts):
        joint = SharedInput(parts, shared)
        for number, part in enumerate(parts):
            yield part, partial(joint.project, number)


def _fused_gate(module: nn.Module, vectors: Vectors | None) -> Callable[[Tensor], Tensor] | None:
    """Return a gated MLP's forward with one product for gate and up; None for other modules."""
    parts = linear_parts(module, _GATED_MLP)
    if len(parts) < len(_GATED_MLP) or any(part.bias is not None for part in parts[:2]):
        return None
    layers = GatedMlp(*parts)
    like = _sample(layers.gate)
    if like is None or type(layers.gate) is not type(layers.up):
        return None
    original = MethodType(type(module).forward, module)
    row = _probe(1, 1, layers.gate.in_features, like=like)
    with torch.no_grad():
        expected = original(row)
        for activation in get_args(Activation):
            forward = partial(apply_gated, original, layers, vectors, activation)
            difference = (forward(row) - expected).float().norm()
            if difference <= 4 * torch.finfo(expected.dtype).eps * expected.float().norm():
                return forward
    return None


def _fused_norm(module: nn.Module, vectors: Vectors | None) -> Callable[[Tensor], Tensor] | None:
    """Return a fused forward that normalises as the module does; None if there is none."""
    weight = getattr(module, "weight", None)
    eps = next((getattr(module, name) for name in _EPSILONS if hasattr(module, name)), None)
    if not isinstance(weight, nn.Parameter) or weight.dim() != 1 or not isinstance(eps, float):
        return None
    if len(list(module.parameters())) != 1 or next(module.children(), None) is not None:
        return None
    # A norm with a gate takes it as well.
    if len(inspect.signature(module.forward).parameters) != 1:
        return None
    rows = _probe(4, weight.shape[0], like=weight)
    with torch.no_grad():
        expected = module(rows)
        for kind in _NORM_KINDS:
            original = MethodType(type(module).forward, module)
            norm = partial(_normalise, original, weight, eps, kind, vectors)
            if expected.shape == rows.shape and _is_same(norm(rows), expected):
                return norm
    return None


def _normalise(
    original: Callable[[Tensor], Tensor],
    weight: Tensor,
    eps: float,
    kind: _NormKind,
    vectors: Vectors | None,
    hidden_states: Tensor,
) -> Tensor:
    """Normalise rows of the weight's dtype; pass other inputs to ``original``."""
    if hidden_states.dtype != weight.dtype:
        return original(hidden_states)
    rows = hidden_states.contiguous()
    out = torch.empty_like(rows)
    width = rows.shape[-1]
    fixed, tokens = None, rows.numel() // width
    if vectors is not None and tokens <= FEW_TOKENS and width % UNIT == 0:
        fixed = vectors.space_for(out, tokens)
    kernels.rms_norm(
        rows.view(-1, width), weight, out.view(-1, width), eps=eps, fixed=fixed, **kind._asdict()
    )
    return out


def _with_fused_rotation(module: nn.Module, _: Vectors | None) -> Callable[..., Any] | None:
    """Return the module's forward with the fused rotation; None if it has no rotation, or another one.

    The rotation is a global function of the module's file. A copy of ``forward`` with its own globals calls
    the fused function instead; other code is not affected.
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
    """Rotate queries ``[1, H, S, d]`` and keys ``[1, KV, S, d]`` of a few tokens; else call ``original``."""
    tokens, width = q.shape[2:]
    if others or named or q.shape[0] != 1 or tokens > FEW_TOKENS or cos.numel() != tokens * width:
        return original(q, k, cos, sin, *others, **named)
    query, key = (rows if rows.stride(3) == 1 else rows.contiguous() for rows in (q, k))
    turned = query.new_empty(query.shape), key.new_empty(key.shape)
    angles = (part.contiguous().view(tokens, width) for part in (cos, sin))
    kernels.rotate(query[0], key[0], *angles, *(rows[0] for rows in turned))
    return turned


def _sample(module: nn.Module) -> Tensor | None:
    """Return a tensor with the dtype and device of a module's input; None if they are unknown."""
    for part in module.modules():
        if isinstance(part, PackedLinear):
            return torch.empty(0, dtype=part.dtype, device=part.packed.device)
        if (parameter := next(part.parameters(recurse=False), None)) is not None:
            return parameter
    return None


def _probe(*shape: int, like: Tensor) -> Tensor:
    """Return random numbers whose rows have means other than zero."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(shape, generator=generator) + 0.5
    return numbers.to(like.device, like.dtype)


def _is_same(found: Tensor, expected: Tensor) -> bool:
    """Return whether numbers are equal up to the rounding of a few operations."""
    rounding = 4 * torch.finfo(expected.dtype).eps
    return found.dtype == expected.dtype and torch.allclose(found, expected, rtol=rounding, atol=rounding)
