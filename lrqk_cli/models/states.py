"""What states take that layers keep beside rows: those of convolutions and recurrences."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache, PreTrainedModel

from lrqk_cli.model_spec import StateSize
from lrqk_cli.models.failures import refuse

# What transformers calls layers that have such a state.
STATEFUL_LAYERS = frozenset({"linear_attention", "conv", "hybrid"})
# Layers whose states transformers continues exactly, in segments and steps, as tests show. Others may not:
# in transformers 5.24 Jamba's and Bamba's do not.
_EXACT = frozenset(
    {
        "FalconH1Mixer",
        "GraniteMoeHybridMambaLayer",
        "Lfm2MoeShortConv",
        "Lfm2ShortConv",
        "NemotronHMamba2Mixer",
        "Qwen3NextGatedDeltaNet",
        "Qwen3_5GatedDeltaNet",
        "Qwen3_5MoeGatedDeltaNet",
    }
)
_CACHE_ARGUMENTS = ("cache", "cache_params", "past_key_values")
_DTYPE = torch.bfloat16
# Tokens of a segment of which the bytes are counted, a multiple of the chunks of recurrences.
_TOKENS = 512


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that are made inside it, as long as they live, on any device.

    Attributes:
        live: bytes by storage; ``peak``: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call an operation of torch, and note its results."""
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage(), _storages((args, kwargs)))
        self.peak = max(self.peak, sum(self.live.values()))
        return output

    def _note(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key = storage._cdata
        if key not in self.live and key not in inputs:
            self.live[key] = storage.nbytes()
            weakref.finalize(storage, self.live.pop, key, None)


def _storages(values: Any) -> set[int]:
    return {each.untyped_storage()._cdata for each in tree_leaves(values) if isinstance(each, torch.Tensor)}


@torch.no_grad()
def state_size(model: PreTrainedModel) -> StateSize | None:
    """Return the size of all states, by letting each layer that has one read a token; None without any.

    Args:
        model: on the meta device, where this takes neither time nor memory.

    Raises:
        UnsupportedModelError: the states are of a kind that was not tested.
    """
    text = model.config.get_text_config()
    kinds: list[str] = getattr(text, "layer_types", None) or []
    if STATEFUL_LAYERS.isdisjoint(kinds):
        return None
    cache, mixers = DynamicCache(config=text), list(_mixers(model, kinds))
    if unknown := {type(mixer).__name__ for mixer in mixers} - _EXACT:
        refuse("a recurrent state that lrqk was not tested with", f"that of {min(unknown)}")
    for mixer in mixers:
        _read(mixer.to(_DTYPE), cache, text.hidden_size, 1)
    sizes = {_DTYPE: 0, torch.float32: 0}
    for layer in cache.layers:
        states: list[Any] = [*getattr(layer, "conv_states", {}).values()]
        states += getattr(layer, "recurrent_states", {}).values()
        for state in states:
            if state is not None:
                sizes[state.dtype] += state.numel()
    with LiveBytes() as live:
        _read(mixers[0], DynamicCache(config=text), text.hidden_size, _TOKENS)
    return StateSize(sizes[_DTYPE], sizes[torch.float32], -(-live.peak // _TOKENS))


def _read(mixer: nn.Module, cache: DynamicCache, width: int, tokens: int) -> None:
    """Let a layer with a state read some tokens."""
    names = inspect.signature(inspect.unwrap(type(mixer).forward)).parameters
    argument = next(name for name in _CACHE_ARGUMENTS if name in names)
    mixer(torch.empty(1, tokens, width, dtype=_DTYPE, device="meta"), **{argument: cache})


def _mixers(model: PreTrainedModel, kinds: list[str]) -> Iterator[nn.Module]:
    """Yield the modules that have a state: those within stateful layers that know their number, innermost."""
    for module in model.modules():
        number: Any = getattr(module, "layer_idx", None)
        if number is None or kinds[number] not in STATEFUL_LAYERS or hasattr(module, "scaling"):
            continue
        if not any(hasattr(child, "layer_idx") for child in module.modules() if child is not module):
            yield module
