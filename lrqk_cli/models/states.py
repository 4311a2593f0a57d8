"""The size of the states that layers keep beside rows: those of convolutions and recurrences."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from lrqk_cli.model_spec import StateSize

# What transformers calls layers that have such a state.
STATEFUL_LAYERS = frozenset({"linear_attention", "conv", "hybrid"})
_CACHE_ARGUMENTS = ("cache", "cache_params", "past_key_values")


@torch.no_grad()
def state_size(model: PreTrainedModel) -> StateSize | None:
    """Return the size of all states, by letting each layer that has one read a token; None without any.

    Args:
        model: on the meta device, where this takes neither time nor memory.
    """
    text = model.config.get_text_config()
    kinds: list[str] = getattr(text, "layer_types", None) or []
    if STATEFUL_LAYERS.isdisjoint(kinds):
        return None
    cache, own = DynamicCache(config=text), torch.bfloat16
    for module in _mixers(model, kinds):
        mixer = module.to(own)
        names = inspect.signature(inspect.unwrap(type(mixer).forward)).parameters
        argument = next(name for name in _CACHE_ARGUMENTS if name in names)
        mixer(torch.empty(1, 1, text.hidden_size, dtype=own, device="meta"), **{argument: cache})
    sizes = {own: 0, torch.float32: 0}
    for layer in cache.layers:
        states: list[Any] = [*getattr(layer, "conv_states", {}).values()]
        states += getattr(layer, "recurrent_states", {}).values()
        for state in states:
            if state is not None:
                sizes[state.dtype] += state.numel()
    return StateSize(sizes[own], sizes[torch.float32])


def _mixers(model: PreTrainedModel, kinds: list[str]) -> Iterator[nn.Module]:
    """Yield the modules that have a state: those within stateful layers that know their number, innermost."""
    for module in model.modules():
        number: Any = getattr(module, "layer_idx", None)
        if number is None or kinds[number] not in STATEFUL_LAYERS or hasattr(module, "scaling"):
            continue
        if not any(hasattr(child, "layer_idx") for child in module.modules() if child is not module):
            yield module
