"""Decoder layers for a single token whose products add their results to the residual themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lrqk_cli.attention.hook import attending_by
from lrqk_cli.engine.fused_linears import Residuals, is_its_own
from lrqk_cli.models.packed_layers import FEW_TOKENS

_PARTS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")


def layers_with_sums(
    model: PreTrainedModel, residuals: Residuals
) -> Iterator[tuple[nn.Module, Callable[..., Tensor]]]:
    """Yield each decoder layer with the usual two residual sums, and its fused forward.

    Each layer is tested on random numbers with transformers' own attention; its parts are fused already.
    """
    layers = [layer for layer in model.modules() if all(hasattr(layer, part) for part in _PARTS)]
    if not layers:
        return
    with attending_by(model, "eager"):
        for layer in filter(is_its_own, layers):
            forward = partial(_apply, layer, layer.forward, residuals)
            if _computes(layer, forward):
                yield layer, forward


def _apply(
    layer: Any, original: Callable[..., Tensor], residuals: Residuals, hidden_states: Tensor, **kwargs: Any
) -> Tensor:
    """Apply a layer to a few tokens ``[1, n, width]``; pass other inputs to ``original``."""
    if hidden_states.shape[0] != 1 or hidden_states.shape[1] > FEW_TOKENS:
        return original(hidden_states, **kwargs)

    def attend() -> Tensor:
        output: Tensor = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)[0]
        return output

    def transform() -> Tensor:
        output: Tensor = layer.mlp(layer.post_attention_layernorm(attended))
        return output

    attended = residuals.add(hidden_states, getattr(layer.self_attn, "o_proj", None), attend)
    return residuals.add(attended, getattr(layer.mlp, "down_proj", None), transform)


@torch.no_grad()
def _computes(layer: Any, forward: Callable[..., Tensor]) -> bool:
    """Return whether ``forward`` and the layer give the same result for a random token."""
    try:
        weight, width = layer.input_layernorm.weight, layer.self_attn.head_dim
        generator = torch.Generator().manual_seed(0)
        token = torch.randn(1, 1, weight.shape[0], generator=generator).add(0.5).to(weight)
        angle = torch.linspace(0.0, 3.0, width // 2).repeat(2).view(1, 1, -1)
        position = angle.cos().to(weight), angle.sin().to(weight)
        kwargs = {"attention_mask": None, "position_embeddings": position}
        expected = layer(token, **kwargs)
        found = forward(token, **kwargs)
    except Exception:  # a layer with another signature may raise anything
        return False
    # The same kernels run in the same order, so rounding cannot differ.
    return isinstance(expected, Tensor) and torch.equal(found, expected)
